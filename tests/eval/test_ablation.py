"""The nine rows are trained, measured and shown side by side; an interrupted run goes on."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae import Codebook
from spae.cli import main
from spae.eval import ablation
from spae.eval.ablation import Ablation, accuracies, run_ablation, table
from spae.eval.features import ImageFeatures
from spae.losses import FeatureDistance
from spae.tokenizers import PyramidTokens
from spae.training.ablation import ablations
from spae_ops import Pyramid


class Semantic(torch.nn.Module):
    """Stands for the semantic loss, which has its own tests."""

    def __init__(self, thresholds):
        super().__init__()
        self.thresholds = thresholds

    def forward(self, output, guidance):
        return output.features.square().mean()


class Letters:
    """Texts are alike that have the same letters."""

    name, checksum = "letters", "0"

    def text_features(self, texts):
        rows = [[1.0 + text.casefold().count(letter) for letter in "regnblu0123"] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=1)

    caption_features = text_features


def see(images):
    return images.mean((2, 3)), images.mean((2, 3)).log_softmax(1)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A full recipe for 8 x 8 pictures of three colours, in class folders; every part is real but what guides
    and what sees."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    rng = np.random.default_rng(0)
    for split, each in (("train", 2), ("test", 4)):
        for label, name in enumerate(("red", "green", "blue")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(each):
                pixels = rng.integers(0, 60, (8, 8, 3), dtype=np.uint8)
                pixels[..., label] += 180
                image.fromarray(pixels).save(folder / f"{number}.png")
    vectors = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    Codebook.from_arrays([f" w{i}" for i in range(30)], vectors).save(tmp_path / "book")
    model = {"image_size": [8, 8], "grids": [1, 2, 2], "channels": 4, "multipliers": [1, 1, 1]}
    content = {
        "data": {"folder": str(tmp_path / "images")},
        "codebook": {"source": str(tmp_path / "book")},
        "model": {**model, "num_res_blocks": 1},
        "objective": {
            "perceptual": "lite0",
            "semantic": {"scorer": "caption", "thresholds": [0.98, 0.95]},
        },
        "train": {"steps": 1, "batch_size": 2, "progress": False},
    }
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(content))
    monkeypatch.setattr(
        "spae.training.presets.semantic_guidance",
        lambda entries, model, dataset: (Semantic(entries["thresholds"]), _Guided(dataset)),
    )
    monkeypatch.setattr("spae.training.presets.start_guidance", lambda *_: None)
    features = FeatureDistance(lambda images: [images], "lite0_features")
    monkeypatch.setattr("spae.training.presets._perceptual", lambda name: features)
    monkeypatch.setattr("spae.training.log.plot_log", lambda *_: None)
    monkeypatch.setattr("spae.training.run._Progress._page", lambda *_: None)
    monkeypatch.setattr(ImageFeatures, "lite0", lambda: ImageFeatures("toy", see))
    monkeypatch.setattr(ablation, "_lpips", lambda: lambda a, b: (a - b).abs().mean((1, 2, 3)))
    monkeypatch.setattr(ablation, "CaptionScorer", Letters)
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    return path


class _Guided(torch.utils.data.Dataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index][0], torch.zeros(2)


def test_all_rows_by_one_command(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["ablate", "--preset", str(recipe), "--out", str(out), "--images", "9", "--episodes", "20"]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["rows"]) == list(ablations())
    words = {row: of["0"]["words"] for row, of in report["rows"].items()}
    assert [words[row] for row in ("+ frozen codebook", "2-layer RQ", "6-layer pyramid SAQ")] == [4, 8, 9]
    for of in report["rows"].values():
        assert {"psnr", "ssim", "lpips", "frechet", "class_score", "accuracy"} <= set(of["0"])
        assert len(of["0"]["accuracy_by_layers"]) == of["0"]["layers"]
    semantic = {row: of["0"].get("semantic_by_layer", []) for row, of in report["rows"].items()}
    assert semantic["learned codebook VQ"] == []  # it has no words
    scores = semantic["6-layer pyramid SAQ"]
    assert report["rows"]["6-layer pyramid SAQ"]["0"]["semantic"] == pytest.approx(sum(scores[:2]) / 2)
    assert len(scores) == 3
    assert "| n/a |" in (out / "ablation.md").read_text()
    thresholds = json.loads((out / "runs/one-threshold-for-all-layers/seed-0/preset.json").read_text())[
        "objective"
    ]["semantic"]["thresholds"]
    assert thresholds == [0.9, 0.9]
    assert (out / "ablation.png").stat().st_size > 10_000
    assert (out / "ablation.md").read_text().startswith("| row | layers | words | PSNR (dB) |")


def test_what_is_done_is_not_done_again(recipe, tmp_path, monkeypatch):
    rows = ("+ frozen codebook", "2-layer SAQ")
    chosen = Ablation(str(recipe), tmp_path / "out", seeds=(0, 1), rows=rows, images=9, episodes=20)
    asked = []

    def counted(model, preset, **options):
        asked.append((model.pyramid.num_layers, preset.train["seed"]))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ablation.measure(model, preset, **options)

    with pytest.raises(KeyboardInterrupt):
        run_ablation(chosen, counted)
    assert asked == [(1, 0), (2, 0), (1, 1)]
    report = run_ablation(chosen, counted)
    assert asked[3:] == [(1, 1), (2, 1)]
    assert report is not None
    values = [report["rows"]["2-layer SAQ"][seed]["psnr"] for seed in ("0", "1")]
    assert values[0] != values[1]
    line = next(line for line in table(report).splitlines() if line.startswith("| 2-layer SAQ |"))
    assert f"{sum(values) / 2:.2f} [{min(values):.2f}, {max(values):.2f}]" in line
    # Another question of the same models measures, and trains nothing.
    monkeypatch.setattr(ablation, "train", lambda preset, folder: (folder / "model").is_dir())
    again = run_ablation(
        Ablation(str(recipe), tmp_path / "out", seeds=(0, 1), rows=rows, images=6, episodes=20)
    )
    assert again is not None
    assert again["images"] == 6


def test_accuracy_is_that_of_the_words():
    """The first layer's word is the class, the second layer's says nothing."""
    labels = torch.arange(40) % 4
    noise = torch.randint(10, 50, (40, 4), generator=torch.Generator().manual_seed(0))
    tokens = PyramidTokens(torch.cat([labels[:, None], noise], 1), Pyramid.square(2, (1, 2)))
    found = accuracies(labels.tolist(), tokens, 50)
    first, both = (share["value"] for share in found["accuracy_by_layers"])
    assert (found["accuracy"], first, found["ways"]) == (1.0, 1.0, 4)
    assert 0.25 < both < 1
    assert accuracies([-1] * 40, tokens, 50) == {}


def test_recipes_with_nothing_to_leave_out_are_refused(recipe, tmp_path, capsys):
    def refused(*options):
        assert main(["ablate", "--preset", str(recipe), "--out", str(tmp_path / "out"), *options]) == 1
        return capsys.readouterr().err

    assert "objective.perceptual: expected one" in refused("--set", "objective.perceptual=null")
    assert "objective.semantic: expected one" in refused("--set", "objective.semantic=null")
    assert "rows: expected some of learned codebook VQ" in refused("--rows", "none such")
    assert "seeds: expected different ones" in refused("--seeds", "1", "1")
    assert "images: expected at least 3, got 2" in refused("--images", "2")
    assert not (tmp_path / "out").exists()
