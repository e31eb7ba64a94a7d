"""Whole runs on toy data with the tiny language model: what is kept, what is compared, what is refused."""

import argparse
import json

import pytest

from spae.eval import fewshot
from spae.eval.episodes import FewShotSetting, load_episodes, sample_episodes
from spae.eval.fewshot import Reading, WordImages, evaluate_fewshot
from spae.eval.labelled import _first, easy_vqa, emoji_groups, labelled_set
from spae.eval.run import Run, evaluate
from spae.eval.tasks import fewshot as task
from spae.eval.tasks import vqa
from spae.eval.tasks.fewshot import FewShot
from spae.incontext.tasks import Verdict

pytestmark = pytest.mark.usefixtures("toy_data")
ASKED = (
    FewShot("digits", (1, 2), (FewShotSetting(2, induction=False), FewShotSetting(3, repeats=1)), 3, 5),
    FewShot("emoji", (2,), (FewShotSetting(2, 3),), 3, 5),
)


def run_fewshot(model, llm, asked, out):
    return evaluate(task, Run("fewshot", tuple(asked), model, llm, out))


def test_an_interrupted_run_goes_on(tmp_path, spae, tiny, interrupted):
    whole = run_fewshot(spae, tiny, ASKED, tmp_path / "whole")
    stopping = interrupted(tiny, calls_left=9)
    with pytest.raises(interrupted.Stopped):
        run_fewshot(spae, stopping, ASKED, tmp_path / "parts")
    assert not (tmp_path / "parts" / "fewshot.json").exists()
    resumed = interrupted(tiny)
    assert run_fewshot(spae, resumed, ASKED, tmp_path / "parts") == whole
    # Two prompts an episode, 15 episodes; four of them were finished.
    assert resumed.calls == 2 * (15 - 4)
    files = [(tmp_path / part / "fewshot.json").read_text() for part in ("whole", "parts")]
    assert files[0] == files[1]
    assert [row["words"] for row in whole["rows"]] == [1, 1, 5, 5, 5]
    table = (tmp_path / "whole" / "fewshot.md").read_text()
    assert "| emoji | 5 | 2-way 3-shot | 3 | 0.50 |" in table


def test_episodes_do_not_depend_on_the_tokenizer(tmp_path, spae, other_spae, tiny):
    for name, model in (("one", spae), ("other", other_spae)):
        run_fewshot(model, tiny, ASKED[1:], tmp_path / name)
    files = [sorted((tmp_path / name / "episodes").iterdir()) for name in ("one", "other")]
    assert [file.name for file in files[0]] == ["emoji-2-way-3-shot.jsonl"]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    setting, episodes = load_episodes(files[0][0])
    assert setting == FewShotSetting(2, 3)
    assert len(episodes) == 3
    records = [(tmp_path / name / "records.jsonl").read_text() for name in ("one", "other")]
    assert records[0] != records[1]


def test_an_impossible_setting_is_refused_before_anything_is_asked(tmp_path, spae, tiny, interrupted):
    llm = interrupted(tiny)
    run = FewShot("emoji", (1,), (FewShotSetting(2), FewShotSetting(2, 5)))
    with pytest.raises(
        ValueError, match=r"labels: expected .* for 2-way 5-shot, .*; the largest class has 3"
    ):
        run_fewshot(spae, llm, [run], tmp_path)
    assert llm.calls == 0
    with pytest.raises(ValueError, match=r"data: expected one of digits, .* labelled images, got 'birds'"):
        FewShot("birds", (1,), (FewShotSetting(2),))
    with pytest.raises(ValueError, match="settings: expected at least one, got none"):
        FewShot("digits", (1,), ())


def test_groups_ask_about_concepts_that_are_not_shown():
    groups = emoji_groups(8)
    assert len(set(groups.names)) == len(groups.names)
    labels = groups.labels
    for episode in sample_episodes(labels, FewShotSetting(5, 5), 40):
        concept = labels.asked_groups[episode.query.item]
        assert concept not in {labels.groups[shot.item] for shot in episode.shots}
        assert len({shot.item for shot in episode.shots}) == 25
        # The eighth group has one concept, so nothing could be shown beside a query of it.
        assert 7 not in episode.classes


