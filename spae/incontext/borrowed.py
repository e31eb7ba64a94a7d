"""Words for codes that have none in a language model, so that baselines take part in tasks in context."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from spae.codebook import CodeTable
from spae.incontext.lexicon import speaks
from spae.llm import FrozenLLM
from spae.tokenizers import Tokenizer

_MOST_IDS = 1 << 20  # a vocabulary of more is unheard of


def borrow_words(tokenizer: Tokenizer, llm: FrozenLLM) -> Tokenizer:
    """Let a tokenizer whose codes are no words of a language model borrow some of its words, in place.

    The codes of a VQGAN or an RQ-VAE have no words, an LQAE's are those of a BERT. `Lexicon.of` then writes
    code by code: its own word, where the model has it as one id with a space before it; else the next of the
    model's whole words (a space and letters) that none has, in the order of the ids. Such words say nothing
    of the image; a code is only always written alike. A tokenizer with words of this model keeps them.

    Returns the tokenizer. Raises ValueError if the model has fewer words than there are codes.
    """
    table = tokenizer.codebook
    tokenizer.borrowed_ids = None if speaks(table, llm) else _borrowed(table, llm)
    return tokenizer


def _borrowed(table: CodeTable, llm: FrozenLLM) -> Tensor:
    taken: dict[int, int] = {}  # rows by id, for no two codes may be written alike
    for row, word in enumerate(table.words):
        if word.isalpha() and len(ids := llm.encode(f" {word}")) == 1 and _is_word(llm, ids[0]):
            taken.setdefault(ids[0], row)
    rows = {row: token for token, row in taken.items()}
    others = (token for token in _words(llm) if token not in taken)
    for row in range(len(table)):
        if row not in rows:
            token = next(others, None)
            if token is None:
                raise ValueError(
                    f"codebook: expected no more codes than the {len(rows)} words of {llm.name}, got "
                    f"{len(table)} in {table.name!r}"
                )
            rows[row] = token
    return torch.tensor([rows[row] for row in range(len(table))])


def _words(llm: FrozenLLM) -> Iterator[int]:
    """The ids of the model's whole words, ascending."""
    return (token for token in range(_MOST_IDS) if _is_word(llm, token))


def _is_word(llm: FrozenLLM, token: int) -> bool:
    """A space and letters, which the model's tokenizer reads back as this id."""
    if token in llm.special_ids:
        return False
    try:
        text = llm.decode([token])
    except (ValueError, LookupError, OverflowError):  # beyond the vocabulary, as some tokenizers say
        return False
    return text[:1] == " " and text[1:].isalpha() and llm.encode(text) == [token]
