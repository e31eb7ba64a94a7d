"""`spae demo`: the first thing a user runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from spae.commands import add_model, load_tokenizer

ABOUT = (
    "Held-out digits to words and back, on one page; of a model of clips an animated one, of a model of "
    "sound its examples as WAV files."
)


def add(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--images", type=int, default=6, help="how many digits, clips or sounds (default: 6)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo.png"), help="the page (default: out/demo.png)"
    )


def run(arguments: argparse.Namespace) -> None:
    from spae import demo
    from spae.data.sound import SoundProcessor

    demo.check(arguments.images)
    model = load_tokenizer(arguments.model)
    if len(model.config.image_size) == 3:
        show = demo.run_clips
    else:
        show = demo.run_sound if isinstance(model.processor, SoundProcessor) else demo.run
    show(model, arguments.model, arguments.images, arguments.out)
