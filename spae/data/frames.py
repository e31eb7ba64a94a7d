"""Clips whose frames are image files, a folder each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spae.data.captions import read_captions
from spae.data.images import Size, check_shape, read_image
from spae.data.sources import EXTENSIONS


class FrameFolders(Dataset[tuple[Tensor, int]]):
    """Folders of image files, each a clip, as (video float32 [3, T, height, width] in [-1, 1], label).

    A clip's frames are the files right in its folder, by the numbers in their names: "frame2.png" comes
    before "frame10.png". Of longer clips T are taken in equal distances from the first to the last, as of
    animations. The folder at the top of a clip's path is its class, unless that is the clip's own; files and
    folders whose names begin with "." are left out.

    Args:
        root: the folder.
        size: (T, height, width).
        classes: further classes, so that the folders of several splits number theirs alike.

    Attributes:
        folders: N paths, in order. frames: N lists of paths.
        keys: N paths from the root, with slashes.
        classes: names of the classes, in order. labels: int64 [N], indices into `classes`.
        captions: N: beside a clip's folder in CLIP.txt or in a table (`read_captions`), and otherwise the
            class's name with spaces for underscores.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the size is not one of video, no folder in it holds images, or one holds less than T.
            Damaged images raise when they are read.
    """

    def __init__(self, root: str | Path, size: Size, *, classes: Iterable[str] = ()):
        self.size = check_shape(size)
        if len(self.size) != 3:
            raise ValueError(f"size: expected (frames, height, width) for folders of frames, got {size!r}")
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"root: expected a folder of clips, got {str(root)!r}")
        found: dict[Path, list[Path]] = {}
        listed = sorted(self.root.rglob("*"))
        shown = [p for p in listed if not any(part[0] == "." for part in p.relative_to(self.root).parts)]
        for path in shown:
            if path.suffix.lower() in EXTENSIONS and path.is_file() and path.parent != self.root:
                found.setdefault(path.parent, []).append(path)
        if not found:
            raise ValueError(f"root: expected folders of image files, each a clip, got none under {root}")
        self.folders = sorted(found)
        self.frames = [sorted(found[folder], key=_order) for folder in self.folders]
        for folder, frames in zip(self.folders, self.frames, strict=True):
            if len(frames) < self.size[0]:
                raise ValueError(f"{folder}: expected at least {self.size[0]} frames, got {len(frames)}")
        self.keys = [folder.relative_to(self.root).as_posix() for folder in self.folders]
        names = [key.split("/")[0] if "/" in key else "" for key in self.keys]
        self.classes = sorted({*names, *classes})
        self.labels = np.array([self.classes.index(name) for name in names], np.int64)
        captions = read_captions(self.folders, [p for p in shown if p.parent not in found])
        self.captions = [
            captions.get(folder) or name.replace("_", " ")
            for folder, name in zip(self.folders, names, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        frames, (count, *size) = self.frames[index], self.size
        places = np.linspace(0, len(frames) - 1, count).round().astype(int)
        pictures = [read_image(frames[place], tuple(size), frames[place]) for place in places]
        return torch.stack(pictures, 1), int(self.labels[index])


def _order(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name
