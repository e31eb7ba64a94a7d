"""`spae export`: a tokenizer as files for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spae.commands import load_tokenizer

if TYPE_CHECKING:
    from spae.tokenizers import Tokenizer

ABOUT = "A tokenizer's encoding and decoding as ONNX, or as programs of torch.export."


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("onnx", "torch"), help="ONNX, or programs of torch.export")
    parser.add_argument(
        "model", metavar="MODEL", help="any tokenizer: a bundled one's name, a folder or a hub repository"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write, made if need be")
    parser.add_argument("--layers", type=int, help="only the first layers (default: all)")
    parser.add_argument(
        "--check",
        nargs="+",
        metavar="IMAGE",
        help="of ONNX: say how many ids of these images (files, folders, patterns) are the tokenizer's own",
    )


def run(arguments: argparse.Namespace) -> None:
    from spae.export import export_onnx, export_torch

    if arguments.check and arguments.kind != "onnx":
        raise ValueError(f"check: expected none but for onnx, got one for {arguments.kind}")
    model = load_tokenizer(arguments.model)
    total = model.pyramid.num_layers
    if arguments.layers is not None and not 1 <= arguments.layers <= total:
        raise ValueError(f"layers: expected 1 to {total}, got {arguments.layers}")
    write = export_onnx if arguments.kind == "onnx" else export_torch
    for path in write(model, arguments.out, num_layers=arguments.layers):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if arguments.check:
        _check(model, arguments.out, arguments.check)


def _check(model: Tokenizer, out: Path, names: list[str]) -> None:
    from spae.commands._images import image_paths
    from spae.export import agreement

    images = model.preprocess(list(image_paths(names)))
    shares = agreement(model, out, images)
    print(
        f"{len(images)} images: {shares.ids:.3%} of their ids are the tokenizer's own, all of them in "
        f"{shares.images:.1%} of the images; lookups alone: {shares.lookups:.3%}"
    )
