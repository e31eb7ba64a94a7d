"""The one door to data: whatever a specification names, as items of one form."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from spae.data.images import Size, check_shape
from spae.data.kinds import SHARD, SOURCES, SPLITS, Unsplit
from spae.data.packaged import check_choice
from spae.data.sets import SETS
from spae.data.views import Views

_SHARES = {"train": 0.8, "dev": 0.9, "test": 1.0}  # each reaches up to here

Spec = str | Path | Mapping[str, Any]


class Item(NamedTuple):
    """image: float32 [C, *image_size] in [-1, 1]. caption: "" for none. label: the class, -1 for none. key:
    what the item is called in its source."""

    image: Tensor
    caption: str
    label: int
    key: str


class Images(Dataset[Item]):
    """The items of a source, or the rows of it that make a split.

    Attributes:
        source: the source's own dataset, with what else it knows.
        rows: N row numbers in the source.
        captions: N strings. Items without one have the name of their class with spaces for underscores, or
            "".
        labels: int64 [N], -1 for none.
        keys: N strings.
        classes: names of the classes; none if they are not known.
    """

    def __init__(
        self,
        source: Any,
        rows: Sequence[int] | None = None,
        *,
        classes: Sequence[str] = (),
        shape: tuple[int, ...] | None = None,
        renamed: Mapping[str, str] | None = None,
    ):
        self.source, self.shape = source, shape
        self.rows = range(len(source)) if rows is None else rows
        self.classes = tuple(classes or getattr(source, "classes", None) or ())
        labels = np.asarray(_listed(source, "labels", -1))
        self.labels = (labels if labels.ndim == 1 else np.full(len(source), -1))[list(self.rows)]
        keys, captions = _listed(source, "keys", None), _listed(source, "captions", "")
        self.keys = [str(row) if keys[row] is None else str(keys[row]) for row in self.rows]
        self.captions = [
            captions[row] or self._name(label) for row, label in zip(self.rows, self.labels, strict=True)
        ]
        if renamed:
            self.captions = [renamed.get(caption, caption) for caption in self.captions]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        sample = self.source[self.rows[index]]
        image: Tensor = sample[0] if isinstance(sample, tuple | list) else sample
        key = self.keys[index]
        if self.shape is not None and tuple(image.shape[1:]) != self.shape:
            raise ValueError(
                f"{key}: expected an image [C, {', '.join(map(str, self.shape))}], got {list(image.shape)}"
            )
        return Item(image, self.captions[index], int(self.labels[index]), key)

    @property
    def processor(self) -> Any:
        """What made the images of other things, such as sound; None for pictures."""
        return getattr(self.source, "processor", None)

    def _name(self, label: int) -> str:
        return self.classes[label].replace("_", " ") if 0 <= label < len(self.classes) else ""


def open_data(spec: Spec, split: str | None = "train", *, image_size: Size | None = None) -> Images | Views:
    """The data that a specification names, for training and evaluation alike: `Item`s of known number.

    Args:
        spec: a string "KIND:PLACE", the name of a packaged set, or the path of a folder or of shards; or a
            mapping with exactly one KIND: PLACE, also as a string of JSON. The kinds are
            "name": a packaged set (`spae.data.SETS`), whose splits and options are its own;
            "folder": a folder of image files, with class folders, captions (`ImageFolder`), or both; in it,
            folders for the splits, e.g. ImageNet's;
            "frames": a folder of folders, each of which holds a clip's frames as image files
            (`spae.data.frames.FrameFolders`); splits as of "folder";
            "videos": a folder of video files, otherwise as "folder" (`spae.data.videos.VideoFolder`, PyAV);
            "tar": webdataset's shards, `.tar` or `.tar.gz` (`TarShards`): a pattern, in which "{split}" is
            replaced, or a folder of files whose names begin with the splits';
            "hf": a Hugging Face data set by its name on the hub, or its folder; options "image", "label" and
            "caption" name columns;
            "cifar10": CIFAR-10's official archive for Python, or the folder in it;
            "wav": a folder of WAV files, otherwise as "folder", as spectrograms (`SoundProcessor`);
            "spoken-digits": the Free Spoken Digit Dataset, an archive or a folder (`SpokenDigits`);
            and what was added with `register`.
            Besides, a mapping may say "train", "dev" and "test", what the splits are called there; "classes",
            the names of the classes; "captions", others for some captions, as {"sneaker": "shoe"}; "views",
            arguments of `Views` for the training images; and the options of its kind.
        split: "train", "dev", "test", or another that the source knows; None: all of a source that has no
            splits. Where a folder, shards or a saved data set have none, items fall to "train", "dev" and
            "test" by the SHA-256 of their keys, 80, 10 and 10 of 100: an item never moves, whatever else is
            added.
        image_size: pixels a side; (height, width); or (frames, height, width) for video. By default what the
            source has, or 128.

    Raises:
        ValueError: another specification, an unknown split, option or size, or no image in the split. The
            message names the file and what was expected. Damaged images raise when they are read.
        FileNotFoundError: no such folder or file.
        ImportError, AssetNotCached, AssetError: as the source says.
    """
    if not isinstance(split, str | None):
        raise ValueError(f"split: expected a name or None, got {split!r}")
    kind, place, options = parse(spec)
    views, classes = options.pop("views", None), options.pop("classes", ())
    renamed = options.pop("captions", None)
    names = {name: options.pop(name) for name in SPLITS if name in options}
    _check_entries(names, classes, views, renamed)
    opener = SOURCES[kind]
    known = [p.name for p in inspect.signature(opener).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if kind != "name" and (unknown := sorted(set(options) - set(known))):
        raise ValueError(f"data: expected {', '.join(known) or 'no option'} beside {kind!r}, got {unknown}")
    shape = None if image_size is None else check_shape(image_size)
    opened = opener(place, names.get(split, split) if split else None, shape, **options)
    if isinstance(opened, Unsplit):
        dataset = opened.dataset
        rows = None if split is None else automatic_split(_listed(dataset, "keys", None), split)
    else:
        dataset, rows = opened, None
    images = Images(dataset, rows, classes=classes, shape=shape, renamed=renamed)
    return images if views is None or split != "train" else Views(images, **views)


def parse(spec: Spec) -> tuple[str, str, dict[str, Any]]:
    """A specification's kind, place and options. Raises ValueError for another one."""
    if isinstance(spec, str) and spec.lstrip().startswith("{"):
        try:
            spec = json.loads(spec)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"data: expected a mapping in JSON, got {spec!r:.80} ({error})") from error
    if isinstance(spec, str | Path):
        kind, colon, place = str(spec).partition(":")
        if colon and kind in SOURCES:
            return kind, place, {}
        if spec in SETS:
            return "name", str(spec), {}
        if Path(spec).is_dir():
            holds_shards = any(SHARD.search(path.name) for path in Path(spec).iterdir())
            return "tar" if holds_shards else "folder", str(spec), {}
        if SHARD.search(str(spec)):
            return "tar", str(spec), {}
        kinds = ", ".join(f"{kind}:PLACE" for kind in SOURCES if kind != "name")
        raise ValueError(f"data: expected one of {', '.join(SETS)}, {kinds} or a folder, got {str(spec)!r}")
    if not isinstance(spec, Mapping):
        raise ValueError(f"data: expected a string or a mapping, got {spec!r}")
    options = dict(spec)
    kinds = [kind for kind in SOURCES if kind in options]
    if len(kinds) != 1:
        raise ValueError(f"data: expected exactly one of {', '.join(SOURCES)}, got {sorted(options)}")
    place = options.pop(kinds[0])
    if not isinstance(place, str | Path) or not str(place):
        raise ValueError(f"data.{kinds[0]}: expected a name or path, got {place!r}")
    return kinds[0], str(place), options


