import json
from functools import partial

import pytest

from spae.eval import drawing
from spae.eval.run import Run, evaluate
from spae.eval.tasks import strides
from spae.eval.tasks.generate import Prompts
from spae.eval.tasks.strides import StrideStudy

pytest.importorskip("matplotlib", reason="needs the package matplotlib")
PROMPTS = Prompts(contexts=1, examples=10, sums=2, plain=3, layers=2, seed=3)
pytestmark = pytest.mark.usefixtures("toy_drawable")
STUDY = StrideStudy((1, 4, "whole"), ("par", "pnar"), ("examples", "segments"), PROMPTS)


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


def test_an_interrupted_study_goes_on(spae, goes_on):
    goes_on(partial(study, spae), "strides", calls_left=7)


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
