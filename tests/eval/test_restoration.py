import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from spae import Codebook, V2LConfig, V2LTokenizer
from spae.cli import main
from spae.eval.restoration import Lab
from spae.eval.run import Run, evaluate, find
from spae.eval.tasks.denoise import Denoising
from spae.eval.tasks.outpaint import Outpainting
from spae.eval.tasks.windows import WindowStudy
from spae.incontext.tasks import hidden_tokens

pytest.importorskip("matplotlib", reason="needs the package matplotlib")
pytestmark = pytest.mark.usefixtures("toy_data")
DENOISE = Denoising(images=2, layers=2, stride=3, window=4, tasks=("inpainting", "rotation"))
LAYERS = Denoising(
    images=2, layers=2, condition_layers=1, stride=3, scheme="layers", tasks=("inpainting", "rotation")
)
OUTPAINT = Outpainting(
    data="emoji", images=4, condition_layers=2, stride=3, layout="segments", examples=5, contexts=2
)
RUNS = [("denoise", DENOISE, 5), ("denoise", LAYERS, 5), ("outpaint", OUTPAINT, 7)]
NAMES = ["denoise-windows", "denoise-layers", "outpaint"]


def restore(name, model, llm, out, settings):
    return evaluate(find(name), Run(name, settings, model, llm, out))


@pytest.mark.parametrize(("name", "settings", "calls_left"), RUNS, ids=NAMES)
def test_an_interrupted_run_goes_on(tmp_path, spae, goes_on, name, settings, calls_left):
    whole = goes_on(partial(restore, name, spae, settings=settings), name, calls_left)
    # Nothing in it but numbers that JSON knows.
    json.loads((tmp_path / "whole" / f"{name}.json").read_text(), parse_constant=pytest.fail)
    assert find(name).table(whole) + "\n" == (tmp_path / "whole" / f"{name}.md").read_text()


METHODS = ["language model", "wrong image", "majority", "nearest example", "degraded", "random words"]


@pytest.mark.parametrize("settings", [DENOISE, LAYERS], ids=["windows", "layers"])
def test_baselines_of_denoising(tmp_path, spae, tiny, settings):
    report = restore("denoise", spae, tiny, tmp_path, settings)
    assert [row["task"] for row in report["rows"]] == ["inpainting"] * 7 + ["rotation"] * 7
    assert [row["method"] for row in report["rows"][:7]] == [*METHODS, "own words"]
    rows = {row["method"]: row for row in report["rows"][:7]}
    assert rows["own words"]["words"]["value"] == 1
    assert rows["majority"]["words"]["value"] > 0.8
    assert "words" not in rows["degraded"]
    assert report["originals read"]["value"] == 1
    for row in report["rows"]:
        assert -1 <= row["ssim"]["value"] <= 1
        assert 0 <= row["read"]["value"] <= 1
    by_task = {(row["task"], row["method"]): row for row in report["rows"]}
    assert by_task["rotation", "random words"]["words"]["value"] < 0.5
    table = find("denoise").table(report)
    assert table.startswith(
        "| task | method | PSNR (dB) | SSIM | read right | share of the original's words |"
    )
    note = {
        "windows": "3 words at a time from the 4 before,",
        "layers": "1 layers shown, 2 layers written, stride 3, layout",
    }
    assert note[settings.scheme] in table


def test_only_what_is_hidden_is_predicted(tmp_path, spae, tiny, interrupted, monkeypatch):
    """Inpainting hides the latent grid's middle, one of a 2 x 2 grid's positions none; outpainting the lower
    half: the others keep the original's words with every method."""
    pages, measured = [], Lab.measured
    monkeypatch.setattr(Lab, "measured", lambda *page: pages.append(page) or measured(*page))
    llm = interrupted(tiny)
    restore("denoise", spae, llm, tmp_path, Denoising(images=2, tasks=("outpainting",), stride=2))
    ((bench, _, [(_, methods)]),) = pages
    hidden = hidden_tokens("outpainting", spae.pyramid)
    assert 0 < hidden.sum() < len(hidden)
    for name in (*METHODS[:4], "random words", "own words"):
        kept = methods[name].tokens.ids == bench.tokens.ids
        assert kept[:, ~hidden].all(), name
    assert not (methods["random words"].tokens.ids == bench.tokens.ids).all()
    runs = len("".join("x" if one else " " for one in hidden.tolist()).replace("xx", "x ").split())
    assert llm.calls == 2 * 2 * runs
    alone = Denoising(images=2, tasks=("outpainting",), stride=2, control=False)
    restore("denoise", spae, llm, tmp_path, alone)
    assert llm.calls == 2 * 2 * runs
    assert [*pages[1][2][0][1]] == [name for name in methods if name != "wrong image"]


