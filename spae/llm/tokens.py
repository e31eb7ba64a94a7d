"""A language model's tokenizer: texts to ids and back, and which ids steer the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from spae.llm import folders


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
