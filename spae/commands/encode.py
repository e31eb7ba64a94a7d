"""`spae encode`: images to tokens, as JSON."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from spae.commands._images import Images, add_images

ABOUT = "Images to tokens: ids and words, as JSON."


def add(parser: argparse.ArgumentParser) -> None:
    add_images(parser)
    parser.add_argument("--out", type=Path, help="where to write (default: standard output)")
    parser.add_argument(
        "--lines",
        action="store_true",
        help="JSON lines, an image each, for many (default: where --out ends in .jsonl)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="leave out the images that --out, JSON lines, holds already"
    )


def run(arguments: argparse.Namespace) -> int:
    from spae.token_files import TokenWriter

    out: Path | None = arguments.out
    lines = arguments.lines or (out is not None and out.suffix == ".jsonl")
    if arguments.resume and not (out and lines):
        raise ValueError(f"resume: expected JSON lines in --out, got {out or 'standard output'}")
    if out is not None and out.is_dir():
        raise ValueError(f"out: expected a file, got {out}, a folder")
    images = Images(arguments)
    known = _known(out, images, arguments.layers) if arguments.resume and out else set()
    append = bool(known)
    with (
        _stream(out, lines, append) as stream,
        TokenWriter(stream, images.model, lines=lines, append=append) as writer,
    ):
        for paths, tokens in images.encoded(known):
            writer.write(paths, tokens)
    return images.status("encode")


def _known(out: Path, images: Images, layers: int | None) -> set[str]:
    """The names that an interrupted run has left, of images in as many layers."""
    from spae.token_files import cut_tail

    if not out.is_file():
        return set()
    names, count = cut_tail(out, images.model)
    pyramid = images.model.pyramid
    expected = pyramid.num_tokens_upto(layers or pyramid.num_layers)
    if names and count != expected:
        raise ValueError(f"resume: expected images of {expected} ids in {out}, got {count}")
    return names


@contextmanager
def _stream(out: Path | None, lines: bool, append: bool) -> Iterator[IO[str]]:
    """Where to write. JSON lines are a file from the start; a document becomes one when it is whole."""
    if out is None:
        yield sys.stdout
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    place = out if lines else out.with_name(f"{out.name}.part")
    with place.open("a" if append else "w", encoding="utf-8") as file:
        try:
            yield file
        except BaseException:
            if place != out:
                place.unlink()
            raise
    if place != out:
        os.replace(place, out)
