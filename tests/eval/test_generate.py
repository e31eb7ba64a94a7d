from functools import partial

import pytest
import torch

from spae.data.fashion import CLASSES
from spae.data.sound import write_wav
from spae.eval import drawable, drawing
from spae.eval.run import Run, evaluate
from spae.eval.statistics import proportion
from spae.eval.sums import numeral
from spae.eval.tasks import generate
from spae.eval.tasks.generate import Generated, Prompts, Query, evaluate_generation
from spae.tokenizers import PyramidTokens
from spae_ops import Pyramid

pytest.importorskip("matplotlib", reason="needs the package matplotlib")
pytestmark = pytest.mark.usefixtures("toy_drawable")
PROMPTS = Prompts(contexts=2, examples=10, sums=3, plain=2, temperature=0.7, seed=3)


def run_generation(model, llm, out):
    return evaluate(generate, Run("generate", PROMPTS, model, llm, out))


def test_an_interrupted_run_goes_on(spae, goes_on):
    whole = goes_on(partial(run_generation, spae), "generate", calls_left=4)
    assert whole["captions"]["images"] == 10
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
    prompts = Prompts(contexts=1, examples=20, sums=10, plain=10, stride=9)
    generated = generate.generate_images(spae, tiny, prompts)
    for kind, caption, label, _ in generated.queries:
        assert sum(map(int, caption.split("+"))) == label
        assert kind == ("sums" if "+" in caption else "plain")
    generate.generate_images(spae, tiny, prompts, shuffle_captions=True)
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
            queries=[Query("plain", "4", 4), Query("sums", "1+2", 3)],
            tokens=PyramidTokens(torch.tensor([[7], [9]]), pyramid),
            images=[torch.zeros(2, 3, 8, 8), images],
            context=torch.zeros(2, dtype=torch.int64),
            context_ids=torch.tensor([[[7], [1], [2]]]),
            context_images=context_images,
        ),
        drawable.digits(8),
    )
    assert report["accuracy"]["all"]["layers"][0]["value"] == 0  # an empty image reads as a 0
    assert report["accuracy"]["all"]["layers"][1] == proportion(1, 2)._asdict()
    assert {kind: row["value"] for kind, row in report["accuracy"].items()} == {
        "all": 0.5,
        "plain": 1,
        "sums": 0,
    }
    assert (report["copies"], report["distinct images"]) == (1, 2)
    assert report["nearest example"]["value"] == pytest.approx((0 + 1) / 2 / (3 * 64) ** 0.5)


class Adder:
    """Continues "1+7 is" by the sum, or by "many" where the two are the same."""

    name = "adder"

    def __init__(self, llm):
        self._llm, self.shown = llm, []

    def __getattr__(self, name):
        return getattr(self._llm, name)

    def generate(self, prompts, num_tokens, *, stop=(), **options):
        if not stop:
            return self._llm.generate(prompts, num_tokens, stop=stop, **options)
        rows = []
        for ids in prompts:
            *shown, asked = self._llm.decode(ids).split("\n")
            self.shown.append((shown, asked))
            first, second = map(int, asked.removesuffix(" is").split("+"))
            row = self._llm.encode(f" {first + second}" if first != second else " many")
            rows.append(row + [-1] * (num_tokens - len(row)))
        return torch.tensor(rows)


@pytest.mark.parametrize("captions", ["digits", "words"])
def test_chained_sums_are_drawn_as_what_the_model_says(tmp_path, spae, tiny, captions):
    prompts = Prompts(
        contexts=1, examples=10, sums=6, plain=0, stride=9, captions=captions, chain=True, seed=2
    )
    adder = Adder(tiny)
    generated = generate.generate_images(spae, adder, prompts)
    sums, chained = generated.queries[:6], generated.queries[6:]
    assert [query.kind for query in generated.queries] == ["sums"] * 6 + ["chained"] * 6
    right = 0
    for asked, said in zip(sums, chained, strict=True):
        assert asked.label == said.label
        first, second = asked.terms
        assert first + second == asked.label
        right += first != second
        assert said.caption == (numeral(said.label, captions) if first != second else "many")
    for shown, asked in adder.shown:
        text = asked.removesuffix(" is")
        assert len(shown) > 40
        assert not any(line.startswith((f"{text} is", f"{text[::-1]} is")) for line in shown)
    assert 0 < right < 6
    report = evaluate(generate, Run("generate", prompts, spae, adder, tmp_path))
    assert report["captions"]["sums said right"]["value"] == right / 6
    assert {kind: row["trials"] for kind, row in report["captions"]["accuracy"].items()} == {
        "all": 6,
        "sums": 6,
        "chained": 6,
    }
    note = generate.table(report).splitlines()[-1]
    assert ("captions in words" in note) == (captions == "words")
    assert "of the sums the model says" in note


