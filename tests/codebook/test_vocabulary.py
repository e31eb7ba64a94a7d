"""Words, escapes and reading back, against the `regex` module and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spae.codebook import vocabulary

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
TEXTS = st.text(
    alphabet="aZé漢'sStdmlvre 129½²Ⅷ\t\n\r\v\x1c\x85\xa0\u2003.!_\u0301\U0001f600", min_size=1, max_size=6
)


@pytest.mark.parametrize(
    ("is_one_piece", "pattern"), [(vocabulary.gpt2_piece, GPT2), (vocabulary.cl100k_piece, CL100K)]
)
def test_pieces_are_those_of_the_pattern(is_one_piece, pattern):
    regex = pytest.importorskip("regex", reason="needs the package regex")
    compiled = regex.compile(pattern)

    @given(TEXTS)
    def check(text):
        assert is_one_piece(text) == (compiled.findall(text) == [text]), repr(text)

    check()


def test_smollm_splits_every_number_character():
    assert vocabulary.smollm_piece("7")
    assert vocabulary.smollm_piece("½")
    assert not vocabulary.smollm_piece("12")
    assert not vocabulary.smollm_piece(" 1")
    assert vocabulary.smollm_piece(" one")


def test_byte_level_alphabet_is_a_bijection():
    spelled = vocabulary.byte_level_bytes("".join(vocabulary._BYTE_OF))
    assert spelled is not None
    assert sorted(spelled) == list(range(256))
    assert vocabulary.byte_level_bytes("Ġthe") == b" the"
    assert vocabulary.byte_level_bytes("\u2581the") is None


def test_merges_follow_ranks_not_the_vocabulary():
    # "abc" can be reached only through "ab"; the better-ranked "bc" is always taken first.
    merges = vocabulary.ByteLevelMerges(["b c", "a b", "ab c"], lambda text: True)
    assert merges.is_one_token("bc")
    assert merges.is_one_token("ab")
    assert not merges.is_one_token("abc")
    assert vocabulary.ByteLevelMerges(["a b", "b c", "ab c"], lambda text: True).is_one_token("abc")


def test_scored_merges_follow_scores():
    assert vocabulary.ScoredMerges({"ab": -1, "bc": -2, "abc": -3}).is_one_token("abc")
    assert not vocabulary.ScoredMerges({"cd": -1, "bc": -2, "abc": -3, "abcd": -4}).is_one_token("abcd")
    assert vocabulary.ScoredMerges({"\u2581a": 0.0}).is_one_token(" a")


def test_added_tokens_are_cut_out_first():
    added = vocabulary.AddedTokens({"<end>": 0})
    texts, ids = ["<end>", "x<end>", "x", "y", None, ""], [0, 1, 2, 9, 4, 5]
    token_ids = {"x": 2, "x<end>": 1, "y": 3}
    assert (
        vocabulary.read_back(texts, ids, added, lambda text: True, token_ids)
        == [True, False, True] + [False] * 3
    )


def test_escapes_by_hand():
    spellings = [b"\xe2\x96", b"A", b"A", b"<0xE2><0x96>", b"", b"\xe2\x96"]
    words = vocabulary.distinct_words(spellings, {"A": 2, "<0xE2><0x96>": 3})
    assert words == ["<0xE2><0x96><id 0>", "<0x41>", "A", "<0xE2><0x96>", "<id 4>", "<0xE2><0x96><id 5>"]


SPELLINGS = st.one_of(
    st.binary(max_size=2), st.sampled_from([b"A", b"<0x41>", b"<0x41><id 1>", b"<id 0>", b"\xff", b"<0xFF>"])
)


@given(st.lists(SPELLINGS, min_size=1, max_size=12), st.randoms())
def test_words_are_always_distinct_and_owners_keep_their_text(spellings, random):
    order = random.sample(range(len(spellings)), len(spellings))
    texts = [vocabulary.decoded(spelling) for spelling in spellings]
    owners = {text: i for i in order if (text := texts[i])}
    words = vocabulary.distinct_words(spellings, owners)
    assert len(set(words)) == len(words)
    assert all(words[i] == text for text, i in owners.items())
