"""One way to every dataset that a training configuration can name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from spae.data.views import Views

_SOURCES = ("name", "folder", "shards", "huggingface")
_SPLITS = {"shards": ("train-*.tar", "test-*.tar")}


def open_dataset(
    spec: str | Mapping[str, Any], split: Literal["train", "test"], *, image_size: tuple[int, ...]
) -> Dataset[Any]:
    """A dataset of (image float32 [C, *image_size] in [-1, 1], something) of known length.

    Args:
        spec: the name of a packaged set (`spae.data.load`), or a mapping with exactly one of
            "name": the same; all further entries but splits are arguments of that set;
            "folder": a folder of images, one subfolder a split, e.g. ImageNet's;
            "shards": a folder of uncompressed tar files, as webdataset writes them;
            "huggingface": a dataset by its hub name or folder; "image" and "label" name its columns.
            "views": with any of them, the arguments of `Views` for the training set, e.g. {"count": 8};
            "train" and "test" say what the splits are called there: subfolders, patterns of file names (by
            default "train-*.tar" and "test-*.tar"), names of splits.
        split: "train", or "test" for held-out images.
        image_size: (height, width) to bring images to.

    Raises ValueError for another spec, and what the dataset itself raises.
    """
    entries = {"name": spec} if isinstance(spec, str) else dict(spec)
    sources = [source for source in _SOURCES if source in entries]
    if len(sources) != 1:
        raise ValueError(f"data: expected exactly one of {', '.join(_SOURCES)}, got {sorted(entries)}")
    if split not in ("train", "test"):
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    source = sources[0]
    views = entries.pop("views", None)
    if views is not None and split == "train":
        return Views(open_dataset(entries, split, image_size=image_size), **views)
    where = entries.pop(source)
    names = dict(zip(("train", "test"), _SPLITS.get(source, ("train", "test")), strict=True))
    names |= {key: entries.pop(key) for key in ("train", "test") if key in entries}
    if source == "name":
        return _packaged(where, names[split], image_size, entries)
    allowed = {"image", "label"} if source == "huggingface" else set()
    if unknown := sorted(set(entries) - allowed):
        raise ValueError(f"data: unknown entries {unknown} beside {source!r}")

    from spae.data import user

    if source == "folder":
        return user.ImageFolder(Path(where) / names[split], image_size)
    if source == "shards":
        return user.TarShards(Path(where) / names[split], image_size)
    return user.HuggingFaceImages(where, names[split], image_size, **entries)


def _packaged(name: str, split: str, image_size: tuple[int, ...], arguments: dict[str, Any]) -> Dataset[Any]:
    from spae import data

    if name == "mnist":
        return data.MNISTDigits(split, **arguments)  # pyright: ignore[reportArgumentType]
    if len(set(image_size)) != 1:
        raise ValueError(f"image_size: packaged sets are square, got {image_size}")
    return data.load(name, split, size=image_size[0], **arguments)  # pyright: ignore
