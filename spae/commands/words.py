"""`spae words`: images as their words, for people."""

from __future__ import annotations

import argparse
import json

from spae.commands._images import Images, add_images, legible

ABOUT = "Print images as their pyramids of words."


def add(parser: argparse.ArgumentParser) -> None:
    add_images(parser)
    parser.add_argument(
        "--json", action="store_true", help="print JSON lines: name and words, layer by layer"
    )


def run(arguments: argparse.Namespace) -> int:
    from spae.figures import pyramid_text

    images = Images(arguments)
    for paths, tokens in images.encoded():
        for path, layers in zip(paths, images.model.words(tokens), strict=True):
            if arguments.json:
                print(json.dumps({"name": legible(path), "words": layers}, ensure_ascii=False), flush=True)
            else:
                print(f"{legible(path)}\n{pyramid_text(layers, images.model.pyramid)}", flush=True)
    return images.status("words")
