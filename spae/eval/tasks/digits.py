"""Do reconstructed digits still read as the digits they were?"""

from __future__ import annotations

import argparse
from typing import Any

from spae.data.mnist import HELD_OUT_PER_CLASS, MNISTDigits
from spae.eval.classifier import DigitClassifier
from spae.eval.reconstruction import evaluate_reconstruction, layer_table, quality_curves, share_named
from spae.eval.run import Measured, Run
from spae.figures import reconstruction_page
from spae.tokenizers import Tokenizer
from spae.tokenizers.batches import decode_all, encode_all

ABOUT = "PSNR, usage and legibility of 500 held-out digits, layer by layer."
USES_LLM = False
_PICTURES = 6  # on the page, one each of the first classes
table, draw_models = layer_table, quality_curves


def add(parser: argparse.ArgumentParser) -> None:
    """Nothing can be chosen."""


def settings(arguments: argparse.Namespace) -> None:
    """There are none."""


def measure(run: Run) -> Measured:
    held_out = MNISTDigits("test")
    images = held_out.images[::HELD_OUT_PER_CLASS][:_PICTURES]
    tokens = encode_all(run.model, images)
    report = evaluate_digits(run.model, held_out)
    return Measured(report, lambda path: reconstruction_page(run.model, images, tokens, path))


def evaluate_digits(model: Tokenizer, held_out: MNISTDigits | None = None) -> dict[str, Any]:
    """`evaluate_reconstruction` on the 500 held-out digits, and the classifier's accuracy on originals and on
    reconstructions from 1..L layers. "named": the share whose first word is the digit's name."""
    held_out = MNISTDigits("test") if held_out is None else held_out
    tokens = encode_all(model, held_out.images)
    report = evaluate_reconstruction(model, held_out.images, tokens=tokens)
    report["named"] = share_named(model, tokens, held_out.captions)
    classifier = DigitClassifier()
    report["accuracy_originals"] = classifier.accuracy(held_out.images, held_out.labels)
    for row in report["layers"]:
        images = decode_all(model, tokens.upto(row["layer"]))
        row["accuracy"] = classifier.accuracy(images, held_out.labels)
    return report