def test_questions_keep_their_answers_when_images_are_dealt_out(monkeypatch):
    pictures = easy_vqa(8)
    of_item = {item: (1000 + image,) for item, image in enumerate(pictures.items)}
    images = WordImages(of_item, of_item, pictures.names, pictures.questions, pictures.kinds)
    setting = FewShotSetting(5)
    episodes = sample_episodes(pictures.labels, setting, 8)
    asked = []

    def classify(llm, task, names, condition, **options):
        asked.append((task, condition))
        return Verdict("", None, (0.0,) * len(names))

    monkeypatch.setattr(fewshot, "classify", classify)
    report = evaluate_fewshot(None, images, setting, episodes)
    # Five ways: three colours, yes and no.
    answers = [pictures.names[e.classes[e.query.way]] for e in episodes]
    expected = [1 / 2 if answer in ("yes", "no") else 1 / 3 for answer in answers]
    assert report["chance"] == pytest.approx(sum(expected) / 8)
    for episode, own, dealt in zip(episodes, asked[::2], asked[1::2], strict=True):
        assert own[1] == dealt[1]
        (words, question) = own[1]
        assert question == f" Question: {pictures.questions[episode.query.item]}"
        rows = [
            [(e.condition[0], e.condition[1], e.answer) for e in task.examples] for task, _ in (own, dealt)
        ]
        assert [row[1:] for row in rows[0]] == [row[1:] for row in rows[1]]
        assert sorted(row[0] for row in rows[0]) == sorted(row[0] for row in rows[1])
        assert words not in [row[0] for row in rows[0]]
    assert any(own != dealt for own, dealt in zip(asked[::2], asked[1::2], strict=True))


def test_answers_are_written_freely(tmp_path, spae, tiny, monkeypatch):
    """An answer counts as text, whole, and is scored by its likeness too; the tokens allowed are the run's."""
    seen = []

    def classify(llm, task, names, condition, **options):
        seen.append(options)
        return Verdict(" Red.\n" if len(seen) % 4 == 1 else "reddish brown", 0, (0.0,) * len(names))

    monkeypatch.setattr(fewshot, "classify", classify)
    reading = Reading(stop=(".",), max_tokens=9)
    images = WordImages([(1,), (2,), (3,), (4,)], [(1,), (2,), (3,), (4,)], ["red", "red hot"])
    episodes = sample_episodes([0, 0, 1, 1], FewShotSetting(2), 4)
    report = evaluate_fewshot(None, images, FewShotSetting(2), episodes, reading=reading)
    assert seen[0] == {"calibrate": False, "per_token": False, "stop": (".",), "max_tokens": 9}
    right = [number % 2 == 0 and e.classes[e.query.way] == 0 for number, e in enumerate(episodes)]
    assert report["exact"]["value"] == sum(right) / 4
    assert report["shuffled exact"]["value"] == 0
    assert report["similarity"]["value"] > report["shuffled similarity"]["value"]
    alone = evaluate_fewshot(None, images, FewShotSetting(2), episodes[:1], reading=reading)
    assert set(report) - set(alone) == {
        "similarity",
        "shuffled similarity",
        "exact over shuffled exact",
        "exact over word overlap",
        "ranked over shuffled ranked",
        "ranked over word overlap",
    }
    with pytest.raises(ValueError, match="episodes: expected at least 2, got 1"):
        FewShot("easy-vqa", (1,), (FewShotSetting(2),), 1, reading=reading)
    with pytest.raises(ValueError, match="max_tokens: expected at least 1, got 0"):
        Reading(max_tokens=0)


def test_vqa_run(tmp_path, spae, tiny):
    run = FewShot("easy-vqa-colors", (2,), (FewShotSetting(2, 2),), 2)
    report = evaluate(vqa, Run("vqa", (run,), spae, tiny, tmp_path, "spae eval vqa"))
    assert json.loads((tmp_path / "vqa.json").read_text()) == report
    assert report["rows"][0]["chance"] == 0.5
    assert (tmp_path / "vqa.md").read_text().endswith("    spae eval vqa\n")


