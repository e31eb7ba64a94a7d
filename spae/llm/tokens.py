"""A language model's tokenizer: texts to ids and back, and which ids steer the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from spae.llm import folders
from spae.llm.protocol import FrozenLLM


class TextTokenizer:
    """A transformers tokenizer as `FrozenLLM` needs one.

    parse_special: whether text that spells a control token becomes that token (as servers read text) or stays
    plain text.
    """

    def __init__(self, tokenizer: Any, *, parse_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._parse_special = parse_special
        added = tokenizer.added_tokens_decoder
        self.special_ids = frozenset(tokenizer.all_special_ids) | {i for i in added if added[i].special}
        plain = self.encode("a")
        framed = list(tokenizer("a")["input_ids"])
        self.start_ids = tuple(framed[: len(framed) - len(plain)]) if framed[-len(plain) :] == plain else ()

    @classmethod
    def load(cls, source: str | os.PathLike[str], *, parse_special: bool = False) -> TextTokenizer:
        """The tokenizer of a model that `spae.llm.load` loads from this machine."""
        transformers = folders.require_transformers()
        _, _, path = folders.folder(source)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        return cls(tokenizer, parse_special=parse_special)

    def encode(self, text: str) -> list[int]:
        options = {"add_special_tokens": False, "split_special_tokens": not self._parse_special}
        return list(self._tokenizer(text, **options)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return self._tokenizer.decode(list(ids), **options)


def text_of(llm: FrozenLLM, ids: Sequence[int]) -> str:
    """Some ids as text that the model's tokenizer reads back as the same ids, without `start_ids` (a server
    adds those itself).

    Raises ValueError naming the first word that does not read back, where it stands and what it becomes.
    """
    start = len(llm.start_ids) if tuple(ids[: len(llm.start_ids)]) == llm.start_ids else 0
    ids = list(ids[start:])
    for position, token in enumerate(ids):
        if token in llm.special_ids:
            raise ValueError(
                f"prompt: expected no control token, which cannot go into a text, got id {token} "
                f"({llm.decode([token])!r}) at position {position}"
            )
    text = llm.decode(ids)
    back = llm.encode(text)
    if back != ids:
        position = next(
            (i for i, (a, b) in enumerate(zip(ids, back, strict=False)) if a != b), min(len(ids), len(back))
        )
        was, now = (llm.decode(side[position : position + 2]) for side in (ids, back))
        word = llm.decode(ids[position : position + 1])
        raise ValueError(
            f"prompt: expected words that read back from text, got {word!r} "
            f"(id {ids[position] if position < len(ids) else None}) at position {position}: {was!r} is read "
            f"as {now!r} ({back[position : position + 2]})"
        )
    return text
