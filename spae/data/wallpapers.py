"""Photographs among the desktop backgrounds that Debian ships, cut into tiles: natural texture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spae.assets.archives import contents
from spae.data.packaged import PackagedDataset, check_choice, check_size, prepare, write_pixels
from spae.optional import needs

_MATE = ("Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird", "RainDrops", "Storm")
_MATE += ("TwoWings", "Wood", "YellowFlower")
_LOMIRI = ("Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly", "Kleiber_by_Lukas_Baubkus")
_LOMIRI += ("Picture_0B_by_freespace", "Picture_1A_by_freespace", "Wine_by_Jakkub_Mede")
_LOMIRI += ("aitzgorri_by_Aitzol_Berasategi", "free_by_Peter_Nerlich", "friends_by_Aitzol_Berasategi")
_LOMIRI += ("greentock_by_Peter_Nerlich", "life_by_Aitzol_Berasategi", "picosdeeuropa_by_Aitzol_Berasategi")
_LOMIRI += ("seeding_by_Clements_Engelhardt", "sunset_by_Aitzol_Berasategi")
FILES = (*(f"mate/nature/{name}.jpg" for name in _MATE), *(f"{name}.jpg" for name in _LOMIRI))
TEST_FILES = (
    "mate/nature/Dune.jpg",
    "mate/nature/LadyBird.jpg",
    "Kleiber_by_Lukas_Baubkus.jpg",
    "life_by_Aitzol_Berasategi.jpg",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg",
)
_TILES = 8  # along the shorter side


class Wallpapers(PackagedDataset):
    """Tiles of 26 photographs as (image float32 [3, size, size] in [-1, 1], number of the photograph).

    A photograph is shrunk (never enlarged) until its shorter side has 8 tiles, and cut into all that fit
    without overlap, raster order. The split is by photograph: 21 for training, `TEST_FILES` for testing.

    Args:
        split: "train" or "test".
        size: pixels a side.

    Attributes:
        labels: int64 [N], indices into `FILES`.
        files: N names of `FILES`.

    Raises:
        ValueError: an unknown split or a size out of range.
        ImportError: Pillow is missing (only when a size is prepared for the first time).
        AssetNotCached, AssetError: the asset "wallpapers" is not cached and could not be fetched.
    """

    def __init__(self, split: Literal["train", "test"] = "train", size: int = 128):
        check_choice("split", split, ("train", "test"))
        check_size(size, most=512)
        prepared = prepare("wallpapers", str(size), 1, lambda folder, into: _build(folder, into, size))
        labels = np.array(prepared.table["labels"])
        in_test = np.isin(labels, [FILES.index(file) for file in TEST_FILES])
        rows = np.flatnonzero(in_test if split == "test" else ~in_test)
        self.labels = labels[rows]
        super().__init__(prepared, rows, self.labels)
        self.split, self.size = split, size
        self.files = [FILES[label] for label in self.labels]


def _build(folder: Path, into: Path, size: int) -> dict[str, Any]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(needs("preparing wallpapers", "pillow")) from error
    places = {f"usr/share/backgrounds/{file}": number for number, file in enumerate(FILES)}
    tiles: dict[int, np.ndarray] = {}
    for archive in sorted(folder.glob("*.deb")):
        for name, file in contents(archive, places.__contains__):
            image = Image.open(io.BytesIO(file)).convert("RGB")
            scale = min(1.0, _TILES * size / min(image.size))
            image = image.resize(
                (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
            )
            down, across = image.height // size, image.width // size
            pixels = np.asarray(image)[: down * size, : across * size].reshape(down, size, across, size, 3)
            tiles[places[name]] = pixels.transpose(0, 2, 4, 1, 3).reshape(-1, 3, size, size)
    if missing := [FILES[number] for number in range(len(FILES)) if number not in tiles]:
        raise ValueError(
            f"wallpapers: expected {len(FILES)} photographs in the packages, got none of {', '.join(missing)}"
        )
    write_pixels(into, np.concatenate([tiles[number] for number in range(len(FILES))]))
    return {"labels": [number for number in range(len(FILES)) for _ in tiles[number]]}
