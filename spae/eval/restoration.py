"""What the evaluations of restored images share (`spae.eval.tasks.denoise`, `.outpaint`)."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from spae import data
from spae.codebook import WordIds
from spae.data.open import parse
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
from spae.metrics import psnr, ssim, temporal_difference_error
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
_PRIOR = 200
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


class Subject(Protocol):
    """What a run is about; see `Restoration`. layers: how many are generated; None: all."""

    @property
    def data(self) -> str: ...
    @property
    def images(self) -> int: ...
    @property
    def layers(self) -> int | None: ...
    @property
    def seed(self) -> int: ...


class Restored(NamedTuple):
    """images: [N, C, H, W] in [-1, 1], or clips [N, C, T, H, W]. tokens: theirs, where they were made of
    tokens."""

    images: Tensor
    tokens: PyramidTokens | None = None


class Lab:
    """The images of a run, and what is measured on them.

    originals: [N, C, H, W] (clips [N, C, T, H, W]), what is restored; tokens: theirs, of the layers that are
    generated. pool: the data set that examples come from; prior: tokens of up to 200 of its images. The
    language model may write the words that occur in these, layer by layer.
    """

    def __init__(self, run: Run) -> None:
        chosen: Subject = run.settings
        self.run, self.model, self.chosen = run, run.model, chosen
        model = run.model
        self.pool, asked = _opened(chosen.data, model.config.image_size)
        if chosen.images > len(asked):
            raise ValueError(f"images: expected at most {len(asked)}, got {chosen.images}")
        items = random.Random(f"{chosen.seed} images").sample(range(len(asked)), chosen.images)
        self.layers = model.pyramid.num_layers if chosen.layers is None else chosen.layers
        self.originals = stack(asked, items)
        self._labels = torch.as_tensor(asked.labels)[items]
        self.tokens = encode_all(model, self.originals).upto(self.layers)
        count = min(_PRIOR, len(self.pool))
        prior_items = random.Random(chosen.seed).sample(range(len(self.pool)), count)
        self.prior = encode_all(model, stack(self.pool, prior_items))
        self._masks = seen_masks(self.prior, len(model.codebook))
        self.lexicon = Lexicon.of(model, run.asked, self._masks)

    @cached_property
    def classifier(self) -> Classifier | None:
        """Reads the class of an image; None of clips, and where the data has no classes, or others in the two
        splits."""
        if self.originals.ndim > 4:
            return None
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
        chosen: Restoration = self.chosen  # type: ignore[assignment]
        return chosen.decode(self.run.asked, task, queries, self.lexicon, log=self.log, seed=self.chosen.seed)

    def restored(self, tokens: PyramidTokens) -> Restored:
        return Restored(decode_all(self.model, tokens), tokens)

    def completed(self, tokens: PyramidTokens, hidden: Tensor) -> Restored:
        """With the originals' words where nothing is hidden, bool [n]."""
        return self.restored(replace(tokens, ids=torch.where(hidden, tokens.ids, self.tokens.ids)))

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
        self,
        task: str,
        methods: dict[str, Restored],
        region: Callable[[Tensor], Tensor] = lambda x: x,
        words: Tensor | None = None,
    ) -> list[dict[str, Any]]:
        """PSNR, SSIM (of clips the mean over frames, and the temporal difference error) of each method's
        images over a region of them, the share of whole images that a classifier reads as what the original
        is, and the share of the original's words, at all places or at those of `words`, bool [n]."""
        rows, wanted = [], region(self.originals)
        places = slice(None) if words is None else words
        for name, (images, tokens) in methods.items():
            made = region(images)
            quality = psnr(wanted, made).clamp(max=_NO_DIFFERENCE)
            row: dict[str, Any] = {"task": task, "method": name, "psnr": mean(quality)._asdict()}
            row["ssim"] = mean(_ssim(wanted, made))._asdict()
            if wanted.ndim == 5 and wanted.shape[2] > 1:
                changes = mean(temporal_difference_error(wanted, made))
                row["temporal_difference_error"] = changes._asdict()
            if (right := self._right(images)) is not None:
                row["read"] = right
            if tokens is not None:
                same = (tokens.ids == self.tokens.ids)[:, places].double().mean(1)
                share = mean(same)
                row["words"] = share._replace(low=max(0.0, share.low), high=min(1.0, share.high))._asdict()
            rows.append(row)
        return rows

    def measured(
        self,
        rows: list[dict[str, Any]],
        pages: list[tuple[str, dict[str, Restored]]],
        region: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Measured:
        """The report of all rows; its page shows a region of the first images, one part of it for each of
        `pages`."""
        report: dict[str, Any] = {"run": asdict(self.run.settings), "rows": rows}
        if (right := self._right(self.originals)) is not None:
            report["originals read"] = right
        return Measured(report, lambda path: self._draw(pages, path, region))

    def _right(self, images: Tensor) -> dict[str, float] | None:
        if self.classifier is None:
            return None
        right = self.classifier.predict(images) == self._labels
        return proportion(int(right.sum()), len(right))._asdict()

    def _draw(
        self,
        pages: list[tuple[str, dict[str, Restored]]],
        path: Path,
        region: Callable[[Tensor], Tensor],
    ) -> None:
        pictures, titles = [], []
        rows = _PAGE_ROWS if self.originals.ndim == 4 else _PAGE_ROWS // 2  # which are higher
        each = min(max(1, rows // len(pages)), self.chosen.images)
        for title, methods in pages:
            columns = {title: Restored(self.originals), **methods}
            if "degraded" in methods:  # beside the original
                columns = {title: columns[title], "degraded": columns["degraded"], **columns}
            shown_images = {name: region(images) for name, (images, _) in columns.items()}
            for i in range(each):
                pictures += [_still(images[i]) for images in shown_images.values()]
                titles += list(columns) if i == 0 else [""] * len(columns)
        columns = len(titles) // (len(pages) * each)
        picture_grid(torch.stack(pictures), titles, path, columns=columns, width=1.35)


def restoration_table(report: dict[str, Any], how: str = "") -> str:
    """Means over images with 95% intervals. how: the note's words for how it was done."""
    # Earlier reports have fewer measures.
    columns = {name: title for name, title in _COLUMNS.items() if any(name in row for row in report["rows"])}
    rows = [
        [
            row["task"],
            row["method"],
            *(shown(row[name], _DECIMALS.get(name, 2)) if name in row else "" for name in columns),
        ]
        for row in report["rows"]
    ]
    run = report["run"]
    how = how or f"{run['condition_layers']} layers shown, {described(run)}"
    note = (
        f"{report['llm']}, {run['images']} {_called(run['data'])}, {how}, seed {run['seed']}; means over "
        "images with 95% intervals."
    )
    if "originals read" in report:
        note += f" Of the originals {shown(report['originals read'])} are read as what they are."
    return markdown(["task", "method", *columns.values()], rows, note)


_COLUMNS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "temporal_difference_error": "temporal difference error",
    "read": "read right",
    "words": "share of the original's words",
}
_DECIMALS = {"temporal_difference_error": 4}


def _called(spec: str) -> str:
    """Data in a sentence: of a mapping only what it names."""
    return parse(spec)[1] if spec.lstrip().startswith("{") else spec


def _ssim(images: Tensor, others: Tensor) -> Tensor:
    """Of clips the mean over their frames."""
    if images.ndim == 4:
        return ssim(images, others)
    frames = (clips.transpose(1, 2).flatten(0, 1) for clips in (images, others))
    return ssim(*frames).reshape(len(images), -1).mean(1)


def _still(image: Tensor) -> Tensor:
    """An image [C, H, W] as it is; of a clip [C, T, H, W] the first, the middle and the last frame below each
    other, a white line between."""
    if image.ndim == 3:
        return image
    places = sorted({0, image.shape[1] // 2, image.shape[1] - 1})
    frames = F.pad(image[:, places], (0, 0, 0, 1), value=1.0).flatten(1, 2)
    return frames[:, :-1]


def _opened(name: str, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """The data that examples are drawn from, and that which is restored."""
    if name not in DATA:
        shown_data, asked = (data.open_data(name, split, image_size=shape) for split in ("train", "test"))
        return shown_data, asked
    if len(shape) != 2:
        raise ValueError(f"data: expected clips (spae.data.open_data), for a model of {shape}, got {name!r}")
    of, *splits = DATA[name]
    shown_data, asked = (data.load(of, split, size=shape[0]) for split in splits)
    return shown_data, asked


def join(parts: list[PyramidTokens]) -> PyramidTokens:
    return PyramidTokens(torch.cat([part.ids for part in parts]), parts[0].pyramid)
