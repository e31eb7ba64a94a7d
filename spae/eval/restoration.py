"""What the evaluations of restored images share (`spae.eval.tasks.denoise`, `.outpaint`)."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spae import data
from spae.eval.drawing import Drawing, add_drawing, described
from spae.eval.images import stack
from spae.eval.run import Measured, Run
from spae.eval.statistics import mean
from spae.eval.table import markdown, shown
from spae.figures import picture_grid
from spae.incontext import Example, Lexicon, Task
from spae.incontext.lexicon import seen_masks
from spae.metrics import psnr
from spae.tokenizers import PyramidTokens
from spae.tokenizers.batches import decode_all, encode_all

# The split that examples are drawn from, and the one that is restored.
DATA = {"digits": ("mnist", "train", "test"), "emoji": ("emoji", "train", "new_both")}
_PAGE_ROWS = 6
_PRIOR = 200  # images; the language model may write the words that occur in them, layer by layer
_NO_DIFFERENCE = 60.0  # dB; where nothing differs PSNR has no value


@dataclass(frozen=True, kw_only=True)
class Restoration(Drawing):
    """What is restored.

    data: one of `DATA`. images: how many. layers: how many are generated; None means all of the pyramid's.
    condition_layers: how many of the degraded image the model is shown.
    """

    data: str = "digits"
    images: int = 20
    layers: int | None = None
    condition_layers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data not in DATA:
            raise ValueError(f"data: expected one of {sorted(DATA)}, got {self.data!r}")
        for name, least in (("images", 2), ("layers", 1), ("condition_layers", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")


def add_restoration(parser: argparse.ArgumentParser, defaults: Restoration) -> None:
    """The options for the fields of `Restoration`."""
    parser.add_argument("--data", default=defaults.data, help="digits (default) or emoji")
    parser.add_argument(
        "--images",
        type=int,
        default=defaults.images,
        help=f"how many are restored (default: {defaults.images})",
    )
    parser.add_argument("--layers", type=int, help="layers generated (default: all)")
    parser.add_argument(
        "--condition-layers",
        type=int,
        default=defaults.condition_layers,
        help=f"layers of the degraded image shown (default: {defaults.condition_layers})",
    )
    add_drawing(parser, defaults)


def restoration_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Restoration` that the options name."""
    return {field.name: getattr(arguments, field.name) for field in fields(Restoration)}


class Restored(NamedTuple):
    """images: [N, C, H, W] in [-1, 1]. tokens: theirs, where they were made of tokens."""

    images: Tensor
    tokens: PyramidTokens | None = None


class Lab:
    """The images of a run, and what is measured on them.

    originals: [N, C, H, W], what is restored; tokens: theirs, of the layers that are generated. pool: the
    data set that examples come from.
    """

    def __init__(self, run: Run) -> None:
        chosen: Restoration = run.settings
        name, shown_split, asked_split = DATA[chosen.data]
        self.run, self.model, self.chosen = run, run.model, chosen
        model = run.model
        self.pool = data.load(name, shown_split, size=run.size)
        asked = data.load(name, asked_split, size=run.size)
        if chosen.images > len(asked):
            raise ValueError(f"images: expected at most {len(asked)}, got {chosen.images}")
        items = random.Random(f"{chosen.seed} images").sample(range(len(asked)), chosen.images)
        self.layers = model.pyramid.num_layers if chosen.layers is None else chosen.layers
        self.originals = stack(asked, items)
        self.tokens = encode_all(model, self.originals).upto(self.layers)
        prior_items = random.Random(chosen.seed).sample(range(len(self.pool)), _PRIOR)
        prior = encode_all(model, stack(self.pool, prior_items))
        self._masks = seen_masks(prior, len(model.codebook))
        self.lexicon = Lexicon.of(model, run.asked, self._masks)

    def decode(self, task: Task, queries: list[Example]) -> PyramidTokens:
        log = self.run.folder / "segments.jsonl"
        return self.chosen.decode(
            self.run.asked, task, queries, self.lexicon, log=log, num_layers=self.layers
        )

    def restored(self, tokens: PyramidTokens) -> Restored:
        return Restored(decode_all(self.model, tokens), tokens)

    def nearest(self, candidates: list[tuple[int, ...]], i: int) -> tuple[int, ...]:
        """The candidate whose image is most like original i."""
        images = decode_all(self.model, self.lexicon.tokens(candidates))
        return candidates[int(psnr(self.originals[i].expand_as(images), images).argmax())]

    def limits(self) -> dict[str, Restored]:
        generator = torch.Generator().manual_seed(self.chosen.seed)
        ids = torch.cat(
            [
                mask.nonzero()[:, 0][torch.randint(int(mask.sum()), layer.shape, generator=generator)]
                for mask, layer in zip(self._masks, self.tokens.layers(), strict=False)
            ],
            dim=1,
        )
        words = PyramidTokens(ids, self.model.pyramid)
        return {"random words": self.restored(words), "own words": self.restored(self.tokens)}

    def rows(
        self, task: str, methods: dict[str, Restored], region: Callable[[Tensor], Tensor] = lambda x: x
    ) -> list[dict[str, Any]]:
        """PSNR of each method's images over a region of them, and the share of the original's words."""
        rows = []
        for name, (images, tokens) in methods.items():
            quality = psnr(region(self.originals), region(images)).clamp(max=_NO_DIFFERENCE)
            row: dict[str, Any] = {"task": task, "method": name, "psnr": mean(quality)._asdict()}
            if tokens is not None:
                same = (tokens.ids == self.tokens.ids).double().mean(1)
                share = mean(same)
                row["words"] = share._replace(low=max(0.0, share.low), high=min(1.0, share.high))._asdict()
            rows.append(row)
        return rows

    def measured(self, rows: list[dict[str, Any]], pages: list[tuple[str, dict[str, Restored]]]) -> Measured:
        """The report of all rows; its page shows the first images, one part of it for each of `pages`."""
        report = {"run": asdict(self.chosen), "rows": rows}
        return Measured(report, lambda path: self._draw(pages, path))

    def _draw(self, pages: list[tuple[str, dict[str, Restored]]], path: Path) -> None:
        pictures, titles = [], []
        each = min(max(1, _PAGE_ROWS // len(pages)), self.chosen.images)
        for title, methods in pages:
            columns = {title: Restored(self.originals), "degraded": methods["degraded"], **methods}
            for i in range(each):
                pictures += [images[i] for images, _ in columns.values()]
                titles += list(columns) if i == 0 else [""] * len(columns)
        columns = len(titles) // (len(pages) * each)
        picture_grid(torch.stack(pictures), titles, path, columns=columns, width=1.35)


def restoration_table(report: dict[str, Any]) -> str:
    """Means over images with 95% intervals."""
    rows = [
        [row["task"], row["method"], shown(row["psnr"]), shown(row["words"]) if "words" in row else ""]
        for row in report["rows"]
    ]
    run = report["run"]
    note = (
        f"{report['llm']}, {run['images']} {run['data']}, {run['condition_layers']} layers shown, "
        f"{described(run)}, seed {run['seed']}; means over images with 95% intervals."
    )
    return markdown(["task", "method", "PSNR (dB)", "share of the original's words"], rows, note)


def join(parts: list[PyramidTokens]) -> PyramidTokens:
    return PyramidTokens(torch.cat([part.ids for part in parts]), parts[0].pyramid)
