"""Masked restoration: the hidden words of an image, each from those before (V2L, section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spae.codebook import WordIds
from spae.incontext.lexicon import Lexicon
from spae.incontext.words import ids_of
from spae.llm import FrozenLLM
from spae.tokenizers import PyramidTokens

RATE = 0.3
"""V2L's share of the local words that are hidden."""


def split_words(llm: FrozenLLM, words: Sequence[WordIds], num_local: int) -> tuple[list[int], list[int]]:
    """An image's words as V2L tunes a model on them: ids of all but the last `num_local`, the global words,
    as the beginning of the text, and the ids of those. Where nothing stands before, a line end does.

    Raises ValueError for local words of several ids.
    """
    before, local = list(words[:-num_local]), list(words[-num_local:])
    if several := [word for word in local if not isinstance(word, int)]:
        raise ValueError(f"words: expected local words of one id each, got {several[0]}")
    context = [*llm.start_ids, *(token for word in before for token in ids_of(word))]
    return context or llm.encode("\n"), [token for word in local for token in ids_of(word)]


def hidden_places(images: int, num_local: int, generator: torch.Generator, rate: float = RATE) -> Tensor:
    """Which local words of each image are hidden, bool [images, num_local]: round(rate * num_local) of
    them."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: expected 0 to 1, got {rate}")
    chosen = torch.rand(images, num_local, generator=generator).argsort(1)[:, : round(rate * num_local)]
    return torch.zeros(images, num_local, dtype=torch.bool).scatter(1, chosen, True)


def restore_masked(llm: FrozenLLM, tokens: PyramidTokens, hidden: Tensor, lexicon: Lexicon) -> PyramidTokens:
    """Images with their hidden words written by a language model.

    tokens: of all layers; what stands at hidden places is not looked at. hidden: bool [B, n] of the last
    layer's words. Each hidden word is the likeliest that its layer allows, after the words of the layers
    before and the last layer's words before it, those already written among them.
    """
    num_local = tokens.pyramid.tokens_per_layer[-1]
    if hidden.dtype != torch.bool or hidden.shape != (len(tokens), num_local):
        expected = f"torch.bool [{len(tokens)}, {num_local}]"
        raise ValueError(f"hidden: expected {expected}, got {hidden.dtype} {list(hidden.shape)}")
    if tokens.num_layers != tokens.pyramid.num_layers:
        raise ValueError(f"tokens: expected all {tokens.pyramid.num_layers} layers, got {tokens.num_layers}")
    allowed = lexicon.allowed(tokens.pyramid.num_tokens - 1)
    restored = []
    for words, places in zip(lexicon.llm_ids(tokens), hidden, strict=True):
        context, local = split_words(llm, words, num_local)
        written = _written(llm, context, local, places.nonzero()[:, 0].tolist(), allowed)
        restored.append((*words[:-num_local], *written))
    return lexicon.tokens(restored)


def _written(
    llm: FrozenLLM, context: list[int], local: list[int], hidden: list[int], allowed: Tensor
) -> list[int]:
    local = list(local)
    prefix, read = None, 0
    for place in hidden:
        text = [*context, *local[:place]]
        if len(text) - 1 > read:
            prefix, read = llm.prefix(text[read:-1], prefix), len(text) - 1
        local[place] = int(llm.generate([text[-1:]], 1, prefix=prefix, allowed=[allowed])[0, 0])
    return local
