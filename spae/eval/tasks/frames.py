"""Does a tokenizer of clips keep more of them than tokenizers of images of their frames, in as many words?"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from spae.configs import Config, Count
from spae.data import open_data
from spae.eval.images import spread, stack
from spae.eval.run import Measured, Run
from spae.eval.statistics import mean
from spae.eval.table import markdown, shown
from spae.metrics import psnr, temporal_difference_error
from spae.tokenizers import SPAE, Tokenizer
from spae.tokenizers.batches import decode_all, encode_all

ABOUT = "Clips beside their frames as images, at equal numbers of words."
USES_LLM = False
_OWN = "own weights"


@dataclass(frozen=True)
class Frames(Config):
    """data, split: see `open_data`, clips. clips: how many, evenly spread. images: tokenizers of images, by
    name, of the frames' size."""

    section = "frames"

    data: str
    split: str = "test"
    clips: Count = 64
    images: tuple[str, ...] = ("mnist",)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="clips, as for training (open_data)")
    parser.add_argument("--split", default="test", help="(default: test)")
    parser.add_argument("--clips", type=int, default=Frames.clips, help="evenly spread (default: 64)")
    parser.add_argument(
        "--images",
        nargs="*",
        metavar="MODEL",
        default=list(Frames.images),
        help="tokenizers of images of the frames' size (default: mnist)",
    )


def settings(arguments: argparse.Namespace) -> Frames:
    return Frames(arguments.data, arguments.split, arguments.clips, tuple(arguments.images))


def measure(run: Run) -> Measured:
    """PSNR and temporal difference error of clips from 1..L layers: from the tokenizer's words, and from
    words of frames as images: of every frame; or of key frames, as many as there are latent frames, evenly
    from the first to the last, the others taken from the nearest of them or crossfaded between both. Beside
    the named tokenizers of images stands the one of clips itself, if it is causal: a frame is a clip of one.

    Raises ValueError for a model of images, and for one of `images` that is of another size.
    """
    chosen: Frames = run.settings
    shape = run.model.config.image_size
    if len(shape) != 3:
        raise ValueError(f"model: expected one of clips, got one of {shape}")
    readers = {name: Tokenizer.from_pretrained(name) for name in chosen.images}
    for name, reader in readers.items():
        if reader.config.image_size != shape[1:]:
            raise ValueError(
                f"images: expected tokenizers of {shape[1:]}, got {name} of {reader.config.image_size}"
            )
    dataset = spread(open_data(chosen.data, chosen.split, image_size=shape), chosen.clips)
    clips = stack(dataset, range(len(dataset)))
    tokens = encode_all(run.model, clips)
    own = (decode_all(run.model, tokens.upto(n)) for n in range(1, tokens.num_layers + 1))
    rows = list(_rows("clips", run.model, own, clips, 1))
    keys = run.model.pyramid.shape[0]
    schedules = {"every frame": shape[0], "key frames": keys, "key frames, crossfaded": keys}
    for name, reader in {**readers, **_of_one_frame(run.model)}.items():
        seen = [_by_frame(reader, clips, number) for number in range(1, reader.pyramid.num_layers + 1)]
        for schedule, count in schedules.items():
            made = (frames if count == shape[0] else _between(frames, keys, schedule) for frames in seen)
            rows += _rows(f"{schedule}: {name}", reader, made, clips, count)
    return Measured({"run": asdict(chosen), "clips": len(clips), "rows": rows})


def _rows(
    method: str, model: Tokenizer, made: Iterator[Tensor], clips: Tensor, times: int
) -> Iterator[dict[str, Any]]:
    """One for each number of layers. times: how often a clip is encoded, i.e. frames."""
    sizes = zip(model.pyramid.tokens_per_layer, model.vocabulary_sizes, strict=True)
    bits = list(accumulate(count * math.log2(size) for count, size in sizes))
    for number, (again, of_one) in enumerate(zip(made, bits, strict=True), 1):
        yield {
            "method": method,
            "layers": number,
            "words": times * model.pyramid.num_tokens_upto(number),
            "bits": times * of_one,
            "psnr": mean(psnr(clips, again))._asdict(),
            "temporal_difference_error": mean(temporal_difference_error(clips, again))._asdict(),
        }


def _of_one_frame(model: Tokenizer) -> dict[str, Tokenizer]:
    if not isinstance(model, SPAE) or not model.config.causal:
        return {}
    grids = [(1, *grid[1:]) for grid in model.pyramid.grids]
    return {_OWN: model.resized((1, *model.config.image_size[1:]), grids)}


def _by_frame(model: Tokenizer, clips: Tensor, layers: int) -> Tensor:
    """Clips [N, C, T, H, W] of which each frame is encoded and decoded by itself."""
    frames = clips.transpose(1, 2).flatten(0, 1)
    single = len(model.config.image_size) == 3
    images = frames[:, :, None] if single else frames
    again = decode_all(model, encode_all(model, images).upto(layers))
    again = again[:, :, 0] if single else again
    return again.unflatten(0, (len(clips), -1)).transpose(1, 2)


def _between(frames: Tensor, keys: int, schedule: str) -> Tensor:
    """Clips [N, C, T, H, W] whose frames come from `keys` of them, evenly from the first to the last."""
    total = frames.shape[2]
    places = torch.linspace(0, total - 1, keys).round().long()
    after = torch.searchsorted(places, torch.arange(total)).clamp(min=1)
    low, high = places[after - 1], places[after]
    share = (torch.arange(total) - low) / (high - low)
    if schedule == "key frames":
        share = (share > 0.5).float()
    return torch.lerp(frames[:, :, low], frames[:, :, high], share[:, None, None].to(frames))


def table(report: dict[str, Any]) -> str:
    """Every method's numbers of layers, with 95% intervals."""
    rows = [
        [
            row["method"],
            str(row["layers"]),
            str(row["words"]),
            f"{row['bits']:.0f}",
            shown(row["psnr"]),
            shown(row["temporal_difference_error"], 4),
        ]
        for row in report["rows"]
    ]
    note = (
        f"{report['clips']} clips; means with 95% intervals; {_OWN}: the tokenizer of clips itself, of clips "
        "of one frame"
    )
    return markdown(
        ["method", "layers", "words", "bits", "PSNR (dB)", "temporal difference error"], rows, note
    )