def _check_entries(names: Mapping[str, Any], classes: Any, views: Any, renamed: Any) -> None:
    for split, name in names.items():
        if not isinstance(name, str):
            raise ValueError(f"data.{split}: expected the name of a split, got {name!r}")
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"data.classes: expected a list of names, got {classes!r}")
    if renamed is not None and not (
        isinstance(renamed, Mapping) and all(isinstance(caption, str) for caption in renamed.values())
    ):
        raise ValueError(f"data.captions: expected a mapping of captions to captions, got {renamed!r}")
    if views is not None:
        if not isinstance(views, Mapping):
            raise ValueError(f"data.views: expected arguments of Views, got {views!r}")
        known = list(inspect.signature(Views).parameters)[1:]
        if (unknown := sorted(set(views) - set(known))) or "count" not in views:
            raise ValueError(f"data.views: expected {', '.join(known)}, got {unknown or sorted(views)}")


def automatic_split(keys: Sequence[Any], split: str) -> list[int]:
    """The rows whose keys fall to a split, by the SHA-256 of the key (of the row's number, if it is None).

    Raises ValueError for another split than `SPLITS`, and if no row falls to it.
    """
    check_choice("split", split, SPLITS)
    rows = [row for row, key in enumerate(keys) if _part(str(row if key is None else key)) == split]
    if not rows:
        raise ValueError(
            f"split: expected images that fall to {split!r} of the automatic splits, got none among "
            f"{len(keys)}; more images are needed, or folders train/ and test/"
        )
    return rows


def _part(key: str) -> str:
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return next(split for split, end in _SHARES.items() if place < end)


def _listed(source: Any, name: str, default: Any) -> Sequence[Any]:
    """What a source says of its items, with the default for each if it says nothing."""
    values = getattr(source, name, None)
    if values is None:
        return [default] * len(source)
    if len(values) != len(source):
        raise ValueError(f"{name}: expected one for each of the {len(source)} items, got {len(values)}")
    return values
