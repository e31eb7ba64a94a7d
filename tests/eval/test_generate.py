import pytest
import torch

from spae.eval import drawing
from spae.eval.run import Run, evaluate
from spae.eval.tasks import generate
from spae.eval.tasks.generate import DigitPrompts, Generated, evaluate_generation
from spae.tokenizers import PyramidTokens
from spae_ops import Pyramid

pytest.importorskip("matplotlib", reason="needs the package matplotlib")
PROMPTS = DigitPrompts(contexts=2, examples=10, sums=3, plain=2, temperature=0.7, seed=3)


def run_generation(model, llm, out):
    return evaluate(generate, Run("generate", PROMPTS, model, llm, out))


class Reader:
    """Reads a digit off an image's first pixel."""

    def predict(self, images):
        return images[:, 0, 0, 0].round().long()


@pytest.fixture(autouse=True)
def toy(monkeypatch, toy_data):
    from spae import data

    monkeypatch.setattr(generate, "MNISTDigits", lambda split: data.load("mnist", split, size=8))
    monkeypatch.setattr(generate, "DigitClassifier", Reader)


def test_an_interrupted_run_goes_on(tmp_path, spae, tiny, interrupted):
    counted = interrupted(tiny)
    whole = run_generation(spae, counted, tmp_path / "whole")
    with pytest.raises(interrupted.Stopped):
        run_generation(spae, interrupted(tiny, calls_left=4), tmp_path / "parts")
    resumed = interrupted(tiny)
    assert run_generation(spae, resumed, tmp_path / "parts") == whole
    assert resumed.calls == counted.calls - 4
    for name in ("generate.json", "generate.md", "generate.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert whole["captions"]["digits"] == 10
    assert {kind: row["trials"] for kind, row in whole["captions"]["accuracy"].items()} == {
        "all": 10,
        "plain": 4,
        "sums": 6,
    }


def test_sums_mean_what_they_say_and_shuffling_moves_captions(spae, tiny, monkeypatch):
    asked = []
    decode = drawing.decode

    def spy(llm, task, queries, *arguments, **options):
        asked.append((task, queries))
        return decode(llm, task, queries, *arguments, **options)

    monkeypatch.setattr(drawing, "decode", spy)
    prompts = DigitPrompts(contexts=1, examples=20, sums=10, plain=10, stride=9)
    generated = generate.generate_digits(spae, tiny, prompts)
    for caption, label in zip(generated.captions, generated.labels.tolist(), strict=True):
        assert sum(map(int, caption.split("+"))) == label
    generate.generate_digits(spae, tiny, prompts, shuffle_captions=True)
    (task, queries), (dealt, others) = asked
    assert len(queries) == len(others) == 20
    assert [e.answer for e in task.examples] == [e.answer for e in dealt.examples]
    assert sorted(e.condition for e in task.examples) == sorted(e.condition for e in dealt.examples)
    assert task != dealt


def test_figures_by_hand():
    """Two digits of which the first is right, and a copy of an example word by word."""
    pyramid = Pyramid.square(1, (1,))
    images = torch.zeros(2, 3, 8, 8)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 4, 5
    context_images = torch.zeros(1, 3, 3, 8, 8)
    context_images[0, :, 0, 0, 0] = torch.tensor([4.0, 1.0, 8.0])
    report = evaluate_generation(
        Generated(
            captions=["4", "1+2"],
            labels=torch.tensor([4, 3]),
            tokens=PyramidTokens(torch.tensor([[7], [9]]), pyramid),
            images=images,
            context=torch.zeros(2, dtype=torch.int64),
            context_ids=torch.tensor([[[7], [1], [2]]]),
            context_images=context_images,
        )
    )
    assert {kind: row["value"] for kind, row in report["accuracy"].items()} == {
        "all": 0.5,
        "plain": 1,
        "sums": 0,
    }
    assert (report["copies"], report["distinct images"]) == (1, 2)
    assert report["nearest example"]["value"] == pytest.approx((0 + 1) / 2 / (3 * 64) ** 0.5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="examples: expected a multiple of 10, got 15"):
        DigitPrompts(examples=15)
