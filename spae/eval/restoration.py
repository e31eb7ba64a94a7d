"""What the evaluations of restored images share (`spae.eval.tasks.denoise`, `.outpaint`)."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spae import data
from spae.codebook import WordIds
from spae.eval.classifier import Classifier, DigitClassifier, FeatureClassifier
from spae.eval.drawing import Drawing, add_drawing, described
from spae.eval.images import stack
from spae.eval.labelled import check_data
from spae.eval.run import Measured, Run
from spae.eval.statistics import mean, proportion
from spae.eval.table import markdown, shown
from spae.figures import picture_grid
from spae.incontext import Example, Lexicon, Task
from spae.incontext.lexicon import seen_masks
from spae.metrics import psnr, ssim
from spae.tokenizers import PyramidTokens
from spae.tokenizers.batches import decode_all, encode_all

# The split that examples are drawn from, and the one that is restored. Of other data: "train" and "test".
DATA = {
    "digits": ("mnist", "train", "test"),
    "garments": ("fashion", "train", "test"),
    "emoji": ("emoji", "train", "new_both"),
}
_LEARNT = 2000  # images of the pool that a classifier of features is fitted to
_PAGE_ROWS = 6
_PRIOR = 200  # images; the language model may write the words that occur in them, layer by layer
_NO_DIFFERENCE = 60.0  # dB; where nothing differs PSNR has no value


@dataclass(frozen=True, kw_only=True)
class Restoration(Drawing):
    """What is restored.

    data: one of `DATA`, or what `spae.data.open_data` opens. images: how many. condition_layers: how many
    layers of the degraded image the model is shown.
    """

    data: str = "digits"
    images: int = 20
    condition_layers: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_data(self.data, DATA)
        for name, least in (("images", 2), ("condition_layers", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")


def add_restoration(parser: argparse.ArgumentParser, defaults: Restoration) -> None:
    """The options for the fields of `Restoration`."""
    parser.add_argument(
        "--data",
        default=defaults.data,
        help="digits (default), garments, emoji, or any data as for training: a folder, shards, ..",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=defaults.images,
        help=f"how many are restored (default: {defaults.images})",
    )
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
        self.run, self.model, self.chosen = run, run.model, chosen
        model = run.model
        self.pool, asked = _opened(chosen.data, run.size)
        if chosen.images > len(asked):
            raise ValueError(f"images: expected at most {len(asked)}, got {chosen.images}")
        items = random.Random(f"{chosen.seed} images").sample(range(len(asked)), chosen.images)
        self.layers = model.pyramid.num_layers if chosen.layers is None else chosen.layers
        self.originals = stack(asked, items)
        self._labels = torch.as_tensor(asked.labels)[items]
        self.tokens = encode_all(model, self.originals).upto(self.layers)
        count = min(_PRIOR, len(self.pool))
        prior_items = random.Random(chosen.seed).sample(range(len(self.pool)), count)
        prior = encode_all(model, stack(self.pool, prior_items))
        self._masks = seen_masks(prior, len(model.codebook))
        self.lexicon = Lexicon.of(model, run.asked, self._masks)

    @cached_property
    def classifier(self) -> Classifier | None:
        """Reads the class of an image; None where the data has no classes, or others in the two splits."""
        if self.chosen.data == "digits":
            return DigitClassifier()
        labels = torch.as_tensor(self.pool.labels)
        if self.chosen.data == "emoji" or min(int(labels.min()), int(self._labels.min())) < 0:
            return None
        count = min(_LEARNT, len(self.pool))
        items = random.Random(f"{self.chosen.seed} classes").sample(range(len(self.pool)), count)
        return FeatureClassifier(stack(self.pool, items), labels[items])

    @property
    def log(self) -> Path:
        """Where what is generated is kept."""
        return self.run.folder / "segments.jsonl"

    def decode(self, task: Task, queries: list[Example]) -> PyramidTokens:
        return self.chosen.decode(
            self.run.asked, task, queries, self.lexicon, log=self.log, seed=self.chosen.seed
        )

    def restored(self, tokens: PyramidTokens) -> Restored:
        return Restored(decode_all(self.model, tokens), tokens)

    def nearest(self, candidates: Sequence[tuple[WordIds, ...]], i: int) -> tuple[WordIds, ...]:
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
        """PSNR and SSIM of each method's images over a region of them, the share of whole images that a
        classifier reads as what the original is, and the share of the original's words."""
        rows = []
        for name, (images, tokens) in methods.items():
            quality = psnr(region(self.originals), region(images)).clamp(max=_NO_DIFFERENCE)
            row: dict[str, Any] = {"task": task, "method": name, "psnr": mean(quality)._asdict()}
            row["ssim"] = mean(ssim(region(self.originals), region(images)))._asdict()
            if (right := self._right(images)) is not None:
                row["read"] = right
            if tokens is not None:
                same = (tokens.ids == self.tokens.ids).double().mean(1)
                share = mean(same)
                row["words"] = share._replace(low=max(0.0, share.low), high=min(1.0, share.high))._asdict()
            rows.append(row)
        return rows

    def measured(self, rows: list[dict[str, Any]], pages: list[tuple[str, dict[str, Restored]]]) -> Measured:
        """The report of all rows; its page shows the first images, one part of it for each of `pages`."""
        report: dict[str, Any] = {"run": asdict(self.chosen), "rows": rows}
        if (right := self._right(self.originals)) is not None:
            report["originals read"] = right
        return Measured(report, lambda path: self._draw(pages, path))

    def _right(self, images: Tensor) -> dict[str, float] | None:
        if self.classifier is None:
            return None
        right = self.classifier.predict(images) == self._labels
        return proportion(int(right.sum()), len(right))._asdict()

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


def restoration_table(report: dict[str, Any], how: str = "") -> str:
    """Means over images with 95% intervals. how: the note's words for how it was done."""
    # Earlier reports have fewer measures.
    columns = {name: title for name, title in _COLUMNS.items() if any(name in row for row in report["rows"])}
    rows = [
        [row["task"], row["method"], *(shown(row[name]) if name in row else "" for name in columns)]
        for row in report["rows"]
    ]
    run = report["run"]
    how = how or f"{run['condition_layers']} layers shown, {described(run)}"
    note = (
        f"{report['llm']}, {run['images']} {run['data']}, {how}, seed {run['seed']}; means over images with "
        "95% intervals."
    )
    if "originals read" in report:
        note += f" Of the originals {shown(report['originals read'])} are read as what they are."
    return markdown(["task", "method", *columns.values()], rows, note)


_COLUMNS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "read": "read right",
    "words": "share of the original's words",
}


def _opened(name: str, size: int) -> tuple[Any, Any]:
    """The data that examples are drawn from, and that which is restored."""
    if name in DATA:
        of, *splits = DATA[name]
        shown_data, asked = (data.load(of, split, size=size) for split in splits)
    else:
        shown_data, asked = (data.open_data(name, split, image_size=size) for split in ("train", "test"))
    return shown_data, asked


def join(parts: list[PyramidTokens]) -> PyramidTokens:
    return PyramidTokens(torch.cat([part.ids for part in parts]), parts[0].pyramid)
