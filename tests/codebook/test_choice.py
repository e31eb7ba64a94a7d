import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spae import Codebook
from spae.codebook import WordChoice
from spae.codebook.choice import spread

WORDS = [" the", " one", "x", " sun", " Two", " two", " sea", " tree", " up", " moon"]


def book(seed=0):
    vectors = torch.randn(10, 5, generator=torch.Generator().manual_seed(seed)) + 3
    return Codebook.from_arrays(WORDS, vectors, torch.arange(10) + 70, name="toy")


@given(rows=st.integers(2, 20), count=st.integers(1, 20), first=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_spread_takes_the_farthest_row_each_time(rows, count, first, seed):
    vectors = torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed))
    count, first = min(count, rows), min(first, count, rows)
    chosen = spread(vectors, count, first=first, seed=seed)
    assert len(set(chosen)) == len(chosen) == count
    assert chosen[:first] == list(range(first))
    unit = vectors.double() - vectors.double().mean(0)
    unit = unit / unit.norm(dim=1, keepdim=True)
    for n in range(max(first, 1), count):
        nearest = torch.cdist(unit, unit[chosen[:n]]).amin(1)
        nearest[chosen[:n]] = -1
        assert nearest[chosen[n]] >= nearest.max() - 1e-6


def test_repeated_rows_come_last_and_never_twice():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    assert sorted(spread(vectors, 4, seed=1)) == [0, 1, 2, 3]
    assert spread(vectors, 4, first=1)[-1] == 1
    assert {spread(vectors, 1, seed=seed)[0] for seed in range(20)} == {0, 1, 2, 3}
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"count: expected 1 to 4, got {count}"):
            spread(vectors, count)


def test_names_come_first_and_the_others_are_of_the_most_frequent():
    chosen = book().select({"count": 4, "names": ["two", "one"]}, limit=4)
    assert chosen.words[:2] == [" two", " one"]
    # The first four words of the kind are " the", " one", " sun" and " two".
    assert set(chosen.words[2:]) == {" the", " sun"}
    assert chosen.llm_ids[:2].tolist() == [75, 71]
    assert torch.equal(chosen.vectors, book().vectors[chosen.llm_ids - 70])
    choice = WordChoice(count=4, names=("two", "one"))
    assert choice.vocabularies() == {"names": [0, 1], "others": [2, 3]}
    assert WordChoice(count=3).vocabularies() == {"others": [0, 1, 2]}
    again = book().select(choice, limit=4)
    assert again.words == chosen.words
    assert again.checksum == chosen.checksum


@pytest.mark.parametrize(
    ("words", "limit", "message"),
    [
        ({"count": 3, "names": ["seven"]}, None, "' seven'"),
        ({"count": 9}, None, "count: expected at most 0 names and 7 others, got 9"),
        ({"count": 4, "names": ["one"]}, 2, "count: expected at most 1 names and 1 others, got 4"),
        ({"count": 1}, 8, "limit: expected 1 to the 7 word-like words, got 8"),
        ({"count": 1, "names": ["one", "two"]}, None, "count: expected at least the 2 names, got 1"),
        ({"count": 3, "names": ["one", "one"]}, None, "names: expected distinct words"),
        ({"count": 1, "kind": "verbs"}, None, "kind: expected one of all, word-like, nouns, got 'verbs'"),
        ({"number": 1}, None, "codebook.words: expected no fields but"),
    ],
)
def test_choices_that_cannot_be_made(words, limit, message):
    with pytest.raises(ValueError, match=message):
        book().select(words, limit)


def test_load_chooses_before_it_normalises(tmp_path):
    book().save(tmp_path)
    choice = {"count": 3, "names": ["sun"]}
    loaded = Codebook.load(tmp_path, words=choice, normalise="centre+scale")
    assert loaded.words == book().select(choice).words
    assert torch.allclose(loaded.vectors.mean(0), torch.zeros(5), atol=1e-6)