def test_other_data_is_read_by_its_features(tmp_path, spae, tiny, monkeypatch):
    """Garments have classes in both splits: a machine over features reads them; emoji are other concepts."""
    pytest.importorskip("sklearn", reason="needs the package scikit-learn")
    fitted = []

    def features(images):
        fitted.append(len(images))
        return {item: image.flatten() for item, image in images.items()}

    monkeypatch.setattr("spae.eval.classifier.lite0_features", features)
    chosen = Denoising(data="garments", images=4, tasks=("inpainting",), stride=4)
    report = restore("denoise", spae, tiny, tmp_path / "garments", chosen)
    assert fitted[0] == 300
    assert report["originals read"]["value"] == 1
    chosen = Denoising(data="emoji", images=2, tasks=("inpainting",), stride=4)
    report = restore("denoise", spae, tiny, tmp_path / "emoji", chosen)
    assert "originals read" not in report
    assert all("read" not in row for row in report["rows"])


def test_outpainting_keeps_the_upper_half(tmp_path, spae, tiny, monkeypatch):
    pages, measured = [], Lab.measured
    monkeypatch.setattr(Lab, "measured", lambda *page: pages.append(page) or measured(*page))
    restore("outpaint", spae, tiny, tmp_path, OUTPAINT)
    ((bench, rows, [(_, methods)]),) = pages
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
    ("settings", "options", "message"),
    [
        (Denoising, {"data": "cats"}, r"data: expected one of digits, garments, emoji, .*, got 'cats'"),
        (Denoising, {"scheme": "rows"}, r"scheme: expected windows or layers, got 'rows'"),
        (
            Denoising,
            {"temperature": 0.5},
            "temperature: expected the default, 0.0, .* scheme layers has it, got 0.5 with windows",
        ),
        (Denoising, {"condition_layers": 1}, "condition_layers: .* got 1 with windows"),
        (Denoising, {"par_layers": 1}, "par_layers: .* got 1 with windows"),
        (
            Denoising,
            {"scheme": "layers", "window": 3},
            "window: .* only the scheme windows has it, got 3 with layers",
        ),
        (Denoising, {"window": -1}, "window: expected 0 or more, got -1"),
        (Denoising, {"tasks": ("inpainting", "magic")}, "tasks: expected some of .*, got 'magic'"),
        (Denoising, {"images": 1}, "images: expected at least 2"),
        (Denoising, {"stride": 0}, "stride: expected 1 or more, got 0"),
        (Denoising, {"mode": "par2"}, "mode: expected one of par, pnar, got 'par2'"),
        (Denoising, {"layout": "rows"}, "layout: expected one of examples, segments, got 'rows'"),
        (Outpainting, {"mode": "pnar", "par_layers": 2}, "par_layers: .* got 2 with mode .pnar."),
        (Outpainting, {"images": 5, "contexts": 2}, "images: expected as many in each of 2 contexts, got 5"),
    ],
)
def test_bad_input_is_named(settings, options, message):
    with pytest.raises(ValueError, match=message):
        settings(**options)


def test_more_images_than_there_are(tmp_path, spae, tiny):
    with pytest.raises(ValueError, match="images: expected at most 22, got 24"):
        restore("outpaint", spae, tiny, tmp_path, Outpainting(data="emoji", images=24))


