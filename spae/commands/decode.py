"""`spae decode`: tokens to images, or to sound."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path, PurePath

from spae.commands import add_device, add_model, load_tokenizer

ABOUT = "Tokens, as `spae encode` writes them, to PNG images, or WAV files of a model of sound."


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokens", type=Path, help="a file from `spae encode`, JSON or JSON lines")
    parser.add_argument("--layers", type=int, help="only the first layers (default: all)")
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time (default: 32)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(),
        help="folder for the images, which keep the folders of their names (default: here)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    add_model(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from spae.commands._images import give_memory_back, in_batches, legible
    from spae.files import writer
    from spae.token_files import as_tokens, read_tokens

    if arguments.batch_size < 1:
        raise ValueError(f"batch-size: expected 1 or more, got {arguments.batch_size}")
    model = load_tokenizer(arguments.model, arguments.device)
    total = model.pyramid.num_layers
    if arguments.layers is not None and not 1 <= arguments.layers <= total:
        raise ValueError(f"layers: expected 1 to {total}, got {arguments.layers}")
    # Read twice: whatever is wrong with the file is said before anything is written.
    names = [row.name for row in read_tokens(arguments.tokens, model)]
    if not names:
        raise ValueError(f"{arguments.tokens}: expected at least one image, got none")
    ending, save = writer(model)
    paths = outputs(names, arguments.out, ending)
    there = next((path for path in paths if os.path.lexists(path)), None)
    if there is not None and not arguments.overwrite:
        raise ValueError(f"out: expected no file where one is to be written, got {there} (or --overwrite)")
    targets = iter(paths)
    rows = tqdm(read_tokens(arguments.tokens, model), total=len(names), unit="image", disable=None)
    for batch in in_batches(rows, arguments.batch_size):
        tokens = as_tokens(batch, model).to(model.device)
        if arguments.layers is not None:
            tokens = tokens.upto(arguments.layers)
        with torch.no_grad():
            images = model.decode(tokens)
        for image, path in zip(images, islice(targets, len(images)), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            save(image, path)
            tqdm.write(legible(path))
        give_memory_back()


def outputs(names: Sequence[str], out: Path, ending: str = ".png") -> list[Path]:
    """A file below `out` for each name, no two the same.

    Relative names keep their folders. Absolute ones, and those that lead out of the current folder, keep them
    from where they part. `a.png` becomes `a.decoded.png`; where that is taken, `a.png.decoded.png`, and then
    `a.png.2.decoded.png`.
    """
    own = {name: _inside(name) for name in names}
    outside = [os.path.dirname(os.path.abspath(name)) for name, place in own.items() if place is None]
    common = os.path.commonpath(outside) if outside else ""
    taken: set[str] = set()
    paths = []
    for name in names:
        place = own[name] or PurePath(os.path.relpath(os.path.abspath(name), common))
        if not place.name:  # of the root folder itself
            place = PurePath("image")
        for suffix in _suffixes(place):
            path = out / place.with_name(f"{suffix}.decoded{ending}")
            if str(path).casefold() not in taken:
                break
        taken.add(str(path).casefold())
        paths.append(path)
    return paths


def _inside(name: str) -> PurePath | None:
    """A relative name without "." and "..", or None if it leads elsewhere."""
    if os.path.isabs(name):
        return None
    path = PurePath(os.path.normpath(name))
    return None if path.parts[:1] == ("..",) or not path.name else path


def _suffixes(place: PurePath) -> Iterator[str]:
    yield place.stem
    yield place.name
    yield from (f"{place.name}.{number}" for number in count(2))
