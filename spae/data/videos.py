"""Clips out of video files, by PyAV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spae.data.images import Size, check_shape, fit_image, to_tensor
from spae.data.sources import ImageFolder
from spae.optional import needs


class VideoFolder(ImageFolder):
    """The video files under a folder, as `ImageFolder` has images: (video float32 [3, T, height, width] in
    [-1, 1], label). size: (T, height, width).

    Raises ImportError without PyAV, and otherwise what `ImageFolder` raises.
    """

    extensions = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
    what = "videos"

    def __init__(self, root: str | Path, size: Size, **options: Any):
        if len(check_shape(size)) != 3:
            raise ValueError(f"size: expected (frames, height, width) for videos, got {size!r}")
        _pyav()
        super().__init__(root, size, **options)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return read_video(self.files[index], self.size), int(self.labels[index])


def read_video(path: str | Path, size: Size) -> Tensor:
    """So many frames of a video file, in equal distances from the first to the last, with their middles kept:
    float32 [3, T, height, width] in [-1, 1] for a size (T, height, width).

    The file is decoded twice, first to count, for what containers say of their length need not be so; no more
    than T frames are held.

    Raises:
        ImportError: PyAV is missing.
        FileNotFoundError: there is no such file.
        ValueError: it has fewer frames, or cannot be read as a video.
    """
    frames, *sides = check_shape(size)
    count = sum(1 for _ in _decoded(path))
    if count < frames:
        raise ValueError(f"{path}: expected at least {frames} frames, got {count}")
    wanted = np.linspace(0, count - 1, frames).round().astype(int).tolist()
    chosen = set(wanted)
    pictures = {
        number: to_tensor(fit_image(frame.to_image(), (sides[0], sides[1])))
        for number, frame in enumerate(_decoded(path))
        if number in chosen
    }
    return torch.stack([pictures[number] for number in wanted], 1)


def _decoded(path: str | Path) -> Any:
    """The frames of its first video stream."""
    av = _pyav()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: expected a video, got a file without pictures")
            yield from container.decode(video=0)
    except FileNotFoundError:
        raise
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: expected a video, got what cannot be read as one ({error})") from error


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(needs("reading videos", "av", "pillow")) from error
    return av
