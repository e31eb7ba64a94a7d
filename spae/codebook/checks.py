"""Arguments of a codebook, checked and brought into its form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def copied(argument: str, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().clone()
    try:
        return torch.tensor(values, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(values).__name__
        raise ValueError(f"{argument}: expected an array of numbers, got {kind} ({error})") from error


def aligned(argument: str, values: Tensor | None, dtype: torch.dtype, vectors: Tensor) -> Tensor:
    """A [K] tensor beside the vectors; None gives 0..K-1, or False everywhere."""
    if values is None:
        whole = torch.arange(len(vectors), device=vectors.device)
        return whole if dtype == torch.int64 else torch.zeros_like(whole, dtype=dtype)
    if not isinstance(values, Tensor):
        raise TypeError(f"{argument}: expected {dtype} [{len(vectors)}], got {type(values).__name__}")
    exact = values.dtype == dtype or (dtype == torch.int64 and values.dtype in (torch.int32, torch.int16))
    if values.shape != vectors.shape[:1] or not exact:
        raise ValueError(
            f"{argument}: expected {dtype} [{len(vectors)}], got {values.dtype} {list(values.shape)}"
        )
    return values.detach().to(vectors.device, dtype)


def word_ids(values: Tensor | None, vectors: Tensor) -> Tensor:
    """`llm_ids` beside the vectors: int64 [K]; or [K, n] if words have up to n > 1 ids, -1 behind a word's
    last."""
    if not isinstance(values, Tensor) or values.ndim != 2:
        ids = aligned("llm_ids", values, torch.int64, vectors)
        wrong = ids < 0
        if ids.device.type != "meta" and wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(f"llm_ids: expected 0 or more, got {int(ids[row])} at position {row}")
        return ids
    if len(values) != len(vectors) or values.shape[1] == 0 or values.dtype != torch.int64:
        raise ValueError(
            f"llm_ids: expected torch.int64 [{len(vectors)}] or [{len(vectors)}, n], "
            f"got {values.dtype} {list(values.shape)}"
        )
    ids = values.detach().to(vectors.device)
    if ids.device.type == "meta":
        return ids
    # A word's ids end where -1 begins: no id may follow one, and the first is no -1.
    wrong = (ids < -1).any(1) | (ids[:, 0] < 0) | ((ids[:, 1:] >= 0) & (ids[:, :-1] < 0)).any(1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"llm_ids: expected ids of 0 or more and -1 behind each word's last, "
            f"got {ids[row].tolist()} at position {row}"
        )
    return trimmed(ids)


def trimmed(ids: Tensor) -> Tensor:
    """`llm_ids` without columns that no word needs: [K] where every word has one id."""
    if ids.ndim == 1 or ids.device.type == "meta":
        return ids
    ids = ids[:, : int((ids >= 0).sum(1).max())]
    return (ids[:, 0] if ids.shape[1] == 1 else ids).clone(memory_format=torch.contiguous_format)


def listed(words: Any) -> list[Any]:
    if isinstance(words, str) or not isinstance(words, Iterable):
        got = f"one string {words!r:.80}" if isinstance(words, str) else type(words).__name__
        raise TypeError(f"words: expected a sequence of words, got {got}")
    return list(words)


def rows_by_word(words: list[str]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, word in enumerate(words):
        if not isinstance(word, str):
            raise TypeError(f"words: expected strings, got {type(word).__name__} at position {row}")
        if (first := rows.setdefault(word, row)) != row:
            raise ValueError(f"words: expected distinct words, got {word!r} at positions {first} and {row}")
    return rows


def rows_of(words: Sequence[str], row_of: Mapping[str, int], name: str) -> Tensor:
    """The row of each word of a table called `name`, int64 [n]; raises as `CodeTable.ids_of`."""
    rows = []
    for position, word in enumerate(listed(words)):
        row = row_of.get(word) if isinstance(word, str) else None
        if row is None:
            raise ValueError(
                f"words: expected words of codebook {name!r}, got {word!r:.80} at position {position}"
            )
        rows.append(row)
    return torch.tensor(rows, dtype=torch.int64)