def test_any_labelled_folder(tmp_path, spae, tiny):
    """Class folders, of which none is a split: the tenth that falls to "test", under the folders' names."""
    image = pytest.importorskip("PIL.Image", reason="needs the package pillow")
    for name, colour in (("red_ball", 200), ("blue_box", 30)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(120):
            picture = image.new("RGB", (8, 8), (colour, i, 90))
            picture.save(tmp_path / "data" / name / f"{i}.png")
    asked = FewShot(str(tmp_path / "data"), (2,), (FewShotSetting(2, 1),), 4, split="report")
    (row,) = run_fewshot(spae, tiny, [asked], tmp_path / "out")["rows"]
    assert row["centroid on pixels"]["value"] == row["centroid on Lite0"]["value"] == 1
    labelled = labelled_set(str(tmp_path / "data"), 8)
    assert list(labelled.names) == ["blue box", "red ball"]
    assert 10 < len(labelled.labels.shown) < 40
    named = labelled_set(str(tmp_path / "data"), 8, classes=("one", "two"))
    assert list(named.names) == ["one", "two"]
    with pytest.raises(
        ValueError, match=r"classes: expected names of the 2 classes of .*, at least 2, got 1"
    ):
        labelled_set(str(tmp_path / "data"), 8, classes=("one",))


@pytest.mark.parametrize("name", ["digits", "garments", "emoji", "emoji-groups", "easy-vqa"])
def test_the_splits_share_nothing(name):
    """No item, or no concept, of one split is in the other; together they are all."""
    whole, dev, report = (labelled_set(name, 8, split=split) for split in (None, "dev", "report"))
    parts = zip(whole.labels.shown, dev.labels.shown, report.labels.shown, strict=True)
    assert all(sorted({a, b}) == sorted({-1, label}) for label, a, b in parts)
    assert 0.1 < sum(label >= 0 for label in dev.labels.shown) / len(whole.labels.shown) < 0.6
    together = whole.labels.groups or (whole.labels.shown if name == "emoji" else None)
    if together is not None:
        kept = [
            {key for key, label in zip(together, part.labels.shown, strict=True) if label >= 0}
            for part in (dev, report)
        ]
        assert not kept[0] & kept[1]
    if whole.labels.asked is not None and name == "emoji":
        assert not set(dev.labels.asked) & set(report.labels.asked) - {-1}
    with pytest.raises(ValueError, match="split: expected dev or report, got 'test'"):
        labelled_set(name, 8, split="test")


def test_large_sets_are_cut():
    labels = [0] * 150 + [1] * 30
    kept = _first(labels)
    assert kept.count(0) == 100
    assert kept[100:150] == [-1] * 50
    assert kept[150:] == [1] * 30


def test_settings_are_chosen_by_shots_and_repeats():
    parser = argparse.ArgumentParser()
    task.add(parser)
    parser.set_defaults(seed=0)
    (asked,) = task.settings(parser.parse_args([]))
    assert len(asked.settings) == 14
    (asked,) = task.settings(parser.parse_args(["--ways", "5", "--shots", "1", "3", "--repeats", "0", "3"]))
    assert [setting.name for setting in asked.settings] == [
        "5-way 1-shot, no induction",
        "5-way 1-shot",
        "5-way 3-shot",
        "5-way 1-shot x4",
    ]


def test_classes_may_be_called_otherwise(tmp_path, spae, tiny, interrupted):
    """By as many names; what was answered with others is asked again."""
    names = tuple("abcdefghij")
    assert labelled_set("garments", 8, classes=names).names == names
    assert labelled_set("digits", 8).names[0] == "zero"
    with pytest.raises(ValueError, match="classes: expected 10 names of 'digits', got 2"):
        labelled_set("digits", 8, classes=("a", "b"))
    with pytest.raises(ValueError, match="classes: expected none for questions of 'easy-vqa', got 2"):
        labelled_set("easy-vqa", 8, classes=("a", "b"))
    for classes in ((), names):
        llm = interrupted(tiny)
        asked = FewShot("digits", (1,), (FewShotSetting(2),), 3, classes=classes)
        for _ in range(2):
            run_fewshot(spae, llm, [asked], tmp_path)
        assert llm.calls == 6


def test_options_of_reading_are_kept_apart(tmp_path, spae, tiny, interrupted):
    """Another form or ranking is other records and another note; what was asked is not asked again."""
    notes = []
    settings = (FewShotSetting(2),)
    for options in ({}, {"form": "colon"}, {"calibrate": True, "per_token": True}):
        llm = interrupted(tiny)
        asked = FewShot("digits", (1,), settings, 3, reading=Reading(**options))
        for _ in range(2):
            report = run_fewshot(spae, llm, [asked], tmp_path)
        assert llm.calls == 6
        notes.append(task.table(report).splitlines()[-1])
    assert notes[0] == "tiny, seed 0, split report, form v2l; shares with 95% intervals."
    assert "form colon;" in notes[1]
    assert "form v2l, ranked calibrated, by the mean of a name's tokens;" in notes[2]
    with pytest.raises(ValueError, match="form: expected one of v2l, colon, got 'poem'"):
        Reading("poem")
