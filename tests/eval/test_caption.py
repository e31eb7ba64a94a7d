import pytest

from spae.eval.labelled import emoji, labelled_set
from spae.eval.run import Run, evaluate
from spae.eval.tasks import caption
from spae.eval.tasks.caption import Captions, sample_captions
from spae.incontext.tasks import Verdict

pytestmark = pytest.mark.usefixtures("toy_data")
ASKED = Captions(layers=(1, 2), queries=3, examples=4, candidates=3, split=None)


def run_captioning(model, llm, out):
    return evaluate(caption, Run("caption", ASKED, model, llm, out))


def test_what_is_asked():
    labelled = emoji(8)
    episodes = sample_captions(labelled, Captions(queries=44, examples=6, candidates=5))
    for half in (episodes[:22], episodes[22:]):
        assert {e.query for e in half} == set(range(22))
    for episode in episodes:
        shown = [labelled.labels.shown[item] for item in episode.shots]
        assert labelled.labels.asked[episode.query] == episode.candidates[0]
        assert len({*shown, *episode.candidates}) == 11
    assert episodes == sample_captions(labelled, Captions(queries=44, examples=6, candidates=5))
    with pytest.raises(
        ValueError, match="examples: expected at most 22 together with the candidates, got 20"
    ):
        sample_captions(labelled, Captions(examples=20, candidates=3))
    for options, message in (
        ({"candidates": 1}, "candidates: expected at least 2, got 1"),
        ({"max_tokens": 0}, "max_tokens: expected at least 1, got 0"),
        ({"stop": ("",)}, r"stop: expected texts of at least a character, got \(''"),
    ):
        with pytest.raises(ValueError, match=message):
            Captions(**options)


def test_captions_of_one_split_know_no_concept_of_the_other():
    asked = Captions(queries=20, examples=2, candidates=2)
    concepts = []
    for split in ("dev", "report"):
        labelled = labelled_set("emoji", 8, split=split)
        episodes = sample_captions(labelled, asked)
        shown = {labelled.labels.shown[item] for e in episodes for item in e.shots}
        concepts.append(shown | {label for e in episodes for label in e.candidates})
        assert {labelled.labels.asked[e.query] for e in episodes} <= concepts[-1]
    assert not concepts[0] & concepts[1]


def test_a_caption_is_written_to_its_stop(tmp_path, spae, tiny, monkeypatch):
    """However long the candidates are; it is scored whole, whatever its case and full stop."""
    pytest.importorskip("matplotlib", reason="needs the package matplotlib")
    generated = []

    def classify(llm, task, names, query, *, stop, max_tokens):
        generated.append((stop, max_tokens))
        said = f"{names[0].upper()}." if len(generated) % 2 else "thing of quite another kind"
        return Verdict(said, None, (1.0,) + (0.0,) * (len(names) - 1))

    monkeypatch.setattr(caption, "classify", classify)
    asked = Captions((1,), 4, 4, 3, stop=(".",), max_tokens=20)
    (row,) = evaluate(caption, Run("caption", asked, spae, tiny, tmp_path))["rows"]
    assert set(generated) == {((".",), 20)}
    assert (row["exact"]["value"], row["shuffled exact"]["value"]) == (1, 0)
    assert (row["word"]["value"], row["shuffled word"]["value"]) == (1, 1)
    assert row["similarity"]["value"] == pytest.approx(1)
    assert row["shuffled similarity"]["value"] < 0.99


def test_an_interrupted_run_goes_on(tmp_path, spae, tiny, interrupted):
    pytest.importorskip("matplotlib", reason="needs the package matplotlib")
    whole = run_captioning(spae, tiny, tmp_path / "whole")
    with pytest.raises(interrupted.Stopped):
        run_captioning(spae, interrupted(tiny, calls_left=5), tmp_path / "parts")
    resumed = interrupted(tiny)
    assert run_captioning(spae, resumed, tmp_path / "parts") == whole
    assert resumed.calls == 2 * (6 - 2)
    for name in ("caption.json", "caption.md", "episodes.jsonl", "caption.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert [row["words"] for row in whole["rows"]] == [1, 5]
    for row in whole["rows"]:
        for kind in ("", "shuffled ", "commonest "):
            assert row[f"{kind}exact"]["value"] <= row[f"{kind}word"]["value"]
            assert -1 <= row[f"{kind}similarity"]["low"] <= row[f"{kind}similarity"]["value"] <= 1
    assert "chance 0.33" in (tmp_path / "whole" / "caption.md").read_text()


def test_shuffling_deals_every_image_away(tmp_path, spae, tiny, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs the package matplotlib")
    asked = []
    classify = caption.classify
    monkeypatch.setattr(
        caption,
        "classify",
        lambda llm, task, names, query, **options: (
            asked.append((task, query)) or classify(llm, task, names, query, **options)
        ),
    )
    run_captioning(spae, tiny, tmp_path)
    for (own, query), (dealt, wrong) in zip(asked[::2], asked[1::2], strict=True):
        assert [e.answer for e in own.examples] == [e.answer for e in dealt.examples]
        images = [*(e.condition for e in own.examples), query]
        assert [*(e.condition for e in dealt.examples), wrong] == [*images[1:], images[0]]
