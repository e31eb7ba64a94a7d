from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from spae import SPAE, Codebook, PyramidTokens, SPAEConfig
from spae.data import moving_mnist
from spae.data.mnist import WORDS
from spae.data.moving_mnist import DIRECTIONS, MovingMNIST
from spae.eval import drawing
from spae.eval.episodes import FewShotSetting
from spae.eval.labelled import labelled_set
from spae.eval.run import Run, evaluate
from spae.eval.tasks import fewshot, motion
from spae.eval.tasks.fewshot import FewShot
from spae.eval.tasks.motion import Motion, directions_of

ASKED = Motion(contexts=2, examples=4, pool=40, held_out=8, digit_size=4, layers=2, stride=4)


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    images = torch.full((10, 3, 32, 32), -1.0)
    images[:, :, 2:30, 2:30] = torch.linspace(0, 1, 10)[:, None, None, None]
    fake = SimpleNamespace(images=images, labels=torch.arange(10))
    monkeypatch.setattr(moving_mnist, "MNISTDigits", lambda split: fake)


@pytest.fixture
def model(tiny, clip_config):
    from spae.testing.tiny_llm import tiny_words

    torch.manual_seed(0)
    ids = torch.arange(60) * 3 + 20
    return SPAE(
        clip_config, Codebook.from_arrays(tiny_words(tiny, ids), torch.randn(60, 6), llm_ids=ids)
    ).eval()


def test_the_way_that_a_clip_moves():
    clips = MovingMNIST("train", 32, frames=9, digits=1, count=40, motion="straight", digit_size=14)
    assert (
        directions_of(torch.stack([clips[i][0] for i in range(40)])).tolist()
        == clips.directions[:, 0].tolist()
    )
    assert directions_of(torch.zeros(1, 3, 4, 8, 8)).tolist() == [0]
    backwards = torch.stack([clips[i][0].flip(1) for i in range(40)])
    opposite = torch.tensor([1, 0, 3, 2])
    assert directions_of(backwards).tolist() == opposite[clips.directions[:, 0]].tolist()