def test_digits_of_a_few_layers_by_the_likeliest_of_some(tmp_path, spae, tiny):
    prompts = Prompts(
        contexts=1,
        examples=10,
        sums=2,
        plain=2,
        layers=2,
        par_layers=1,
        shown_words=3,
        temperature=0.9,
        top_p=0.8,
        best_of=3,
    )
    report = evaluate(generate, Run("generate", prompts, spae, tiny, tmp_path))
    assert report["captions"]["images"] == 4
    note = generate.table(report).splitlines()[-1]
    assert "2 layers written, stride 1, layout examples, PAR in 1 layers, the last 3 words shown, " in note
    assert "temperature 0.9, top-p 0.8, likeliest of 3;" in note
    drawn = generate.generate_images(spae, tiny, prompts)
    assert drawn.tokens.num_layers == 2
    assert [images.shape for images in drawn.images] == [(4, 3, 8, 8)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 15}, "examples: expected a multiple of 10, got 15"),
        ({"plain": 0, "sums": 0}, "plain: expected 1 or more where there are no sums, got 0"),
        ({"sums": 0, "chain": True}, "chain: expected False where there are no sums, got True"),
        ({"data": "cats"}, "data: expected digits, garments or spoken-digits:PATH, got 'cats'"),
        ({"data": "garments"}, "sums: expected 0 where garments are drawn, got 10"),
        (
            {"data": "garments", "sums": 0, "captions": "words"},
            "captions: expected digits, .*, where garments are drawn, .*, got 'words'",
        ),
        ({"captions": "roman"}, "captions: expected digits or words, got 'roman'"),
        ({"best_of": 4}, "best_of: expected 1 or more, and 1 at temperature 0, got 4 at 0"),
        ({"best_of": 0}, "best_of: expected 1 or more, .*, got 0 at 0"),
        ({"layers": 0}, "layers: expected at least 1, got 0"),
        ({"top_p": 0.0}, "top_p: expected a number above 0 to 1 or null, got 0"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Prompts(**options)


def test_garments_are_drawn_by_name(spae, tiny):
    prompts = Prompts(data="garments", contexts=1, examples=10, sums=0, plain=3)
    pool = generate.Pool(spae, tiny, prompts.data)
    drawn = generate.generate_images(spae, tiny, prompts, pool=pool)
    assert [(query.kind, query.caption, query.label) for query in drawn.queries] == [
        ("plain", CLASSES[0], 0),
        ("plain", CLASSES[1], 1),
        ("plain", CLASSES[2], 2),
    ]
    assert len(pool.shown.images) == len(pool.shown.labels) == 300
    assert len(pool.shown.held_out) == 60
    assert set(evaluate_generation(drawn, pool.shown)["accuracy"]) == {"all", "plain"}


def test_spoken_digits_are_said_by_name(tmp_path):
    pytest.importorskip("sklearn", reason="needs the package scikit-learn")
    for digit in range(10):
        for take in range(7):
            time = torch.arange(1600) / 8000
            sound = torch.sin(2 * torch.pi * 300 * (digit + 1) * time) * (0.5 + 0.05 * take)
            write_wav(sound, tmp_path / f"{digit}_ann_{take}.wav", 8000)
    shown = drawable.drawable(f"spoken-digits:{tmp_path}", 16)
    assert shown.images.shape == (20, 1, 16, 16)
    assert shown.labels.tolist() == [digit for digit in range(10) for _ in range(2)]
    assert shown.held_out.shape == (50, 1, 16, 16)
    assert shown.names[3] == "three"
