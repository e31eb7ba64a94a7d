"""What tuning is worth: lessons, questions and their limits, with a tiny model and toy pictures."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models on this machine need transformers")
pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae.data import Images
from spae.eval.tuning import Classification, MaskedRestoration, tuning_table

from .conftest import Pictures


def pictures(seed, count=12):
    return Images(Pictures(3, count // 3, seed))


def test_restoration_hides_the_last_layers_words(spae, tiny):
    lab = MaskedRestoration(spae, tiny, pictures(1), pictures(2, 6), rate=0.5, seed=0)
    lessons = lab.lessons()
    words = lab.lexicon.llm_ids(spae.encode(torch.stack([pictures(1)[i].image for i in range(12)])))
    assert [(*lesson.context, *lesson.answer) for lesson in lessons] == [
        (*tiny.start_ids, *image) for image in words
    ]
    assert {len(lesson.answer) for lesson in lessons} == {4}
    assert lab.hidden.sum(1).tolist() == [2] * 6
    common, own = lab.limits()
    assert own["hidden words right"]["value"] == 1
    asked = lab.ask(tiny, "before")
    for row in (asked, common):
        assert (row["hidden words right"]["value"] * 12) % 1 == pytest.approx(0)
    assert asked["psnr"]["value"] <= own["psnr"]["value"] + 3


def test_classification_asks_for_names(spae, tiny):
    lab = Classification(spae, tiny, pictures(1), pictures(2, 6), layers=2)
    assert lab.names == ["thing a", "thing b", "thing c"]
    lesson = lab.lessons()[1]
    assert tiny.decode(lesson.answer).startswith(" thing b")
    assert "one of" in tiny.decode(lesson.context)
    assert tiny.decode(lesson.context).endswith(", output:")
    (limit,) = lab.limits()
    assert 0 <= limit["ranked"]["value"] <= 1
    row = lab.ask(tiny, "before")
    assert (row["ranked"]["value"] * 6) % 1 == pytest.approx(0)
    assert row["exact"]["value"] <= 1
    run = {"data": "toy", "lessons": 12, "images": 6, "seed": 0}
    table = tuning_table({"llm": "tiny", "run": run, "rows": [limit, row]})
    assert "first word" in table
    assert "12 lessons, 6 held-out images" in table
    with pytest.raises(ValueError, match="data: expected held-out images of known names, got 'thing c'"):
        Classification(spae, tiny, Images(Pictures(2, 4, 1)), pictures(2, 6), layers=2)
    with pytest.raises(ValueError, match="data: expected 2 to 50 names of images, got 1"):
        Classification(spae, tiny, Images(Pictures(1, 4, 1)), pictures(2, 6), layers=2)
