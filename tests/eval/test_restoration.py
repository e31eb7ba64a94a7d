import json

import pytest
import torch

from spae.eval import restoration
from spae.eval.restoration import RestorationRun, restoration_table, run_denoising, run_outpainting

pytest.importorskip("matplotlib", reason="needs the package matplotlib")
pytestmark = pytest.mark.usefixtures("toy_data")
DENOISE = RestorationRun(images=2, layers=2, condition_layers=1, stride=3, tasks=("inpainting", "rotation"))
OUTPAINT = RestorationRun(
    data="emoji", images=4, condition_layers=2, stride=3, layout="segments", examples=5, contexts=2
)
RUNS = {"denoise": (run_denoising, DENOISE, 5), "outpaint": (run_outpainting, OUTPAINT, 7)}


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_goes_on(tmp_path, spae, tiny, interrupted, name):
    run, options, calls_left = RUNS[name]
    counted = interrupted(tiny)
    whole = run(spae, counted, options, tmp_path / "whole")
    with pytest.raises(interrupted.Stopped):
        run(spae, interrupted(tiny, calls_left=calls_left), options, tmp_path / "parts")
    resumed = interrupted(tiny)
    assert run(spae, resumed, options, tmp_path / "parts") == whole
    assert resumed.calls == counted.calls - calls_left
    for suffix in ("json", "md", "png"):
        file = f"{name}.{suffix}"
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
    # Nothing in it but numbers that JSON knows.
    json.loads((tmp_path / "whole" / f"{name}.json").read_text(), parse_constant=pytest.fail)
    assert restoration_table(whole) + "\n" == (tmp_path / "whole" / f"{name}.md").read_text()


def test_baselines_of_denoising(tmp_path, spae, tiny):
    report = run_denoising(spae, tiny, DENOISE, tmp_path)
    assert [row["task"] for row in report["rows"]] == ["inpainting"] * 7 + ["rotation"] * 7
    rows = {row["method"]: row for row in report["rows"][:7]}
    assert rows["own words"]["words"]["value"] == 1
    assert rows["majority"]["words"]["value"] > 0.8
    assert rows["random words"]["words"]["value"] < 0.5
    assert "words" not in rows["degraded"]


def test_outpainting_keeps_the_upper_half(tmp_path, spae, tiny, monkeypatch):
    pages = []
    monkeypatch.setattr(restoration._Bench, "finish", lambda self, *page: pages.append((self, page)))
    run_outpainting(spae, tiny, OUTPAINT, tmp_path)
    ((bench, (_, rows, [(_, methods)], _)),) = pages
    for name, (images, _) in methods.items():
        assert torch.equal(images[..., :4, :], bench.originals[..., :4, :]), name
    assert (methods["degraded"].images[..., 4:, :] == 0).all()
    by_name = {row["method"]: row["psnr"]["value"] for row in rows}
    expected = 10 * torch.log10(4 / bench.originals[..., 4:, :].square().flatten(1).mean(1))
    assert by_name["degraded"] == pytest.approx(expected.mean().item(), abs=1e-4)
    # The copied half is the example's that is nearest where it may be seen; here often of the same class.
    assert by_name["nearest example"] > by_name["degraded"]
    allowed = bench.lexicon.allowed(0)
    written = bench.model.codebook.llm_ids[methods["language model"].tokens.ids[:, 0]]
    assert torch.isin(written, allowed).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "cats"}, r"data: expected one of \['digits', 'emoji'\], got 'cats'"),
        ({"tasks": ("inpainting", "magic")}, "tasks: expected some of .*, got 'magic'"),
        ({"images": 5, "contexts": 2}, "images: expected at least 2, as many in each of 2 contexts, got 5"),
        ({"images": 1, "contexts": 1}, "images: expected at least 2"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        RestorationRun(**options)


def test_more_images_than_there_are(tmp_path, spae, tiny):
    with pytest.raises(ValueError, match="images: expected at most 22, got 24"):
        run_outpainting(spae, tiny, RestorationRun(data="emoji", images=24), tmp_path)
