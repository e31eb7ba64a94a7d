"""Images of a data set as a tokenizer's tokens, and as the words that a language model reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from spae.codebook import WordIds
from spae.data import Images
from spae.incontext import Lexicon
from spae.llm import FrozenLLM
from spae.tokenizers import PyramidTokens, Tokenizer
from spae.tokenizers.batches import encode_all


def stack(dataset: Dataset[Any], items: Sequence[int]) -> Tensor:
    """The images of some items, float32 [N, C, H, W]."""
    return torch.stack([dataset[item][0] for item in items])


def spread(dataset: Dataset[Any], count: int | None) -> Images:
    """So many items of a data set, evenly spread, or all; None: all.

    Raises ValueError where that is less than 2, for intervals need several.
    """
    total = len(dataset)  # pyright: ignore[reportArgumentType]
    count = total if count is None else min(count, total)
    if count < 2:
        raise ValueError(f"images: expected at least 2, for figures with intervals, got {count} of {total}")
    return Images(dataset, [i * total // count for i in range(count)])


def pictures_of(dataset: Dataset[Any], items: Iterable[int]) -> dict[int, Tensor]:
    """The images of those items of a data set that an evaluation shows, each float32 [C, H, W]."""
    return {item: dataset[item][0] for item in sorted(set(items))}


def encode_items(model: Tokenizer, pictures: dict[int, Tensor]) -> dict[int, PyramidTokens]:
    """The tokens of some items' images, each one image's."""
    tokens = encode_all(model, torch.stack(list(pictures.values())))
    return {item: tokens[i : i + 1] for i, item in enumerate(pictures)}


def words_of(
    model: Tokenizer, llm: FrozenLLM, tokens: dict[int, PyramidTokens], num_layers: int
) -> dict[int, tuple[WordIds, ...]]:
    """Each item's words of the first layers, as ids of the language model."""
    lexicon = Lexicon.of(model, llm)
    return {item: lexicon.llm_ids(one.upto(num_layers))[0] for item, one in tokens.items()}
