"""Animated emoji: short named videos of animals, weather, people and things."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spae.assets.archives import contents
from spae.data.emoji import archive_of, code_points, held_out_concepts
from spae.data.images import read_image
from spae.data.packaged import PackagedDataset, check_choice, check_size, open_pixels, prepare
from spae.optional import needs

SPLITS = ("train", "test")
_VERSION = 1
_MOST_FRAMES = 28  # of the shortest
_SKIN_TONES = frozenset(f"1f3f{number:x}" for number in range(11, 16))


class AnimatedEmoji(PackagedDataset):
    """Microsoft's animated Fluent emoji of the first of four packages: items are (video float32
    [3, T, size, size] in [-1, 1] on white, index).

    187 emoji, one skin tone each, in Unicode's order, most of 72 frames. The test split has 23 whose names
    share no word with any other's, in proportion to Unicode's subgroups (`held_out_concepts`).

    Args:
        split: "train" or "test".
        size: pixels a side; the set is prepared once at each size and number of frames, and cached.
        frames: T, taken in equal distances from the first to the last.

    Attributes:
        captions: N English names, e.g. "hatching chick". labels: int64 [N], the same numbers in both splits.
        subcategories: N Unicode subgroups.

    Raises:
        ValueError: an unknown split, or a size or number of frames out of range.
        ImportError: Pillow is missing (only when a size is prepared for the first time).
        AssetNotCached, AssetError: the asset "emoji-animated", a package of 165 MB, is not cached and could
            not be fetched.
    """

    def __init__(self, split: Literal["train", "test"] = "train", size: int = 64, *, frames: int = 16):
        check_choice("split", split, SPLITS)
        check_size(size)
        if not isinstance(frames, int) or not 2 <= frames <= _MOST_FRAMES:
            raise ValueError(f"frames: expected a whole number from 2 to {_MOST_FRAMES}, got {frames!r}")
        opened = prepare(
            "emoji-animated",
            f"{frames}x{size}",
            _VERSION,
            lambda folder, into: _build(folder, into, size, frames),
        )
        concepts: list[dict[str, str]] = opened.table["concepts"]
        held_out = held_out_concepts(concepts)
        rows = [number for number in range(len(concepts)) if (number in held_out) == (split == "test")]
        super().__init__(opened, np.array(rows, np.int64))
        self.split, self.size, self.frames = split, size, frames
        self.labels = self.rows
        self.captions = [concepts[row]["name"] for row in rows]
        self.subcategories = [concepts[row]["subcategory"] for row in rows]


def _build(folder: Path, into: Path, size: int, frames: int) -> dict[str, Any]:
    concepts = _named(folder)
    animations = dict(_animations(archive_of(folder, "fluent-emoji-anim")))
    found = [concept for concept in concepts if concept["hexcode"] in animations]
    pixels = open_pixels(into, (len(found), 3, frames, size, size))
    for number, concept in enumerate(found):
        name = concept["hexcode"]
        video = read_image(io.BytesIO(animations[name]), (frames, size, size), name)
        pixels[number] = ((video + 1) * 127.5).round().byte().numpy()
    return {"concepts": found}


def _animations(archive: Path) -> list[tuple[str, bytes]]:
    """(code points, WebP) of the emoji that move; the package has stills, too."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(needs("reading animated emoji", "pillow")) from error
    found = []
    for name, file in contents(archive, lambda name: name.endswith(".webp")):
        key = code_points(Path(name).stem)
        if not _SKIN_TONES & set(key.split("-")) and getattr(Image.open(io.BytesIO(file)), "n_frames", 1) > 1:
            found.append((key, file))
    return found


def _named(folder: Path) -> list[dict[str, str]]:
    """All emoji in Unicode's order."""
    wanted = ("package/en/data.json", "package/meta/groups.json")
    files = {
        name: json.loads(file)
        for name, file in contents(archive_of(folder, "emojibase-data"), wanted.__contains__)
    }
    subgroups = files[wanted[1]]["subgroups"]
    return [
        {
            "hexcode": code_points(entry["hexcode"]),
            "name": entry["label"],
            "subcategory": subgroups.get(str(entry.get("subgroup")), ""),
        }
        for entry in sorted(files[wanted[0]], key=lambda entry: entry.get("order", 0))
    ]
