"""Recordings as spectrograms: folders of WAV files, and the Free Spoken Digit Dataset."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spae.data.images import Size, check_shape
from spae.data.mnist import WORDS
from spae.data.packaged import check_choice
from spae.data.sound import SoundProcessor
from spae.data.sources import ImageFolder

_NAME = re.compile(r"([0-9])_([^_/]+)_([0-9]+)\.wav")
_HELD_OUT = 5  # the first recordings of each digit by each speaker


def processor_for(size: Size) -> SoundProcessor:
    """That of images of a size (bands, frames), whose frames are 20 ms apart."""
    shape = check_shape(size)
    if len(shape) != 2:
        raise ValueError(f"size: expected (bands, frames), which recordings have, got {size!r}")
    return SoundProcessor((shape[0], shape[1]))


class SoundFolder(ImageFolder):
    """The WAV files under a folder, as `ImageFolder` has images: (spectrogram float32 [1, *size] in [-1, 1],
    label). processor: what made them (`SoundProcessor`)."""

    extensions, what = (".wav",), "WAV files"

    def __init__(self, root: str | Path, size: Size = 32, **options: Any):
        self.processor = processor_for(size)
        super().__init__(root, size, **options)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.processor.preprocess(self.files[index])[0], int(self.labels[index])


class SpokenDigits(Dataset[tuple[Tensor, int]]):
    """The Free Spoken Digit Dataset (Jackson et al., CC BY-SA 4.0), "zero" to "nine" by six speakers, as
    (spectrogram float32 [1, *size] in [-1, 1], digit).

    Args:
        path: an archive (.tar, .tar.gz) or a folder of its WAV files, `DIGIT_SPEAKER_INDEX.wav`.
        split: "test" is the official one, the recordings of index 0 to 4, 300 of 3,000; "train" the others.
            Both have all speakers.
        size: (bands, frames) of the spectrograms.

    Attributes:
        images: float32 [N, 1, *size]. labels: int64 [N]. captions: N of "zero" to "nine". speakers: N names.
        keys: N file names, in order. classes: "zero" to "nine". processor: what made the spectrograms.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: an unknown split, a size out of range, no such recording, or a damaged one.
    """

    classes = WORDS

    def __init__(self, path: str | Path, split: str = "train", size: Size = 32):
        check_choice("split", split, ("train", "test"))
        self.processor = processor_for(size)
        found = {}
        for name, content in _wavs(Path(path)).items():
            match = _NAME.fullmatch(name)
            if match and (int(match[3]) < _HELD_OUT) == (split == "test"):
                found[name] = content, int(match[1]), match[2]
        if not found:
            raise ValueError(f"path: expected DIGIT_SPEAKER_INDEX.wav, got none of {split} in {path}")
        self.keys = sorted(found)
        self.labels = np.array([found[key][1] for key in self.keys], np.int64)
        self.speakers = [found[key][2] for key in self.keys]
        self.captions = [WORDS[label] for label in self.labels]
        self.images = torch.stack([self._read(key, found[key][0]) for key in self.keys])

    def _read(self, key: str, content: bytes) -> Tensor:
        try:
            return self.processor.preprocess(content)[0]
        except ValueError as error:
            said = str(error).removeprefix("images[0]: ")
            raise ValueError(f"path: {key}: " + said) from error

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def _wavs(path: Path) -> dict[str, bytes]:
    """The WAV files' bytes by name, without folders."""
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.rglob("*.wav")}
    if not path.is_file():
        raise FileNotFoundError(f"path: expected an archive or a folder of WAV files, got {str(path)!r}")
    found = {}
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                if entry.isreg() and entry.name.endswith(".wav"):
                    stream = archive.extractfile(entry)
                    assert stream is not None  # it is a regular file
                    found[entry.name.rpartition("/")[2]] = stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"path: expected a tar archive, got {path}, which is none or damaged ({error})"
        ) from error
    return found
