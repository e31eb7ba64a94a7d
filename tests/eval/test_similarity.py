import pytest

from spae.eval import similarity as module
from spae.eval.similarity import says, similarity


@pytest.mark.usefixtures("toy_data")
def test_similarity_is_the_mean_cosine():
    same = similarity(["a cab", "bed"], ["BAC a", "deb"])
    assert same == pytest.approx((1, 1, 1))
    found = similarity(["aaaa", "bed"], ["bbbb", "bed"])
    scorer = module.CaptionScorer()
    cosines = (scorer.text_features(["aaaa", "bed"]) * scorer.text_features(["bbbb", "bed"])).sum(1)
    assert found.value == pytest.approx(cosines.mean().item())
    assert found.low < found.value < found.high == 1


def test_what_counts_as_said():
    assert says(" Fire Engine. ", "fire engine")
    assert says("St. Bernard", "st. bernard")
    assert not says("fire", "fire engine")
    assert not says("fire engine and more", "fire engine")
