"""`spae tokenize`: images as their words, for people."""

from __future__ import annotations

import argparse
from pathlib import Path

from spae.commands import add_model, load_tokenizer

ABOUT = "Print images as their pyramids of words."


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, help="image files; resized to the model's size")
    parser.add_argument("--layers", type=int, help="only the first layers (default: all)")
    add_model(parser)


def run(arguments: argparse.Namespace) -> None:
    from spae.eval.figures import pyramid_text
    from spae.files import load_images

    model = load_tokenizer(arguments.model)
    tokens = model.encode(load_images(arguments.images, model.config), arguments.layers)
    for path, layers in zip(arguments.images, model.words(tokens), strict=True):
        print(f"{path}\n{pyramid_text(layers, model.pyramid)}")
