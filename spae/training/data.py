"""One way to every dataset that a training configuration can name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from spae import data
from spae.data import sources
from spae.data.views import Views

# What the splits are called where a specification does not say, by source.
_SPLITS = {
    "name": ("train", "test"),
    "folder": ("train", "test"),
    "shards": ("train-*.tar", "test-*.tar"),
    "huggingface": ("train", "test"),
}


def open_dataset(
    spec: str | Mapping[str, Any], split: Literal["train", "test"], *, image_size: tuple[int, ...]
) -> Dataset[Any]:
    """A dataset of (image float32 [C, *image_size] in [-1, 1], something) of known length.

    Args:
        spec: the name of a packaged set (`spae.data.load`), or a mapping with exactly one of
            "name": the same; all further entries but splits are arguments of that set;
            "folder": a folder of images, one subfolder a split, e.g. ImageNet's;
            "shards": a folder of uncompressed tar files, as webdataset writes them;
            "huggingface": a dataset by its hub name or folder; "image", "label" and "caption" name
            its columns;
            "views": with any of them, the arguments of `Views` for the training set, e.g. {"count": 8};
            "train" and "test" say what the splits are called there: subfolders, patterns of file names (by
            default "train-*.tar" and "test-*.tar"), names of splits.
        split: "train", or "test" for held-out images.
        image_size: (height, width) to bring images to; square.

    Raises ValueError for another spec, and what the dataset itself raises.
    """
    entries: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    found = [source for source in _SPLITS if source in entries]
    if len(found) != 1:
        raise ValueError(f"data: expected exactly one of {', '.join(_SPLITS)}, got {sorted(entries)}")
    if split not in ("train", "test"):
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    source = found[0]
    views = entries.pop("views", None)
    if views is not None and split == "train":
        return Views(open_dataset(entries, split, image_size=image_size), **views)
    where = entries.pop(source)
    names = {
        key: entries.pop(key, default)
        for key, default in zip(("train", "test"), _SPLITS[source], strict=True)
    }
    if len(set(image_size)) != 1:
        raise ValueError(f"image_size: data sets give square images, got {tuple(image_size)}")
    size = image_size[0]
    if source == "name":
        return data.load(where, names[split], size=size, **entries)
    allowed = {"image", "label", "caption"} if source == "huggingface" else set()
    if unknown := sorted(set(entries) - allowed):
        raise ValueError(f"data: unknown entries {unknown} beside {source!r}")
    if source == "folder":
        return sources.ImageFolder(Path(where) / names[split], size)
    if source == "shards":
        return sources.TarShards(Path(where) / names[split], size)
    return sources.HuggingFaceImages.load(where, names[split], size, **entries)
