"""`spae decode`: tokens to images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from spae.commands import add_model, load_tokenizer

ABOUT = "Tokens, as `spae encode` writes them, to PNG images."


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokens", type=Path, help="a JSON file from `spae encode`")
    parser.add_argument("--layers", type=int, help="only the first layers (default: all)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the images (default: here)")
    add_model(parser)


def run(arguments: argparse.Namespace) -> None:
    from spae.files import save_image, tokens_from_json

    model = load_tokenizer(arguments.model)
    names, tokens = tokens_from_json(model, json.loads(arguments.tokens.read_text(encoding="utf-8")))
    if arguments.layers is not None:
        tokens = tokens.upto(arguments.layers)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, model.decode(tokens).detach(), strict=True):
        path = arguments.out / f"{Path(name).stem}.decoded.png"
        save_image(image, path)
        print(path)
