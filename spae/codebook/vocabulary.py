"""Vocabularies: the bytes each id writes, distinct words for them, and which words read back as their own id.

Pure Python, no tokenizer library. A tokenizer reads a text in up to three steps: added tokens (control and
user-defined ones) are cut out first, a pre-tokenizer cuts the rest into pieces, and merges join each piece's
symbols. To know whether one word reads back as one id, it is enough to ask whether no step but the last
touches it and whether the merges end in one symbol; that is what is written here, for two families:

- byte-level BPE (GPT-2's; Radford et al. 2019): symbols are bytes, written as 256 printable characters, and
  the merge of lowest rank goes first;
- scored merges (SentencePiece's BPE; Kudo and Richardson 2018): symbols are characters, and the merge whose
  result has the highest score goes first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

_SPM_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
# Unicode's White_Space; str.isspace() would add the separators U+001C to U+001F.
_WHITE_SPACE = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(code) for code in range(0x2000, 0x200B)
}


def _printable_bytes() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 characters for themselves, U+0100 onwards for the other bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _printable_bytes()


def byte_level_bytes(token: str) -> bytes | None:
    """The bytes that a byte-level token writes; None if it is not written in GPT-2's alphabet."""
    if any(character not in _BYTE_OF for character in token):
        return None
    return bytes(_BYTE_OF[character] for character in token)


def spm_bytes(token: str) -> bytes:
    """The bytes that a SentencePiece token writes."""
    return token.replace(_SPM_SPACE, " ").encode("utf-8", "surrogatepass")


def decoded(spelling: bytes) -> str | None:
    """The text of some bytes, or None where they are not UTF-8 on their own."""
    try:
        return spelling.decode("utf-8")
    except UnicodeDecodeError:
        return None


def distinct_words(spellings: Sequence[bytes], owners: Mapping[str, int]) -> list[str]:
    """One word for each id 0, 1, .. of a vocabulary, all different.

    `owners` says which id each text belongs to, among those that write it. That id's word is the text itself.
    Every other id's word is its bytes in hexadecimal, `<0xE2><0x96>`, with its number behind if that is taken
    too, `<0xE2><0x96><id 17>`. So words map back to ids exactly, whatever the vocabulary.
    """
    taken = set(owners)
    words = []
    for i, spelling in enumerate(spellings):
        word = decoded(spelling)
        if not word or owners[word] != i:
            word = "".join(f"<0x{byte:02X}>" for byte in spelling)
            while not word or word in taken:
                word += f"<id {i}>"
            taken.add(word)
        words.append(word)
    return words


class AddedTokens:
    """The tokens that a tokenizer cuts out of a text before anything else."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = ids
        longest_first = sorted(filter(None, ids), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def occur_in(self, text: str) -> bool:
        return self._pattern is not None and self._pattern.search(text) is not None


def read_back(
    texts: Iterable[str | None],
    llm_ids: Iterable[int],
    added: AddedTokens,
    is_one_token: Callable[[str], bool],
    token_ids: Mapping[str, int],
) -> list[bool]:
    """For each text, whether the tokenizer reads it as exactly the id beside it.

    `is_one_token` answers for a text without added tokens; `token_ids` gives the id of such a text if it is.
    """
    return [
        text is not None
        and text != ""
        and (
            added.ids[text] == llm_id
            if text in added.ids
            else token_ids.get(text) == llm_id and not added.occur_in(text) and is_one_token(text)
        )
        for text, llm_id in zip(texts, llm_ids, strict=True)
    ]


class ByteLevelMerges:
    """Byte-level BPE: whether a text is one token, given the merges in order of rank ("left right")."""

    def __init__(self, merges: Iterable[str], is_one_piece: Callable[[str], bool]) -> None:
        self._ranks: dict[tuple[str, str], int] = {}
        for rank, merge in enumerate(merges):
            left, _, right = merge.partition(" ")
            self._ranks.setdefault((left, right), rank)
        self._is_one_piece = is_one_piece
        self._character_of = {byte: character for character, byte in _BYTE_OF.items()}

    def is_one_token(self, text: str) -> bool:
        if not self._is_one_piece(text):
            return False
        symbols = [self._character_of[byte] for byte in text.encode("utf-8")]
        return _merges_to_one(symbols, lambda left, right: self._ranks.get((left, right)))


class ScoredMerges:
    """SentencePiece BPE: whether a text is one token, given each token's score."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        self._scores = scores

    def is_one_token(self, text: str) -> bool:
        def rank(left: str, right: str) -> float | None:
            score = self._scores.get(left + right)
            return None if score is None else -score

        return _merges_to_one(list(text.replace(" ", _SPM_SPACE)), rank)


def _merges_to_one(symbols: list[str], rank: Callable[[str, str], float | None]) -> bool:
    """Merge the adjacent pair of lowest rank, the leftmost of equals, until none is left or one symbol
    remains."""
    ranks = [rank(left, right) for left, right in pairwise(symbols)]
    while len(symbols) > 1:
        best = None
        for i, value in enumerate(ranks):
            if value is not None and (best is None or value < ranks[best]):  # type: ignore[operator]
                best = i
        if best is None:
            return False
        symbols[best : best + 2] = [symbols[best] + symbols[best + 1]]
        del ranks[best]
        if best > 0:
            ranks[best - 1] = rank(symbols[best - 1], symbols[best])
        if best < len(ranks):
            ranks[best] = rank(symbols[best], symbols[best + 1])
    return True


def _kinds(text: str) -> str:
    """One letter per character: S white space, L letter, N number, O other."""
    kinds = []
    for character in text:
        category = unicodedata.category(character)[0]
        kinds.append("S" if character in _WHITE_SPACE else category if category in "LN" else "O")
    return "".join(kinds)


_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def gpt2_piece(text: str) -> bool:
    r"""Whether GPT-2's pre-tokenizer leaves a text whole.

    Its pattern: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    """
    if text in _CONTRACTIONS:
        return True
    kinds = _kinds(text)
    body = kinds[1:] if text[:1] == " " and len(text) > 1 else kinds
    return len(set(body)) == 1 and (body[0] != "S" or body[0] == kinds[0])


def smollm_piece(text: str) -> bool:
    """Whether SmolLM's pre-tokenizer leaves a text whole: each number character alone, then GPT-2's
    pattern."""
    if "N" in _kinds(text):
        return len(text) == 1
    return gpt2_piece(text)


def cl100k_piece(text: str) -> bool:
    r"""Whether cl100k_base's pre-tokenizer leaves a text whole.

    Its pattern: `'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|
    ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|...`; the alternatives left out match white space that something follows,
    so never a whole text.
    """
    kinds = _kinds(text)
    if contraction := re.match(r"'(?:[sdmt]|ll|ve|re)", text, re.IGNORECASE):
        return contraction.end() == len(text)
    if re.fullmatch("[OS]?L+", kinds) and text[0] not in "\r\n":
        return True
    if re.fullmatch("N{1,3}|S+", kinds):
        return True
    stripped = text.rstrip("\r\n")
    return re.fullmatch("O+", kinds[text[:1] == " " : len(stripped)]) is not None
