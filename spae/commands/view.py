"""`spae view`: images and their words on a page for the browser."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from spae.commands._images import Images, add_images, legible

if TYPE_CHECKING:
    from spae.viewer import Shown

ABOUT = "A page for the browser: images, their words on their grids, and what each layer adds."


def add(parser: argparse.ArgumentParser) -> None:
    add_images(parser)
    parser.add_argument("--out", type=Path, required=True, help="the page, one HTML file")
    parser.add_argument("--title", help="of the page (default: the model's name)")


def run(arguments: argparse.Namespace) -> int:
    from spae.viewer import write_page

    out: Path = arguments.out
    if out.is_dir():
        raise ValueError(f"out: expected a file, got {out}, a folder")
    images = Images(arguments)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            title = arguments.title or f"Pyramids of {arguments.model}"
            count = write_page(stream, images.model, _shown(images), num_layers=arguments.layers, title=title)
        if count:
            os.replace(part, out)
            print(legible(out))
    finally:
        part.unlink(missing_ok=True)
    return images.status("view")


def _shown(images: Images) -> Iterator[Shown]:
    from spae.viewer import Shown

    for paths, tokens in images.encoded():
        # Read again: keeping pictures is no business of the commands that want tokens only.
        yield Shown([str(path) for path in paths], images.model.preprocess(paths), tokens)
