"""Do a tokenizer's words say what the images show?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spae.eval.run import Measured, Run
from spae.eval.table import markdown
from spae.losses.semantic import relative_scores
from spae.metrics import psnr
from spae.tokenizers import Tokenizer
from spae.tokenizers.batches import decode_all, encode_all

ABOUT = "How well each layer's words fit the emoji, for the four splits."
USES_LLM = False
NORMAL_95 = 1.96


def add(parser: argparse.ArgumentParser) -> None:
    """Nothing can be chosen."""


def settings(arguments: argparse.Namespace) -> None:
    """There are none."""


def measure(run: Run) -> Measured:
    return Measured(evaluate_emoji(run.model), partial(draw_emoji, run.model))


def table(report: dict[str, Any]) -> str:
    """A report of `evaluate_emoji` as a Markdown table, one row per split and layer."""
    header = [
        "split",
        "images",
        "layer",
        "words",
        "relative score",
        "random",
        "best",
        "distinct",
        "PSNR (dB)",
    ]
    rows = [
        [
            split,
            str(result["images"]),
            str(row["layer"]),
            str(row["words_per_image"]),
            f"{row['score']:.3f} ± {row['interval']:.3f}",
            f"{row['random']:.3f}",
            f"{row['best']:.3f}",
            f"{row['distinct']:.1f}",
            f"{row['psnr']:.2f}",
        ]
        for split, result in report["splits"].items()
        for row in result["layers"]
    ]
    return markdown(header, rows, f"scores by {report['scorer']}; 95% intervals over concepts")


@torch.no_grad()
def evaluate_semantics(
    model: Tokenizer,
    images: Tensor,
    guidance: Tensor,
    text_features: Tensor,
    *,
    groups: Sequence[Any] | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
    """How well each layer's words fit the images, by a scorer: the mean of their relative scores (eq. 6).

    images: [N, C, H, W] in [-1, 1]. guidance: the scorer's feature of each image [N, E]. text_features: those
    of the codebook's words [K, E]. groups: what makes images alike, one per image; the interval is then taken
    over groups' means, as if each were one image. The model should be in evaluation mode.

    For each layer: "score"; "interval", half the width of its 95% confidence interval over images (or
    groups), normal approximation; "random", what words drawn from the whole codebook get; "best", what the
    best words get, as many different ones as the layer has tokens; "similarity", the mean of the raw scores;
    "distinct", how many different words an image has in the layer; "psnr" of the layers up to it, in dB.
    """
    if guidance.shape != (len(images), text_features.shape[1]):
        expected = [len(images), text_features.shape[1]]
        raise ValueError(f"guidance: expected shape {expected}, got {list(guidance.shape)}")
    if len(text_features) != len(model.codebook.words):
        raise ValueError(
            f"text_features: expected one row for each of {len(model.codebook.words)} words, "
            f"got {list(text_features.shape)}"
        )
    tokens = encode_all(model, images, batch_size=batch_size)
    sizes = model.pyramid.tokens_per_layer
    raw, relative, ranked, random = [], [], [], []
    for ids, features in zip(tokens.ids.cpu().split(batch_size), guidance.split(batch_size), strict=True):
        scores = features.float() @ text_features.float().T
        raw.append(scores.gather(1, ids))
        scores = relative_scores(scores)
        relative.append(scores.gather(1, ids))
        random.append(scores.mean(1))
        ranked.append(scores.topk(min(max(sizes), scores.shape[1])).values)
    raw, relative, random, ranked = (torch.cat(parts) for parts in (raw, relative, random, ranked))
    layers = []
    for layer, size in enumerate(sizes):
        start = model.pyramid.num_tokens_upto(layer)
        columns = slice(start, start + size)
        words = tokens.layer(layer).sort(dim=1).values
        values = relative[:, columns].mean(1)
        decoded = decode_all(model, tokens.upto(layer + 1), batch_size=batch_size)
        layers.append(
            {
                "layer": layer + 1,
                "words_per_image": size,
                "score": values.mean().item(),
                "interval": _interval(values, groups),
                "random": random.mean().item(),
                "best": ranked[:, :size].mean().item(),
                "similarity": raw[:, columns].mean().item(),
                "distinct": 1 + (words.diff(dim=1) != 0).sum(1).float().mean().item(),
                "psnr": psnr(images, decoded).mean().item(),
            }
        )
    count = len(images) if groups is None else len(set(groups))
    return {"images": len(images), "groups": count, "codebook": len(text_features), "layers": layers}


def evaluate_emoji(model: Tokenizer, scorer: Any = None) -> dict[str, Any]:
    """`evaluate_semantics` for the four splits of the emoji, by name; images of one concept are a group.

    scorer: None means CaptionScorer, which compares words with each emoji's name.
    """
    from spae.data.emoji import SPLITS, Emoji
    from spae.scorers import CaptionScorer, TextFeatureCache, dataset_features

    scorer = CaptionScorer() if scorer is None else scorer
    text_features = TextFeatureCache(scorer).features(model.codebook.words)
    splits = {}
    for split in SPLITS:
        dataset = Emoji(split, model.config.image_size[0])
        splits[split] = evaluate_semantics(
            model,
            torch.stack([image for image, _ in dataset]),
            dataset_features(scorer, dataset),
            text_features,
            groups=dataset.concepts,
        )
    return {"scorer": scorer.name, "splits": splits}


def draw_emoji(model: Tokenizer, path: Path, *, per_split: int = 3) -> None:
    """A page of emoji and their words: `per_split` from each of the four splits, evenly spread over it."""
    from spae.data.emoji import SPLITS, Emoji
    from spae.figures import semantics_page

    images, captions = [], []
    for split in SPLITS:
        dataset = Emoji(split, model.config.image_size[0])
        for place in range(per_split):
            item = (2 * place + 1) * len(dataset) // (2 * per_split)
            images.append(dataset[item][0])
            captions.append(f"{dataset.captions[item]}\n({split.replace('_', ' ')})")
    stacked = torch.stack(images)
    semantics_page(model, stacked, encode_all(model, stacked), captions, path)


def _interval(values: Tensor, groups: Sequence[Any] | None) -> float:
    if groups is not None:
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        index = torch.tensor([numbers[group] for group in groups])
        totals = torch.zeros(len(numbers)).index_add_(0, index, values)
        values = totals / torch.bincount(index)
    if len(values) < 2:
        return float("nan")
    return NORMAL_95 * values.std().item() / len(values) ** 0.5
