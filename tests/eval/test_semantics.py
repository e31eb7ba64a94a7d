import json

import numpy as np
import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.cli import main
from spae.eval.tasks.semantics import evaluate_semantics, table
from spae.figures import semantics_page
from spae.losses import Regions


def model():
    torch.manual_seed(0)
    book = Codebook.from_arrays([f" word{i}" for i in range(40)], torch.randn(40, 6))
    config = SPAEConfig((16, 16), (1, 2, 4), channels=4, multipliers=(1, 1, 1), num_res_blocks=1)
    return SPAE(config, book).eval()


def inputs(count=7):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 16, 16, generator=generator) * 2 - 1
    return images, torch.randn(count, 5, generator=generator), torch.randn(40, 5, generator=generator)


def test_scores_and_intervals_by_hand():
    spae = model()
    images, guidance, text = inputs()
    groups = ["a", "b", "a", "c", "b", "a", "d"]
    report = evaluate_semantics(spae, images, guidance, text, groups=groups, batch_size=3)
    plain = evaluate_semantics(spae, images, guidance, text)
    raw = (guidance @ text.T).double().numpy()
    relative = (raw - raw.min(1, keepdims=True)) / np.ptp(raw, axis=1, keepdims=True)
    tokens = spae.encode(images)
    assert (report["images"], report["groups"], plain["groups"]) == (7, 4, 7)
    for layer, row in enumerate(report["layers"]):
        ids = tokens.layer(layer).numpy()
        values = np.take_along_axis(relative, ids, 1).mean(1)
        assert row["score"] == pytest.approx(values.mean(), abs=1e-5)
        assert row["similarity"] == pytest.approx(np.take_along_axis(raw, ids, 1).mean(), abs=1e-5)
        assert row["random"] == pytest.approx(relative.mean(), abs=1e-5)
        best = np.sort(relative, 1)[:, ::-1][:, : ids.shape[1]]
        assert row["best"] == pytest.approx(best.mean(), abs=1e-5)
        assert row["distinct"] == pytest.approx(np.mean([len(set(image)) for image in ids.tolist()]))
        means = [values[[g == name for g in groups]].mean() for name in "abcd"]
        assert row["interval"] == pytest.approx(1.96 * np.std(means, ddof=1) / 2, abs=1e-5)
        expected = 1.96 * values.std(ddof=1) / 7**0.5
        assert plain["layers"][layer]["interval"] == pytest.approx(expected, abs=1e-5)
    assert report["layers"][0]["best"] == pytest.approx(1)
    assert "95% intervals over concepts" in table({"scorer": "toy", "splits": {"test": report}})
    # One concept says nothing of how concepts differ; how its images differ is known.
    assert evaluate_semantics(spae, images, guidance, text, groups=["a"] * 7) == plain
    assert "95% intervals over images" in table({"scorer": "toy", "splits": {"test": plain}})


def test_errors_name_the_argument():
    spae = model()
    images, guidance, text = inputs()
    with pytest.raises(ValueError, match=r"images: expected at least 2, for figures with intervals, got 1"):
        evaluate_semantics(spae, images[:1], guidance[:1], text)
    with pytest.raises(ValueError, match=r"guidance: expected shape \[7, 5\], got \[6, 5\]"):
        evaluate_semantics(spae, images, guidance[:6], text)
    with pytest.raises(ValueError, match=r"text_features: expected one row for each of 40 words"):
        evaluate_semantics(spae, images, guidance, text[:39])


def test_table_and_page(tmp_path):
    pytest.importorskip("matplotlib", reason="needs the package matplotlib")
    spae = model()
    images, guidance, text = inputs()
    report = {"scorer": "toy", "splits": {"train": evaluate_semantics(spae, images, guidance, text)}}
    lines = table(report).splitlines()
    assert len(lines) == 2 + 3 + 2
    assert lines[2].startswith("| train | 7 | 1 | 1 | 0.")
    page = tmp_path / "page.png"
    semantics_page(spae, images, spae.encode(images), [f"picture {i}" for i in range(7)], page)
    assert page.stat().st_size > 10_000


def test_cells_are_scored_by_the_crops_that_hold_them():
    spae = model()
    images, _, text = inputs()
    regions = Regions((1, 2))
    crops = torch.randn(7, 5, 5, generator=torch.Generator().manual_seed(4))
    report = evaluate_semantics(spae, images, crops, text, regions=regions, batch_size=3)
    raw = (crops @ text.T).double().numpy()
    relative = (raw - raw.min(2, keepdims=True)) / np.ptp(raw, axis=2, keepdims=True)
    tokens = spae.encode(images)
    layers = [[0], [1, 2, 3, 4], [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]]
    for layer, (row, of) in enumerate(zip(report["layers"], layers, strict=True)):
        ids = tokens.layer(layer).numpy()
        cells = relative[:, of]
        values = np.take_along_axis(cells, ids[..., None], 2).mean()
        assert row["score"] == pytest.approx(values, abs=1e-5)
        assert row["random"] == pytest.approx(cells.mean(), abs=1e-5)
        best = np.sort(relative[:, sorted(set(of))], 2)[..., ::-1][..., : len(of) // len(set(of))]
        assert row["best"] == pytest.approx(best.mean(), abs=1e-5)
    whole = evaluate_semantics(spae, images, crops[:, 0], text)
    assert evaluate_semantics(spae, images, crops[:, :1], text) == whole
    assert whole["layers"][0] == pytest.approx(report["layers"][0], abs=1e-5)
    with pytest.raises(ValueError, match=r"guidance: expected shape \[7, 5, 5\], got \[7, 4, 5\]"):
        evaluate_semantics(spae, images, crops[:, :4], text, regions=regions)


class Toy:
    """Sees an image's mean colour; a word's direction follows from its letters."""

    name, checksum = "toy", "0"

    @classmethod
    def load(cls):
        return cls()

    def text_features(self, texts):
        return torch.nn.functional.normalize(
            torch.tensor([[len(t), ord(t[-1]) - 50.0, 1] for t in texts]), dim=1
        )

    def image_features(self, images):
        return torch.nn.functional.normalize(images.mean((2, 3)), dim=1)


def test_the_command_scores_any_folder(tmp_path, monkeypatch, capsys):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for number in range(9):
        folder = tmp_path / "data/test" / ("night" if number % 2 else "day")
        folder.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (16, 16), (20 * number, 255 - 20 * number, 90)).save(folder / f"{number}.png")
    (tmp_path / "data/train").mkdir()
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spae.commands.eval.load_tokenizer", lambda name: model())
    monkeypatch.setattr("spae.scorers.named.ConSEScorer", Toy)
    command = ["eval", "semantics", "--data", str(tmp_path / "data"), "--scorer", "conse", "--json"]
    assert main([*command, "--regions", "1", "2", "--images", "6"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["scorer"] == "toy"
    assert (report["splits"]["test"]["images"], report["splits"]["test"]["groups"]) == (6, 2)
    assert report["run"]["regions"] == [1, 2]
    assert main(["eval", "semantics", "--regions", "1", "2"]) != 0
    assert "semantics.regions: expected (1,) for 'caption'" in capsys.readouterr().err
    assert main([*command, "--images", "1"]) != 0
    assert "images: expected at least 2, for figures with intervals, got 1 of 9" in capsys.readouterr().err
    assert main(["eval", "semantics", "--split", "train"]) != 0
    assert "semantics.split: expected the default, test, for emoji" in capsys.readouterr().err
    assert main(["eval", "semantics", "--images", "5"]) != 0
    assert "semantics.images: expected the default, None, for emoji" in capsys.readouterr().err
