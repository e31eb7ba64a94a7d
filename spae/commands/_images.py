"""What the commands that read many images share: which ones, in batches, and what is said of bad ones."""

from __future__ import annotations

import argparse
import ctypes
import glob
import sys
import warnings
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from spae.commands import add_device, add_model, load_tokenizer, said

if TYPE_CHECKING:
    from spae.tokenizers import PyramidTokens, Tokenizer

T = TypeVar("T")


def add_images(parser: argparse.ArgumentParser) -> None:
    """Arguments for `Images`."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files (WAV files for a model of sound), folders (all of them below), patterns such as "
        "'a/**/*.png', or - for a list of paths, one a line, on standard input",
    )
    parser.add_argument("--layers", type=int, help="only the first layers (default: all)")
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time (default: 32)")
    add_model(parser)
    add_device(parser)


class Images:
    """The images of a command line, read and encoded batch by batch, with no more than one in memory.

    skipped: the files that could not be read; each has been named on standard error.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        if arguments.batch_size < 1:
            raise ValueError(f"batch-size: expected 1 or more, got {arguments.batch_size}")
        self._arguments = arguments
        self.skipped: list[Path] = []
        self.done = 0
        self.model: Tokenizer = load_tokenizer(arguments.model, arguments.device)
        config, layers = self.model.config, arguments.layers
        if config.ndim != 2:
            raise ValueError(f"model: expected one for images, got one for {config.image_size}")
        if layers is not None and not 1 <= layers <= self.model.pyramid.num_layers:
            raise ValueError(f"layers: expected 1 to {self.model.pyramid.num_layers}, got {layers}")

    def encoded(self, known: Container[str] = ()) -> Iterator[tuple[list[Path], PyramidTokens]]:
        """Batches of paths and their tokens. known: names that are left out."""
        given = image_paths(self._arguments.images, extensions(self.model))
        paths = (path for path in given if str(path) not in known)
        with tqdm(paths, unit="image", disable=None) as listed:
            for batch in in_batches(self._read(listed), self._arguments.batch_size):
                images = torch.stack([image for _, image in batch])
                with torch.no_grad(), warnings.catch_warnings():
                    # Our own reader has brought them to [-1, 1], however bright they are.
                    warnings.filterwarnings("ignore", "images: the values of")
                    tokens = self.model.encode(images, self._arguments.layers)
                self.done += len(batch)
                yield [path for path, _ in batch], tokens
                give_memory_back()

    def status(self, verb: str) -> int:
        """The exit status, after saying how many files were skipped, or that there was none to read."""
        if self.skipped:
            total = self.done + len(self.skipped)
            print(f"spae {verb}: {len(self.skipped)} of {total} images could not be read", file=sys.stderr)
        elif not self.done:
            print(f"spae {verb}: nothing new to do", file=sys.stderr)
        return 1 if self.skipped else 0

    def _read(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Tensor]]:
        for path in paths:
            try:
                yield path, self.model.preprocess([path])[0]
            except ImportError:
                raise
            except Exception as error:  # a decoder of damaged files raises anything
                self.skipped.append(path)
                tqdm.write(f"skipped {legible(path)}: {said(error)}", file=sys.stderr)


def extensions(model: Tokenizer) -> tuple[str, ...]:
    """How the files end that a model of images, or of sound, takes."""
    from spae.data.sound import SoundProcessor
    from spae.data.sources import EXTENSIONS

    return (".wav",) if isinstance(model.processor, SoundProcessor) else EXTENSIONS


def image_paths(given: Iterable[str], endings: tuple[str, ...] | None = None) -> Iterator[Path]:
    """The files that arguments stand for, in their order; of folders and patterns sorted, those with one of
    the endings (by default of images).

    Raises ValueError for a folder or a pattern without images. A file need not exist: its reader says so.
    """
    for name in given:
        if name == "-":
            yield from image_paths((line.rstrip("\n") for line in sys.stdin if line.strip()), endings)
        elif Path(name).is_dir():
            yield from _found(name, sorted(Path(name).rglob("*")), endings)
        elif glob.has_magic(name) and not Path(name).exists():
            yield from _found(name, sorted(map(Path, glob.glob(name, recursive=True))), endings)
        else:
            yield Path(name)


def _found(name: str, paths: list[Path], endings: tuple[str, ...] | None) -> list[Path]:
    from spae.data.sources import EXTENSIONS

    endings = endings or EXTENSIONS
    images = [path for path in paths if path.suffix.lower() in endings and path.is_file()]
    if not images:
        raise ValueError(f"images: expected files that end in {', '.join(endings)}, got none in {name}")
    return images


def legible(path: Path) -> str:
    """A path as text that can be printed, whatever bytes its name holds."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def give_memory_back() -> None:
    """Return to the system what the allocator keeps of freed memory, where it is glibc's: after a batch all
    of the batch's, whatever small pieces lie in between, so that long runs take no more than short ones."""
    with suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
