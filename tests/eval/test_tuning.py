"""What tuning is worth: lessons, questions and their limits, with a tiny model and toy pictures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers", reason="language models on this machine need transformers")
pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae.data import Images
from spae.eval.tuning import Classification, MaskedRestoration, tuning_table
from spae.incontext.tasks import restore_masked
from spae.metrics import psnr
from spae.tokenizers import PyramidTokens

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
    images = torch.stack([pictures(2, 6)[i].image for i in range(6)])
    tokens = spae.encode(images)
    commonest = spae.encode(torch.stack([pictures(1)[i].image for i in range(12)])).ids[:, -4:].mode(0).values
    guessed = tokens.ids.clone()
    guessed[:, -4:][lab.hidden] = commonest.expand(6, -1)[lab.hidden]
    restored = restore_masked(tiny, tokens, lab.hidden, lab.lexicon).ids
    for row, ids in ((lab.ask(tiny, "before"), restored), (common, guessed)):
        right = (ids == tokens.ids)[:, -4:][lab.hidden].float().mean().item()
        assert row["hidden words right"]["value"] == pytest.approx(right)
        quality = psnr(images, spae.decode(PyramidTokens(ids, spae.pyramid))).mean().item()
        assert row["psnr"]["value"] == pytest.approx(quality, rel=1e-4)
    with pytest.raises(ValueError, match=r"rate: expected one that hides some of 4 words, got 0\.1"):
        MaskedRestoration(spae, tiny, pictures(1), pictures(2, 6), rate=0.1, seed=0)


def test_classification_asks_for_names(spae, tiny, monkeypatch):
    lab = Classification(spae, tiny, pictures(1), pictures(2, 6), layers=2)
    assert lab.names == ["thing a", "thing b", "thing c"]
    lesson = lab.lessons()[1]
    assert tiny.decode(lesson.answer).startswith(" thing b")
    assert "one of" in tiny.decode(lesson.context)
    assert tiny.decode(lesson.context).endswith(", output:")
    (limit,) = lab.limits()
    taught, asked = (
        [(int(spae.encode(part[i].image[None]).ids[0, 0]), part.captions[i]) for i in range(len(part))]
        for part in (pictures(1), pictures(2, 6))
    )
    guesses = []
    for first, _ in asked:
        names = [name for word, name in taught if word == first] or [name for _, name in taught]
        guesses.append(max(dict.fromkeys(names), key=names.count))
    right = sum(guess == name for guess, (_, name) in zip(guesses, asked, strict=True))
    assert limit["ranked"]["value"] == pytest.approx(right / 6)
    monkeypatch.setattr("spae.eval.tuning.classify", lambda *_: SimpleNamespace(exact=0, ranked=2))
    row = lab.ask(tiny, "before")
    assert row["exact"]["value"] == [name for _, name in asked].count("thing a") / 6
    assert row["ranked"]["value"] == [name for _, name in asked].count("thing c") / 6
    run = {"data": "toy", "lessons": 12, "images": 6, "seed": 0}
    table = tuning_table({"llm": "tiny", "run": run, "rows": [limit, row]})
    assert "first word" in table
    assert "12 lessons, 6 held-out images" in table
    with pytest.raises(ValueError, match="data: expected held-out images of known names, got 'thing c'"):
        Classification(spae, tiny, Images(Pictures(2, 4, 1)), pictures(2, 6), layers=2)
    with pytest.raises(ValueError, match="data: expected 2 to 50 names of images, got 1"):
        Classification(spae, tiny, Images(Pictures(1, 4, 1)), pictures(2, 6), layers=2)
