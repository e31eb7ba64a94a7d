"""Words of several ids."""

from __future__ import annotations

import pytest
import torch

from spae.codebook import Codebook, spellings

IDS = [[5, 7, 9], [4, -1, -1], [6, 8, -1]]


def book(llm_ids=IDS):
    words = [" a photo book", " a", " photo book"][: len(llm_ids)]
    return Codebook.from_arrays(words, torch.eye(3)[: len(llm_ids)], torch.tensor(llm_ids), name="phrases")


def test_words_carry_one_to_three_ids():
    codebook = book()
    assert codebook.llm_ids.tolist() == IDS
    assert spellings(codebook.llm_ids) == [(5, 7, 9), 4, (6, 8)]
    assert spellings(book([5, 4, 6]).llm_ids) == [5, 4, 6]


def test_columns_that_no_word_needs_go():
    assert book().subset([2, 1]).llm_ids.tolist() == [[6, 8], [4, -1]]
    assert book().subset([1]).llm_ids.tolist() == [4]
    # Then it is the table that it would have been without them, to the last bit.
    plain = Codebook.from_arrays([" a"], torch.eye(3)[1:2], [4], name="phrases")
    assert book().subset([1]).checksum == plain.checksum


def test_the_ids_are_part_of_what_the_table_is(tmp_path):
    codebook = book()
    codebook.save(tmp_path)
    loaded = Codebook.load(tmp_path)
    assert loaded.llm_ids.equal(codebook.llm_ids)
    assert loaded.checksum == codebook.checksum
    assert book([[5, 7, 9], [4, -1, -1], [6, 9, -1]]).checksum != codebook.checksum
    # The same numbers in another shape.
    flat = [[5, 7], [9, 4], [6, 8]]
    assert book(flat).checksum != book([[5, 7, 9], [4, 6, 8]]).checksum


@pytest.mark.parametrize(
    ("ids", "got"),
    [
        ([[5, 7, 9], [4, -1, 3], [6, 8, -1]], r"\[4, -1, 3\] at position 1"),
        ([[5, 7], [-1, -1], [6, 8]], r"\[-1, -1\] at position 1"),
        ([[5, 7], [4, -2], [6, 8]], r"\[4, -2\] at position 1"),
    ],
)
def test_what_is_no_word_is_refused(ids, got):
    with pytest.raises(ValueError, match=rf"llm_ids: expected ids of 0 or more and -1 behind .*, got {got}"):
        book(ids)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"llm_ids: expected torch.int64 \[3\] or \[3, n\], got .* \[2, 2\]"):
        Codebook([" a", " b", " c"], torch.eye(3), torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"llm_ids: expected .* got torch.int32 \[3, 2\]"):
        Codebook([" a", " b", " c"], torch.eye(3), torch.zeros(3, 2, dtype=torch.int32))
