"""Words beside bigrams and trigrams: which images they describe, by the scorer that chose and by another."""

import pytest
import torch

from spae.codebook.expansion import Expansion
from spae.eval.phrases import evaluate_phrases, phrases_table


def unit(*rows):
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


IDS = torch.tensor([[1, -1, -1], [2, -1, -1], [1, 3, -1], [2, 3, -1], [1, 3, 4]])
PHRASES = Expansion(["a", "b", "a c", "b c", "a c d"], IDS, {"prompt": "a photo of"})
# The bigram "a c" is nearer than "a" to images along (1, 1, 0); the trigram is where no image is.
TEXTS = unit([1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [-1, 0, 0])
IMAGES = unit([1, 0.9, 0], [1, 1.1, 0], [0, 0.9, 1])


def rows(**options):
    options = {"counts": (1,), "keep": 1} | options
    return evaluate_phrases(PHRASES, TEXTS, IMAGES, IMAGES, **options)


def test_bigrams_that_fit_gain_and_trigrams_that_do_not_are_dropped():
    words, bigrams, trigrams = rows()
    assert [row["phrases"] for row in (words, bigrams, trigrams)] == [2, 4, 5]
    assert [row["kept"] for row in (words, bigrams, trigrams)] == [2, 2, 2]
    by_hand = (IMAGES @ TEXTS[:2].T).max(1).values.mean().item()
    assert words["similarity"]["value"] == pytest.approx(by_hand, abs=1e-6)
    best = (IMAGES @ TEXTS[2:4].T).max(1).values.mean().item()
    assert bigrams["similarity gain"]["value"] == pytest.approx(best - by_hand, abs=1e-6)
    assert bigrams["relative"]["value"] == pytest.approx(1, abs=1e-6), "the best of all phrases"
    assert trigrams["similarity gain"]["value"] == 0
    assert "similarity gain" not in words
    assert "by name" not in words


def test_the_second_judge_does_not_choose():
    """It likes "a" and "b" alone, so that what the scorer gains it loses."""
    judge = unit([1, 0], [1, 0], [0, 1], [0, 1], [0, 1]), unit([1, 0], [1, 0], [1, 0])
    words, bigrams, _ = rows(named=judge)
    assert words["by name"]["value"] == pytest.approx(1)
    assert bigrams["by name gain"]["value"] == pytest.approx(-1)
    assert bigrams["similarity gain"]["value"] > 0


def test_intervals_are_over_groups():
    alone = rows()[1]["similarity"]
    together = rows(groups=["x", "x", "y"])[1]["similarity"]
    values = (IMAGES @ TEXTS[2:4].T).max(1).values
    expected = (values[:2].mean() + values[2]) / 2
    assert together["value"] == pytest.approx(expected.item(), abs=1e-6)
    assert together["value"] != pytest.approx(alone["value"], abs=1e-6)


def test_several_words_of_an_image():
    one, two = rows(counts=(1, 2), keep=2)[:2]
    nearest = (IMAGES @ TEXTS[:2].T).mean(1).mean().item()
    assert two["shown"] == 2
    assert two["similarity"]["value"] == pytest.approx(nearest, abs=1e-6)
    assert two["similarity"]["value"] < one["similarity"]["value"]
    with pytest.raises(ValueError, match="counts: expected at most the 2 words kept, got 3"):
        rows(counts=(3,))


def test_the_table_names_codebooks_and_judges():
    judge = unit(*[[1, 0]] * 5), unit(*[[1, 0]] * 3)
    run = {"taught": 3, "asked": 3, "data": "toy", "split": "test", "judge": "names", "groups": 2}
    about = {"llm": "tiny", "prompt": "a photo of", "scorer": "toy scorer", "run": run}
    text = phrases_table({**about, "rows": rows(named=judge)})
    assert "| with bigrams | 4 | 2 | 1 |" in text
    assert "by name, gain" in text
    assert "by name: names, which does not. 95% intervals over 2 names." in text
    run.pop("judge")
    assert "95% intervals over images" in phrases_table({**about, "rows": rows()})