def test_a_run_asks_for_every_direction_and_has_its_control(model, tiny, tmp_path, monkeypatch):
    tasks, drawn, decode = [], [], drawing.decode

    def spy(llm, task, queries, *arguments, **options):
        tasks.append((task, queries))
        drawn.append(decode(llm, task, queries, *arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(drawing, "decode", spy)
    report = evaluate(motion, Run("motion", ASKED, model, tiny, tmp_path))
    assert report["chance"] == 0.25
    for kind, trials in (("captions", 8), ("shuffled captions", 8), ("reconstructed", 8)):
        assert [row["trials"] for row in report[kind]] == [trials, trials]
    assert (
        (tmp_path / "motion.md").read_text().startswith("| clips | trials | 1 layers | 2 layers | chance |")
    )
    for kind, parts in (("captions", drawn[:2]), ("shuffled captions", drawn[2:])):
        for number, row in enumerate(report[kind], 1):
            found = directions_of(model.decode(PyramidTokens.cat(parts).upto(number)))
            assert row["value"] == (found == torch.arange(4).repeat(2)).float().mean().item()
    assert [row["trials"] for row in report["vote"]] == [8, 8]
    # Each way has one example: it alone votes.
    single = [
        example.answer
        for task, _ in tasks[:2]
        for way in DIRECTIONS
        for example in task.examples
        if example.condition.endswith(way)
    ]
    rows = model.codebook.llm_ids.tolist()
    votes = PyramidTokens(
        torch.tensor([[rows.index(word) for word in answer] for answer in single]), model.pyramid
    )
    for number, row in enumerate(report["vote"], 1):
        found = directions_of(model.decode(votes.upto(number)))
        assert row["value"] == (found == torch.arange(4).repeat(2)).float().mean().item()
    assert len(tasks) == 4
    for (task, queries), (dealt, others) in zip(tasks[:2], tasks[2:], strict=True):
        assert [query.condition.split()[-1] for query in queries] == list(DIRECTIONS)
        assert queries == others
        assert [e.answer for e in task.examples] == [e.answer for e in dealt.examples]
        told, moved = ([e.condition for e in one.examples] for one in (task, dealt))
        assert sorted(told) == sorted(moved)
        assert sorted(text.split()[-1] for text in told) == sorted(DIRECTIONS)
    assert any(task != dealt for (task, _), (dealt, _) in zip(tasks[:2], tasks[2:], strict=True))


@pytest.mark.parametrize(
    ("captions", "query", "said"), [("words", "three moving up", "three"), ("ways", "up", "left")]
)
def test_captions_in_other_words(model, tiny, tmp_path, monkeypatch, captions, query, said):
    tasks, decode = [], drawing.decode
    monkeypatch.setattr(
        drawing, "decode", lambda llm, *asked, **how: tasks.append(asked) or decode(llm, *asked, **how)
    )
    monkeypatch.setattr(motion.random.Random, "randrange", lambda self, stop: 3)
    report = evaluate(
        motion, Run("motion", replace(ASKED, contexts=1, captions=captions), model, tiny, tmp_path)
    )
    (task, queries, _), _ = tasks
    assert queries[2].condition == f"an image of {query}"
    told = [example.condition.removeprefix("an image of ") for example in task.examples]
    digits = {"words": WORDS, "ways": ()}[captions]
    ways = [text.split()[-1] for text in told]
    assert sorted(ways) == sorted(DIRECTIONS)
    assert all(text == way or text.split()[0] in digits for text, way in zip(told, ways, strict=True))
    assert f'captions such as "{said}' in motion.table(report)


def test_errors_name_what_came_and_what_was_expected(model, tiny, tmp_path):
    with pytest.raises(ValueError, match="examples: expected a multiple of 4, got 6"):
        Motion(examples=6)
    with pytest.raises(ValueError, match=r"captions: expected .*ways.*, got 'names'"):
        Motion(captions="names")
    with pytest.raises(ValueError, match="pool: expected a whole number from 1, got 0"):
        Motion(pool=0)
    few = Motion(contexts=1, examples=4, pool=1, held_out=2, digit_size=4, layers=1)
    with pytest.raises(ValueError, match=r"pool: expected 1 clips moving \w+, got 0"):
        evaluate(motion, Run("motion", few, model, tiny, tmp_path))
    flat = SPAE(SPAEConfig(image_size=(8, 8), grids=(1,), channels=4, multipliers=(1, 1, 1)), model.codebook)
    with pytest.raises(ValueError, match=r"model: expected one of square clips, got one of \(8, 8\)"):
        evaluate(motion, Run("motion", few, flat, tiny, tmp_path))


def test_which_way_is_asked_in_episodes(model, tiny, tmp_path):
    """Few-shot classification of clips by their way, and clips where images are expected."""
    pytest.importorskip("sklearn", reason="needs the package scikit-learn")
    clips = labelled_set("directions", (5, 16, 16))
    assert len(clips.shown) == 400
    assert tuple(clips.names) == DIRECTIONS
    ways = directions_of(torch.stack([clips.shown[i][0] for i in range(20)]))
    assert ways.tolist() == list(clips.labels.shown[:20])
    small = SPAE(
        replace(model.config, image_size=(5, 16, 16), grids=((1, 1, 1), (3, 1, 1))), model.codebook
    ).eval()
    asked = FewShot("directions", (2,), (FewShotSetting(2, 1),), 3)
    (row,) = evaluate(fewshot, Run("fewshot", (asked,), small, tiny, tmp_path))["rows"]
    assert (row["words"], row["chance"], row["episodes"]) == (4, 0.5, 3)
    assert not any("Lite0" in name for name in row)
    with pytest.raises(ValueError, match=r"data: expected images, such as digits, .*, got 'directions'"):
        labelled_set("directions", (16, 16))
    with pytest.raises(ValueError, match=r"data: expected clips, such as directions, .*, got 'digits'"):
        labelled_set("digits", (5, 16, 16))