def test_modes_of_decoding_differ_and_are_named(tmp_path, spae, tiny):
    """Every mode is another run: other segments, other records, and the table says which."""
    notes = []
    for options in ({}, {"mode": "pnar"}, {"par_layers": 1}):
        chosen = Outpainting(data="emoji", images=2, contexts=1, examples=4, stride=4, **options)
        report = restore("outpaint", spae, tiny, tmp_path, chosen)
        assert report["run"]["mode"] == options.get("mode", "par")
        notes.append(find("outpaint").table(report).splitlines()[-1])
    assert "stride 4, layout examples, seed 0" in notes[0]
    assert "layout examples, mode pnar, seed" in notes[1]
    assert "layout examples, PAR in 1 layers, seed" in notes[2]
    kept = [json.loads(line)["key"] for line in (tmp_path / "segments.jsonl").read_text().splitlines()]
    # Nine words: three segments of PAR through the layers; one, one and one of PNAR, ending with their layer.
    assert len(kept) == 2 * 3 * 3
    assert len(set(kept)) == len(kept)


def test_the_study_has_every_window_with_every_step(tmp_path, spae, tiny):
    base = Denoising(images=2, layers=2, tasks=("inpainting",))
    study = WindowStudy(windows=(2, 4), steps=(1, 3), denoising=base)
    report = restore("windows", spae, tiny, tmp_path, study)
    own = [row for row in report["rows"] if row["method"] == "language model"]
    assert [(row["n"], row["m"]) for row in own] == [(2, 1), (2, 3), (4, 1), (4, 3)]
    assert [row["method"] for row in report["rows"][4:]] == ["majority", "degraded", "own words"]
    one = Denoising(images=2, layers=2, tasks=("inpainting",), window=4, stride=3)
    alone = restore("denoise", spae, tiny, tmp_path / "one", one)["rows"]
    kept = {key: value for key, value in own[3].items() if key not in "nm"}
    assert kept == alone[0]
    assert report["rows"][4] == next(row for row in alone if row["method"] == "majority")
    lines = find("windows").table(report).splitlines()
    assert lines[0].startswith("| task | method | n | m | PSNR (dB) |")
    assert restore("windows", spae, tiny, tmp_path, study) == report


def test_studies_that_cannot_be_made(capsys):
    for name, options in (("windows", {"windows": ()}), ("steps", {"steps": (0, 1)})):
        with pytest.raises(ValueError, match=f"{name}: expected numbers from"):
            WindowStudy(**options)
    with pytest.raises(ValueError, match="scheme: expected 'windows', got 'layers'"):
        WindowStudy(denoising=Denoising(scheme="layers"))
    for option in (["--window", "3"], ["--stride", "3"], ["--scheme", "layers"]):
        assert main(["eval", "windows", *option]) == 1
        assert f"{option[0][2:]}: expected the default" in capsys.readouterr().err


def test_local_words_of_a_v2l(tmp_path, tiny):
    """Its global words, some of several ids, are shown and kept."""
    ids = torch.tensor([[20 + 3 * i, -1 if i < 40 else 90 + i] for i in range(60)])
    words = [f"<{i}>" for i in range(60)]
    book = Codebook(words, torch.randn(60, 12), ids, name="t").normalised("unit")
    config = V2LConfig(
        (8, 8), (1, 2, 4), channels=4, multipliers=(1, 1), num_res_blocks=1, image_encoder="custom"
    )
    rows = {"global": torch.arange(30, 60), "local": torch.arange(40)}
    encoder = SimpleNamespace(
        name="toy", checksum="0", image_features=lambda images: images.flatten(1)[:, :12].contiguous()
    )
    model = V2LTokenizer(config, book, rows, image_encoder=encoder).eval()
    settings = Denoising(images=2, stride=3, window=4, tasks=("inpainting",))
    report = restore("denoise", model, tiny, tmp_path, settings)
    shares = {row["method"]: row["words"]["value"] for row in report["rows"] if "words" in row}
    # 4 of 21 words are hidden, and a random word is hardly ever right.
    assert all(share >= 17 / 21 for share in shares.values())
    assert shares["own words"] == 1 > shares["random words"]
