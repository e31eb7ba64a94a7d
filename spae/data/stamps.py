"""Tux Paint's stamps: pictures and photographs of things, with captions in up to 77 languages."""

from __future__ import annotations

import io
import re
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from spae.assets.archives import contents
from spae.data.packaged import (
    PackagedDataset,
    Prepared,
    check_choice,
    check_size,
    prepare,
    square,
    write_pixels,
)
from spae.optional import needs

_FOLDER = "usr/share/tuxpaint/stamps/"
_TEST_SHARE = 0.1
_SPLIT_SEED = 20230630
_VARIANT = re.compile(r"(_(mirror|flip|left|right|filled|outline|small|large|open|closed))+$|[-_]?\d+$")


class Stamps(PackagedDataset):
    """The captioned stamps as (image float32 [3, size, size] in [-1, 1] on white, index).

    Under GPL-2: they are downloaded when asked for, and must not be shipped with other things. A tenth is
    held out by families: stamps with the same English caption, or whose files differ only by a number or a
    variant ("_mirror", "_outline"), are on the same side.

    Args:
        split: "train" or "test".
        size: pixels a side.

    Attributes:
        captions: N English captions, e.g. "A frog."
        categories: N folders, e.g. "animals/amphibians"; "symbols/.." are letters, digits and coins.
        files: N names within the package's folder of stamps.

    Raises:
        ValueError: an unknown split or a size out of range.
        ImportError: Pillow is missing (only when a size is prepared for the first time).
        AssetNotCached, AssetError: the asset "stamps" is not cached and could not be fetched.
    """

    def __init__(self, split: Literal["train", "test"] = "train", size: int = 128):
        check_choice("split", split, ("train", "test"))
        check_size(size)
        opened = prepared(size)
        stamps = opened.table["stamps"]
        held_out = held_out_stamps([(stamp["file"], stamp["captions"]["en"]) for stamp in stamps])
        rows = [row for row in range(len(stamps)) if (row in held_out) == (split == "test")]
        super().__init__(opened, np.array(rows, np.int64))
        self.split, self.size = split, size
        self._stamps = [stamps[row] for row in rows]
        self.files = [stamp["file"] for stamp in self._stamps]
        self.categories = ["/".join(file.split("/")[:2]) for file in self.files]
        self.captions = self.names("en")

    def languages(self) -> list[str]:
        """The languages that any caption is in, e.g. "pt_br"."""
        return sorted({language for stamp in self._stamps for language in stamp["captions"]})

    def names(self, language: str) -> list[Any]:
        """N captions in a language; None where there is none."""
        check_choice("language", language, self.languages())
        return [stamp["captions"].get(language) for stamp in self._stamps]


def prepared(size: int) -> Prepared:
    """All captioned stamps at a size; in the table, "stamps" has the file and the captions of each row."""
    return prepare("stamps", str(size), 1, lambda folder, into: _build(folder, into, size))


def held_out_stamps(stamps: list[tuple[str, str]]) -> set[int]:
    """The rows held out of (file, English caption) pairs."""
    family: dict[int, int] = {}

    def root(row: int) -> int:
        while family[row] != row:
            row = family[row]
        return row

    first: dict[str, int] = {}
    for row, (file, caption) in enumerate(stamps):
        family[row] = row
        path = PurePosixPath(file)
        stem = path.stem
        while (shorter := _VARIANT.sub("", stem)) not in ("", stem):
            stem = shorter
        for key in (f"file {path.with_name(stem)}", f"caption {caption.casefold().strip(' .!')}"):
            family[root(row)] = root(first.setdefault(key, row))
    roots = sorted({root(row) for row in family})
    # RandomState's stream, unlike Generator's, is guaranteed never to change between NumPy versions.
    drawn = np.random.RandomState(_SPLIT_SEED).permutation(len(roots))[: round(_TEST_SHARE * len(roots))]
    chosen = {roots[i] for i in drawn}
    return {row for row in family if root(row) in chosen}


def _build(folder: Path, into: Path, size: int) -> dict[str, Any]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(needs("preparing stamps", "pillow")) from error
    (archive,) = folder.glob("*.deb")
    pictures: dict[str, np.ndarray] = {}
    captions: dict[str, dict[str, str]] = {}
    for name, file in contents(
        archive, lambda name: name.startswith(_FOLDER) and name[-4:] in (".png", ".txt")
    ):
        key = name.removeprefix(_FOLDER)[:-4]
        if name.endswith(".png"):
            pictures[key] = square(Image.open(io.BytesIO(file)), size)
        elif text := _captions(file.decode("utf-8")):
            captions[key] = text
    keys = sorted(key for key in pictures if key in captions)
    write_pixels(into, np.stack([pictures[key] for key in keys]))
    return {"stamps": [{"file": f"{key}.png", "captions": captions[key]} for key in keys]}


def _captions(text: str) -> dict[str, str]:
    """Language -> caption of a stamp's text file: English first, then `language.utf8=caption` lines."""
    english, *others = text.splitlines() or [""]
    if not english.strip():
        return {}
    found = {"en": english.strip()}
    for line in others:
        language, separator, caption = line.partition(".utf8=")
        if separator and caption.strip():
            found[language.strip().lower()] = caption.strip()
    return found
