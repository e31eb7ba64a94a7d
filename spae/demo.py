"""`spae demo`: the first thing a user runs."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from spae import assets
from spae.data.mnist import HELD_OUT_PER_CLASS, MNISTDigits
from spae.eval.figures import pyramid_text, reconstruction_page
from spae.eval.reconstruction import evaluate_reconstruction
from spae.eval.report import layer_table
from spae.tokenizers import SPAE
from spae_ops import implementations


def run(model_name: str, num_images: int, out: Path) -> None:
    """Encode held-out digits with a bundled model, print their words, measure all 500, and draw a page."""
    assets.require("smollm2")
    started = time.perf_counter()
    model = SPAE.from_pretrained(model_name)
    lookup = next(i.name for i in implementations("nearest_code") if i.available)
    print(f"{model_name}: {sum(p.numel() for p in model.parameters()):,} parameters, {model.codebook}")
    print(f"lookup: {lookup}, {torch.get_num_threads()} threads\n")

    digits = MNISTDigits("test")
    # One of each class in turn: the held-out digits lie class by class.
    order = torch.arange(len(digits)).reshape(-1, HELD_OUT_PER_CLASS).T.flatten()
    chosen = order[:num_images]
    images, labels = digits.images[chosen], digits.labels[chosen]
    tokens = model.encode(images)
    for label, words in zip(labels.tolist(), model.words(tokens), strict=True):
        print(f'a held-out "{label}" in words, layer by layer (_ is a leading space):')
        print(pyramid_text(words, model.pyramid), "\n")

    print(layer_table(evaluate_reconstruction(model, digits.images)))
    reconstruction_page(model, images, tokens, out)
    print(f"\nThe page with all of it: {out}   ({time.perf_counter() - started:.0f} s)")
