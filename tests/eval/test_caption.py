import pytest

from spae.eval.labelled import emoji
from spae.eval.run import Run, evaluate
from spae.eval.tasks import caption
from spae.eval.tasks.caption import Captions, sample_captions

pytestmark = pytest.mark.usefixtures("toy_data")
ASKED = Captions(layers=(1, 2), queries=3, examples=4, candidates=3)


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
    with pytest.raises(ValueError, match="candidates: expected at least 2, got 1"):
        Captions(candidates=1)


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
    assert "chance 0.33" in (tmp_path / "whole" / "caption.md").read_text()


def test_shuffling_deals_every_image_away(tmp_path, spae, tiny, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs the package matplotlib")
    asked = []
    classify = caption.classify
    monkeypatch.setattr(
        caption,
        "classify",
        lambda llm, task, names, query: asked.append((task, query)) or classify(llm, task, names, query),
    )
    run_captioning(spae, tiny, tmp_path)
    for (own, query), (dealt, wrong) in zip(asked[::2], asked[1::2], strict=True):
        assert [e.answer for e in own.examples] == [e.answer for e in dealt.examples]
        images = [*(e.condition for e in own.examples), query]
        assert [*(e.condition for e in dealt.examples), wrong] == [*images[1:], images[0]]
