"""The 99,483 tokens of tiktoken's cl100k_base that are UTF-8 on their own, with vectors from a text
encoder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spae import assets
from spae.assets.cl100k import ranks, ranks_file
from spae.assets.resumable import resumable
from spae.codebook import vocabulary
from spae.codebook.data import CodebookData
from spae.codebook.storage import prepared
from spae.models.minilm import MiniLM

_VERSION = 1
_CHUNK = 2048  # words per encoder call, and per file that survives an interruption


def load(encode: Callable[[list[str]], Tensor] | None, *, progress: bool = True) -> CodebookData:
    """The codebook, with vectors from `encode` (n texts -> [n, D]) or, if that is None, from MiniLM."""
    ids, words = valid_tokens(ranks_file(progress=progress))
    if encode is not None:
        vectors = np.concatenate([_encoded(encode, chunk) for chunk in _chunks(words)])
        return _codebook(ids, words, vectors, "cl100k")
    weights = next(file for file in assets.REGISTRY["minilm"].files if file.name == "model.safetensors")
    entry = f"codebooks/cl100k-minilm-{weights.sha256[:12]}-v{_VERSION}"

    def make() -> CodebookData:
        encoder = MiniLM.load(progress=progress)
        # Beside the entry, not inside: what is encoded already must outlive an interruption.
        parts = assets.cache_root() / "derived" / f"{entry}.parts"
        vectors = resumable(
            lambda chunk: _encoded(encoder, chunk), words, parts, chunk=_CHUNK, progress=progress
        )
        codebook = _codebook(ids, words, vectors, "cl100k")
        shutil.rmtree(parts)
        return codebook

    return prepared(entry, make)


def valid_tokens(file: Path) -> tuple[list[int], list[str]]:
    """The ranks and texts of the tokens that are UTF-8 on their own, by rank."""
    ids, words = [], []
    for token, rank in ranks(file).items():
        if (text := vocabulary.decoded(token)) is not None:
            ids.append(rank)
            words.append(text)
    return ids, words


def _codebook(ids: list[int], words: list[str], vectors: np.ndarray, name: str) -> CodebookData:
    # Its tokenizer looks a whole piece up before it merges, so a token reads back whenever it is one piece.
    round_trips = [vocabulary.cl100k_piece(word) for word in words]
    return CodebookData.of(
        words,
        torch.from_numpy(vectors),
        torch.tensor(ids),
        round_trips=torch.tensor(round_trips),
        name=name,
    )


def _chunks(words: list[str]) -> list[list[str]]:
    return [words[start : start + _CHUNK] for start in range(0, len(words), _CHUNK)]


def _encoded(encode: Callable[[list[str]], Tensor], words: list[str]) -> np.ndarray:
    vectors = encode(words)
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != len(words):
        got = list(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ValueError(f"encode: expected a tensor [{len(words)}, D] for {len(words)} texts, got {got}")
    return vectors.detach().to("cpu", torch.float32).numpy()
