"""The command that fits a `RidgeMap` from Lite0's pooled features to MiniLM's caption features:

python -m spae.scorers.fit_ridge --data emoji --split train --test-split new_concept --out ridge.safetensors
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from spae.data import open_data
from spae.scorers.conse import ConSEScorer
from spae.scorers.features import dataset_features
from spae.scorers.ridge import fit


def recall_at(images: Tensor, texts: Tensor, k: int) -> float:
    """The share of images [n, E] whose own text, the row of the same number, is among the k best."""
    scores = images @ texts.T
    return ((scores > scores.diag()[:, None]).sum(1) < k).float().mean().item()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spae.scorers.fit_ridge", description="Fit a ridge map.")
    parser.add_argument("--data", default="emoji", help="a data set with captions (default: emoji)")
    parser.add_argument("--split", default="train", help="its split (default: train)")
    parser.add_argument("--test-split", help="measure recall of captions on this split, too")
    parser.add_argument("--size", type=int, default=64, help="pixels a side (default: 64)")
    parser.add_argument("--penalty", type=float, default=2.0, help="default: 2")
    parser.add_argument("--out", type=Path, required=True, help="where the map goes (.safetensors)")
    arguments = parser.parse_args(argv)
    scorer = ConSEScorer.load()
    dataset = open_data(arguments.data, arguments.split, image_size=arguments.size)
    if not all(dataset.captions):
        raise ValueError(f"data: expected a set with a caption for each image, got {arguments.data!r}")
    report: dict[str, float | int | str] = {"images": len(dataset)}
    ridge = fit(scorer.embeddings_of(dataset), scorer.encoder(dataset.captions).cpu(), arguments.penalty)
    ridge.save(arguments.out)
    if arguments.test_split:
        test = open_data(arguments.data, arguments.test_split, image_size=arguments.size)
        # One image a caption: several pictures of the same thing would have the same answer.
        first = sorted({caption: i for i, caption in reversed(list(enumerate(test.captions)))}.values())
        texts = [test.captions[i] for i in first]
        for name, candidate in (("conse", scorer), ("ridge", ConSEScorer.load(ridge=ridge))):
            features = dataset_features(candidate, test)[first]
            report[f"recall@5 {name}"] = recall_at(features, candidate.text_features(texts).cpu(), 5)
        report["recall@5 chance"] = 5 / len(texts)
    print(json.dumps(report | {"out": str(arguments.out)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
