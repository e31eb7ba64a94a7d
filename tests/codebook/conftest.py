from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from spae.codebook import Codebook

WORDS = [" cat", "dog", "", "\n", "\x00", "\ud800", '"quoted"', "<0xE2>", "naïve", "漢字", " The"]


@pytest.fixture(scope="session")
def smollm2() -> Codebook:
    """The real table; its model file is fetched if the cache lacks it."""
    return Codebook.load("smollm2", progress=False)


@pytest.fixture(scope="session")
def small_words() -> list[str]:
    return WORDS


@pytest.fixture(scope="session")
def small() -> Callable[..., Codebook]:
    """small(seed=0, width=5, words=small_words): a random table of these words."""
    return _small


def _small(seed: int = 0, width: int = 5, words: list[str] = WORDS) -> Codebook:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(words), width, generator=generator) + 2
    return Codebook.from_arrays(words, vectors, torch.arange(len(words)) * 3 + 7, name="small")
