"""Kinds of words, from an index of senses in WordNet's form."""

import pytest

from spae import assets
from spae.codebook import kinds
from spae.codebook.kinds import KINDS, of_kind

# lemma%part:file:id:: offset number count: cats are animals; runs are mostly run, and seldom a thing.
SENSES = """cat%1:05:00:: 02124272 1 18
cat%1:18:01:: 09919061 2 0
run%2:38:00:: 01930264 1 106
run%1:04:00:: 00190414 1 14
run%1:06:00:: 00404794 2 3
wood%1:27:00:: 15122728 1 30
wood%1:14:00:: 08455525 2 10
ivory%1:27:00:: 14782470 1 0
ivory%1:07:00:: 04967056 2 0
think%2:31:00:: 00631564 1 400
swift%3:00:00:: 00980054 1 2
swift%1:05:00:: 01596123 1 1
swift%5:00:00:: 00980055 2 0
"""


@pytest.fixture
def senses(tmp_path, monkeypatch):
    (tmp_path / "index.sense").write_text(SENSES)
    monkeypatch.setattr(assets, "require", lambda name: tmp_path / "index.sense")
    kinds._senses.cache_clear()
    yield
    kinds._senses.cache_clear()


WORDS = [" cat", " run", " wood", " ivory", " think", " swift", " red", " unknown"]


def test_kinds_follow_the_senses_by_their_use(senses):
    def named(kind):
        return [WORDS[row].strip() for row in of_kind(WORDS, kind)]

    assert named("things") == ["cat", "swift"]  # a third of the uses of "swift"; a fortieth of those of "run"
    assert named("actions") == ["run"]  # nobody sees thinking
    assert named("materials") == ["wood", "ivory"]
    assert named("colours") == ["ivory", "red"]


def test_colours_need_no_asset(monkeypatch):
    monkeypatch.setattr(assets, "require", lambda name: pytest.fail("asked for an asset"))
    assert of_kind([" blue", "blue", " Blue"], "colours") == [0, 1]


def test_errors():
    with pytest.raises(ValueError, match=f"kind: expected one of {', '.join(KINDS)}, got 'feelings'"):
        of_kind(WORDS, "feelings")


def test_the_real_index():
    try:
        assets.path("wordnet-senses")
    except assets.AssetNotCached as error:
        pytest.skip(f"needs the index of senses: {error}")
    kinds._senses.cache_clear()
    words = ["dog", "guitar", "bucket", "jump", "swim", "glass", "steel", "idea", "democracy"]
    assert [words[row] for row in of_kind(words, "things")] == ["dog", "guitar", "bucket", "glass"]
    assert [words[row] for row in of_kind(words, "actions")] == ["jump", "swim"]
    assert "steel" in [words[row] for row in of_kind(words, "materials")]
