"""A start for semantic features that knows the words already: a regression before the first step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spae.codebook import VectorTable
from spae.configs import Count, Positive, Weight
from spae.losses.semantic import SemanticLoss, relative_scores
from spae.models.semantic_features import SemanticFeatures
from spae.models.semantic_words import SemanticWords


def start_semantic_features(
    features: SemanticFeatures,
    semantic: SemanticLoss,
    codebook: VectorTable,
    dataset: Dataset[Any],
    *,
    sharpness: Weight = 33.0,
    ridge: Positive = 0.5,
    batch_size: Count = 64,
) -> None:
    """`SemanticFeatures.fit` to the words that fit the images of a data set.

    An image's target is the mean of the words' vectors, weighed by the softmax of `sharpness` times their
    relative scores (eq. 6), and brought to the table's zero mean and unit variance in every channel, as
    latents are before the matched norm. One pass over the data set, which takes the frozen network's forward
    passes; the semantic loss draws nothing.

    Args:
        features: the model's. codebook: what its latents are looked up in (`Tokenizer.table`).
        semantic: for its text features.
        dataset: of (image, feature of the image).
        ridge: see `SemanticFeatures.fit`.
    """
    device = features.mask.device
    table = codebook.vectors.to(device)
    std, mean = torch.std_mean(table, dim=0, correction=0)
    standard = (table - mean) / std.clamp_min(1e-12)

    def batches():
        for images, guidance in DataLoader(dataset, batch_size=batch_size):
            images, guidance = images.to(device), guidance.to(device)
            yield images, target(guidance)

    def target(guidance: Tensor) -> Tensor:
        scores = relative_scores(semantic.scores(guidance, len(guidance)))
        return torch.softmax(sharpness * scores, dim=1) @ standard

    with torch.no_grad():
        features.fit(batches(), ridge=ridge)


def start_semantic_words(
    words: SemanticWords,
    semantic: SemanticLoss,
    dataset: Dataset[Any],
    *,
    ridge: Positive = 3.0,
    batch_size: Count = 64,
) -> None:
    """`SemanticWords.fit` to what the scorer sees in the images of a data set as wholes. One pass over it.

    Args:
        words: the model's. semantic: for its text features.
        dataset: of (image, feature of the image or of its regions, the image as a whole first).
        ridge: see `SemanticWords.fit`.
    """
    device = words.words.device
    batches = (
        (images.to(device), (guidance if guidance.ndim == 2 else guidance[:, 0]).to(device))
        for images, guidance in DataLoader(dataset, batch_size=batch_size)
    )
    words.fit(batches, semantic.text_features, ridge=ridge)
