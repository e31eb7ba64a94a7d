"""The data sets that come as packages, by name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from spae.data.packaged import check_choice


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
            "emoji-animated",
            "187 animated emoji",
            "emoji-animated",
            "animated_emoji",
            "AnimatedEmoji",
            ("train", "test"),
        ),
        PackagedSet(
            "fashion", "70,000 articles of clothing", "fashion", "fashion", "Fashion", ("train", "test")
        ),
        PackagedSet(
            "stamps", "captioned pictures of things", "stamps", "stamps", "Stamps", ("train", "test")
        ),
        PackagedSet(
            "things",
            "named pictures of four sources, split by what they show",
            "emoji-more",
            "things",
            "Things",
            ("train", "dev", "test"),
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


def dataset_class(name: str) -> Any:
    """The class of the named set. Raises ValueError if no set has this name."""
    check_choice("name", name, tuple(SETS))
    entry = SETS[name]
    return getattr(importlib.import_module(f"spae.data.{entry.module}"), entry.dataset)


def load(name: str, split: str = "train", **options: Any) -> Any:
    """The named set itself, with all that it knows; `open_data` gives any data as items of one form.

    Its class documents splits, items, attributes and options (`size`).

    Raises:
        ValueError: no set has this name, or it does not know the split or an option's value.
        AssetNotCached, AssetError: it is not cached and could not be fetched.
    """
    return dataset_class(name)(split, **options)
