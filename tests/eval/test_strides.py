import json

import pytest

from spae.eval import drawable, drawing
from spae.eval.run import Run, evaluate
from spae.eval.tasks import strides
from spae.eval.tasks.generate import Prompts
from spae.eval.tasks.strides import StrideStudy

pytest.importorskip("matplotlib", reason="needs the package matplotlib")
PROMPTS = Prompts(contexts=1, examples=10, sums=2, plain=3, layers=2, seed=3)
STUDY = StrideStudy((1, 4, "whole"), ("par", "pnar"), ("examples", "segments"), PROMPTS)


@pytest.fixture(autouse=True)
def toy(monkeypatch, toy_data):
    from spae import data

    class Reader:
        def predict(self, images):
            return images[:, 0, 0, 0].round().long()

    monkeypatch.setattr(drawable, "MNISTDigits", lambda split: data.load("mnist", split, size=8))
    monkeypatch.setattr(drawable, "DigitClassifier", Reader)


def study(model, llm, out):
    return evaluate(strides, Run("strides", STUDY, model, llm, out))


def test_every_stride_with_every_mode_and_layout_of_the_same_prompts(tmp_path, spae, tiny, monkeypatch):
    asked = []
    decode = drawing.decode

    def spy(llm, task, queries, *arguments, **options):
        asked.append((task, tuple(queries), options["mode"], options["stride"], options["options"].layout))
        return decode(llm, task, queries, *arguments, **options)

    monkeypatch.setattr(drawing, "decode", spy)
    report = study(spae, tiny, tmp_path)
    assert len({(task, queries) for task, queries, *_ in asked}) == 1
    assert [(layout, mode, stride) for *_, mode, stride, layout in asked] == [
        (layout, mode, stride)
        for layout in ("examples", "segments")
        for mode in ("par", "pnar")
        for stride in (1, 4, 5)  # the words of two layers
    ]
    assert [row["stride"] for row in report["rows"]] == [1, 4, "whole"] * 4
    assert {row["images"] for row in report["rows"]} == {5}
    text = strides.table(report)
    assert "| layout | mode | stride | plain | sums | different images | copies |" in text
    assert "10 examples a context, 3 plain, 2 sums, 2 layers written, seed 3; chance is 0.10" in text
    assert json.loads((tmp_path / "strides.json").read_text())["strides"] == [1, 4, "whole"]


def test_an_interrupted_study_goes_on(tmp_path, spae, tiny, interrupted):
    counted = interrupted(tiny)
    whole = study(spae, counted, tmp_path / "whole")
    with pytest.raises(interrupted.Stopped):
        study(spae, interrupted(tiny, calls_left=7), tmp_path / "parts")
    resumed = interrupted(tiny)
    assert study(spae, resumed, tmp_path / "parts") == whole
    assert resumed.calls == counted.calls - 7
    for name in ("strides.json", "strides.md", "strides.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": ()}, r'strides: expected numbers from 1 or "whole", each once, got \(\)'),
        ({"strides": (0,)}, r"strides: expected numbers from 1 .*, got \(0,\)"),
        ({"strides": (2, 2)}, r"strides: expected .*, got \(2, 2\)"),
        ({"modes": ("ar",)}, r"modes: expected some of par, pnar, each once, got \('ar',\)"),
        ({"layouts": ()}, r"layouts: expected some of examples, segments, each once, got \(\)"),
        ({"prompts": Prompts(par_layers=1)}, "par_layers: expected None, got 1"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        StrideStudy(**options)
