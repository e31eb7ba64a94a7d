"""Words of other languages, scored as what they mean."""

import numpy as np
import pytest
import torch

from spae.scorers import CaptionScorer, TextFeatureCache
from spae.training.guidance import check_guidance

MEANINGS = {"koffie": ("cafe", "coffee", "zzz"), "hond": ("dog",), "of": ("b", "a")}


def letters(texts) -> torch.Tensor:
    codes = [np.bincount([ord(c) % 8 for c in text] + [9], minlength=10) for text in texts]
    return torch.tensor(np.array(codes), dtype=torch.float64)


@pytest.fixture(autouse=True)
def dictionary(monkeypatch, tmp_path):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path))
    monkeypatch.setattr("spae.scorers.caption.translations", lambda asked: MEANINGS if asked else {})


def scorers() -> tuple[CaptionScorer, CaptionScorer]:
    plain = CaptionScorer(letters, name="letters", checksum="abc")
    return plain, CaptionScorer(letters, name="letters", checksum="abc", languages=["nl"])


def test_a_word_scores_as_what_it_means():
    plain, dutch = scorers()
    words = [" Hond", "coffee", "koffie", "hond", "zebra", "dog", "OF"]
    found, english = dutch.text_features(words), plain.text_features(["dog", "coffee", "zebra", "b"])
    assert torch.equal(found[0], english[0])
    assert torch.equal(found[3], english[0])
    assert torch.equal(found[5], english[0])
    assert torch.equal(found[1], english[1])
    assert torch.equal(found[4], english[2])
    assert torch.equal(found[6], english[3]), "of two the first"
    terms = plain.text_features(MEANINGS["koffie"])
    assert torch.equal(found[2], terms[(terms @ terms.mean(0)).argmax()]), "the one most like all"
    assert not torch.equal(found[2], terms[2])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(7))


def test_what_no_dictionary_knows_and_captions_stay_as_they_are():
    plain, dutch = scorers()
    assert torch.equal(dutch.text_features(["zebra", "x"]), plain.text_features(["zebra", "x"]))
    assert torch.equal(dutch.caption_features(["hond"]), plain.text_features(["hond"]))
    assert torch.equal(plain.text_features(["hond"]), plain.caption_features(["hond"]))


def test_caches_tell_the_dictionary(monkeypatch):
    plain, dutch = scorers()
    assert plain.checksum == "abc"
    assert (dutch.name, dutch.checksum == plain.checksum) == ("letters-nl", False)
    assert not torch.equal(*(TextFeatureCache(s, progress=False).features(["hond"]) for s in (plain, dutch)))
    before = dutch.checksum
    monkeypatch.setitem(MEANINGS, "kat", ("cat",))
    assert scorers()[1].checksum != before


def test_a_configuration_names_languages():
    check_guidance({"scorer": {"name": "caption", "languages": ["nl", "de"]}})
    for wrong in (["xx"], ["en"], [3]):
        with pytest.raises(ValueError, match=r"objective.semantic.scorer.languages: expected .*'nl'"):
            check_guidance({"scorer": {"name": "caption", "languages": wrong}})
