"""easy-VQA: pictures of one coloured shape, and questions about them with one of 13 answers."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spae.assets.archives import contents
from spae.data.packaged import PackagedDataset, check_choice, check_size, open_pixels, prepare, square
from spae.optional import needs

_NUM = {"train": 4000, "test": 1000}


class EasyVQA(PackagedDataset):
    """4,000 training or 1,000 test pictures: (image float32 [3, size, size] in [-1, 1], index), as published.

    Args:
        split: "train" or "test".
        size: pixels a side; 64 is how they come.

    Attributes:
        questions: N lists of (question, answer), about 10 a picture.
        answers: the 13 possible answers.

    Raises:
        ValueError: an unknown split or a size out of range.
        ImportError: Pillow is missing (only when a size is prepared for the first time).
        AssetNotCached, AssetError: the asset "easy-vqa" is not cached and could not be fetched.
    """

    def __init__(self, split: Literal["train", "test"] = "train", size: int = 64):
        check_choice("split", split, tuple(_NUM))
        check_size(size)
        prepared = prepare("easy-vqa", str(size), 1, lambda folder, into: _build(folder, into, size))
        count = len(prepared.table["train"])
        rows = np.arange(count) if split == "train" else count + np.arange(len(prepared.table["test"]))
        super().__init__(prepared, rows)
        self.split, self.size = split, size
        self.questions: list[list[tuple[str, str]]] = [
            [(question, answer) for question, answer in asked] for asked in prepared.table[split]
        ]
        self.answers: tuple[str, ...] = tuple(prepared.table["answers"])


def _build(folder: Path, into: Path, size: int) -> dict[str, Any]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(needs("preparing easy-vqa", "pillow")) from error
    pattern = re.compile(r"easy_vqa/data/(train|test)/(?:images/(\d+)\.png|questions\.json)")
    answers_file = "easy_vqa/data/answers.txt"
    table: dict[str, Any] = {split: [[] for _ in range(count)] for split, count in _NUM.items()}
    pixels = open_pixels(into, (sum(_NUM.values()), 3, size, size))
    (wheel,) = folder.glob("*.whl")
    for name, file in contents(wheel, lambda name: name == answers_file or bool(pattern.fullmatch(name))):
        match = pattern.fullmatch(name)
        if match is None:
            table["answers"] = sorted(file.decode().split())
        elif match[2] is None:
            for question, answer, image in json.loads(file):
                table[match[1]][image].append((question, answer))
        else:
            row = int(match[2]) + (_NUM["train"] if match[1] == "test" else 0)
            pixels[row] = square(Image.open(io.BytesIO(file)), size)
    return table
