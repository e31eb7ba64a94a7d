"""What a tokenizer looks words up in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from spae_ops import CodeIndex


class VectorTable(Protocol):
    """What latents are looked up in: a code table's own vectors, or what they are projected to.

    vectors: floating-point [K, D]. index: the same, prepared for lookups, as they are now. width: D.
    """

    @property
    def vectors(self) -> Tensor: ...
    @property
    def index(self) -> CodeIndex: ...
    @property
    def width(self) -> int: ...

    def __len__(self) -> int: ...


@runtime_checkable
class CodeTable(VectorTable, Protocol):
    """K words with a vector of width D each: a frozen `Codebook`, a `LearnedCodebook`, or one of your own.

    words: K distinct strings. name: which table this is. vectors, index, width: see `VectorTable`.
    llm_ids: int64 [K], each word's id in a language model's vocabulary; int64 [K, n] if words have up to n
        ids, with -1 behind each word's last (`spellings`); None for words of no language.
    checksum: SHA-256 (hex) over the content; tokens mean the same where it is the same.
    """

    @property
    def words(self) -> list[str]: ...
    @property
    def name(self) -> str: ...
    @property
    def llm_ids(self) -> Tensor | None: ...
    @property
    def checksum(self) -> str: ...

    def ids_of(self, words: Sequence[str]) -> Tensor:
        """n words -> their rows, int64 [n]. Raises ValueError for a word that is not in the table."""
        ...

    def identity(self) -> dict[str, Any]:
        """What a checkpoint says of the table, as JSON values: "name", "shape" and a "checksum" of all that
        the weights do not hold themselves. Checkpoints load beside a table of the same "checksum" only."""
        ...


WordIds = int | tuple[int, ...]
"""A word as a language model writes it: its id, or several."""


def spellings(llm_ids: Tensor) -> list[WordIds]:
    """`CodeTable.llm_ids`, int64 [K] or [K, n], word by word: an int where a word has one id, else a tuple.

    >>> from torch import tensor
    >>> spellings(tensor([[5, 7], [9, -1]]))
    [(5, 7), 9]
    """
    if llm_ids.ndim == 1:
        return llm_ids.tolist()
    words = [tuple(token for token in row if token >= 0) for row in llm_ids.tolist()]
    return [word[0] if len(word) == 1 else word for word in words]
