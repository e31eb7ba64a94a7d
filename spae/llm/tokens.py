"""A language model's tokenizer: texts to ids and back, and which ids steer the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

from spae.assets.cl100k import ranks, ranks_file
from spae.llm import folders
from spae.llm.protocol import FrozenLLM
from spae.optional import needs

# What cl100k_base cuts a text into before it merges, and its control tokens, as tiktoken has them.
_CL100K_PIECES = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_CL100K_SPECIAL = {
    "<|endoftext|>": 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|endofprompt|>": 100276,
}


class LLMTokenizer(Protocol):
    """What a language model behind a server needs of its tokenizer: the like of `FrozenLLM`'s."""

    @property
    def start_ids(self) -> tuple[int, ...]: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


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
        """That of a model that `spae.llm.load` loads on this machine; of a hub repository nothing else."""
        transformers = folders.require_transformers()
        path = folders.tokenizer_folder(source)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        return cls(tokenizer, parse_special=parse_special)

    def encode(self, text: str) -> list[int]:
        options = {"add_special_tokens": False, "split_special_tokens": not self._parse_special}
        return list(self._tokenizer(text, **options)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return self._tokenizer.decode(list(ids), **options)


class TiktokenTokenizer:
    """A tiktoken encoding as an `LLMTokenizer`. Text that spells a control token is read as that token, so
    that it is never sent.

    encoding: a `tiktoken.Encoding`.
    """

    start_ids: tuple[int, ...] = ()

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding
        names = encoding.special_tokens_set
        self.special_ids = frozenset(encoding.encode_single_token(name) for name in names)

    @classmethod
    def cl100k(cls) -> TiktokenTokenizer:
        """cl100k_base, from the file that the codebook "cl100k" is made of.

        Raises ImportError without tiktoken, and `spae.assets.AssetNotCached` where the file may not be
        fetched.
        """
        try:
            import tiktoken
        except ImportError as error:
            raise ImportError(needs("the tokenizer cl100k", "tiktoken")) from error
        table = ranks(ranks_file())
        encoding = tiktoken.Encoding(
            "cl100k_base", pat_str=_CL100K_PIECES, mergeable_ranks=table, special_tokens=_CL100K_SPECIAL
        )
        return cls(encoding)

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode(text, allowed_special="all")

    def decode(self, ids: Sequence[int]) -> str:
        return self._encoding.decode(list(ids))


def server_tokenizer(source: str | os.PathLike[str] | LLMTokenizer) -> LLMTokenizer:
    """The tokenizer that `spae.llm.http.Server` names: "cl100k", a model's as for `TextTokenizer.load`, or
    itself."""
    if source == "cl100k":
        return TiktokenTokenizer.cl100k()
    if isinstance(source, str | os.PathLike):
        return TextTokenizer.load(source, parse_special=True)
    return source


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
