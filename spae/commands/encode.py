"""`spae encode`: images to tokens, as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from spae.commands import add_model, load_tokenizer

ABOUT = "Images to tokens: ids and words, as JSON."


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, help="image files; resized to the model's size")
    parser.add_argument("--layers", type=int, help="only the first layers (default: all)")
    parser.add_argument("--out", type=Path, help="where to write (default: standard output)")
    add_model(parser)


def run(arguments: argparse.Namespace) -> None:
    from spae.files import load_images, tokens_to_json

    model = load_tokenizer(arguments.model)
    tokens = model.encode(load_images(arguments.images, model.config), arguments.layers)
    text = json.dumps(tokens_to_json(model, tokens, arguments.images), indent=2, ensure_ascii=False)
    if arguments.out is None:
        print(text)
    else:
        arguments.out.write_text(text + "\n", encoding="utf-8")
