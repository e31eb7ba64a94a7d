"""The 99,483 tokens of tiktoken's cl100k_base that are UTF-8 on their own, with vectors from a text
encoder."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spae import assets
from spae.codebook import vocabulary
from spae.codebook.storage import prepared
from spae.codebook.table import Codebook

_VERSION = 1
_CHUNK = 2048  # words per encoder call, and per file that survives an interruption
_BATCH = 256
_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"


def load(encode: Callable[[list[str]], Tensor] | None, *, progress: bool = True) -> Codebook:
    """The codebook, with vectors from `encode` (n texts -> [n, D]) or, if that is None, from MiniLM."""
    ids, words = valid_tokens(_ranks_file(progress))
    if encode is not None:
        vectors = np.concatenate([_encoded(encode, chunk) for chunk in _chunks(words)])
        return _codebook(ids, words, vectors, "cl100k")
    weights = next(file for file in assets.REGISTRY["minilm"].files if file.name == "model.safetensors")
    entry = f"codebooks/cl100k-minilm-{weights.sha256[:12]}-v{_VERSION}"

    def make() -> Codebook:
        folder = assets.require("minilm", progress=progress)
        # Beside the entry, not inside: what is encoded already must outlive an interruption.
        parts = assets.cache_root() / "derived" / f"{entry}.parts"
        vectors = _resumable(minilm_encoder(folder), words, parts, progress)
        codebook = _codebook(ids, words, vectors, "cl100k")
        shutil.rmtree(parts)
        return codebook

    return prepared(entry, make)


def valid_tokens(ranks: Path) -> tuple[list[int], list[str]]:
    """The ranks and texts of the tokens that are UTF-8 on their own, by rank."""
    ids, words = [], []
    for line in ranks.read_bytes().splitlines():
        token, rank = line.split()
        if (text := vocabulary.decoded(base64.b64decode(token))) is not None:
            ids.append(int(rank))
            words.append(text)
    return ids, words


def minilm_encoder(folder: Path) -> Callable[[list[str]], Tensor]:
    """MiniLM as a text encoder: mean of the last hidden states over a text's tokens, n texts -> float32 [n,
    384]."""
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = BertModel.from_pretrained(folder, local_files_only=True).eval()

    @torch.inference_mode()
    def encode(texts: list[str]) -> Tensor:
        readings = tokenizer(texts, truncation=True)["input_ids"]
        # Words that differ in case or white space read the same: each reading is encoded once, by length.
        distinct = sorted(
            {tuple(reading) for reading in readings}, key=lambda reading: (len(reading), reading)
        )
        place = {reading: i for i, reading in enumerate(distinct)}
        vectors = []
        for start in range(0, len(distinct), _BATCH):
            batch = tokenizer.pad(
                {"input_ids": [list(r) for r in distinct[start : start + _BATCH]]}, return_tensors="pt"
            )
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            vectors.append((hidden * mask).sum(dim=1) / mask.sum(dim=1))
        return torch.cat(vectors)[[place[tuple(reading)] for reading in readings]]

    return encode


def _ranks_file(progress: bool) -> Path:
    """The ranks: from our cache, else from tiktoken's own, else fetched."""
    try:
        return assets.path("cl100k")
    except assets.AssetNotCached:
        folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
        folder = Path(folder or Path(tempfile.gettempdir()) / "data-gym-cache")
        file = folder / hashlib.sha1(_URL.encode()).hexdigest()
        expected = assets.REGISTRY["cl100k"].files[0].sha256
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == expected:
            return file
        return assets.require("cl100k", progress=progress)


def _codebook(ids: list[int], words: list[str], vectors: np.ndarray, name: str) -> Codebook:
    # Its tokenizer looks a whole piece up before it merges, so a token reads back whenever it is one piece.
    round_trips = [vocabulary.cl100k_piece(word) for word in words]
    return Codebook(
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


def _resumable(
    encode: Callable[[list[str]], Tensor], words: list[str], parts: Path, progress: bool
) -> np.ndarray:
    """Encode chunk by chunk, each kept in a file of its own as soon as it is done."""
    parts.mkdir(parents=True, exist_ok=True)
    chunks = _chunks(words)
    done = []
    for number, chunk in enumerate(chunks):
        part = parts / f"{number:05d}.npy"
        if part.exists():
            done.append(np.load(part))
            continue
        done.append(_encoded(encode, chunk))
        unfinished = part.with_suffix(".tmp")
        with unfinished.open("wb") as stream:
            np.save(stream, done[-1])
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, part)
        if progress:
            words_done = sum(map(len, done))
            end = "\n" if number + 1 == len(chunks) else ""
            print(f"\rspae: encoded {words_done} of {len(words)} words", end=end, file=sys.stderr, flush=True)
    return np.concatenate(done)
