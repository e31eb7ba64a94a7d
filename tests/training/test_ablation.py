"""Every row of the paper's ablation runs by configuration."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae import Codebook
from spae.losses import FeatureDistance
from spae.tokenizers import SPAE, VQGAN
from spae.training import read_log
from spae.training.ablation import ablations
from spae.training.guidance import GuidedImages
from spae.training.presets import load_preset
from spae.training.run import train


class Semantic(nn.Module):
    """Stands for the semantic loss, which has its own tests: a distance to what guides."""

    def __init__(self, thresholds):
        super().__init__()
        self.thresholds = thresholds

    def forward(self, output, guidance):
        assert len(self.thresholds) <= output.tokens.pyramid.num_layers
        return (output.features.mean((2, 3)) - guidance).square().mean() + 0.1


@pytest.fixture
def preset(tmp_path, picture_folder, monkeypatch):
    """The full recipe at 32x32 over random images."""
    folder = picture_folder(32)
    vectors = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    Codebook.from_arrays([f" w{i}" for i in range(60)], vectors).save(tmp_path / "book")
    content = {
        "data": {"folder": str(folder)},
        "codebook": {"source": str(tmp_path / "book")},
        "model": {
            "image_size": [32, 32],
            "grids": [1, 2, 4, 4, 4, 4],
            "channels": 4,
            "multipliers": [1, 1, 1, 1],
            "num_res_blocks": 1,
        },
        "objective": {
            "perceptual": "lite0",
            "discriminator": {"kind": "patch", "channels": 4, "num_layers": 2},
            "semantic": {"scorer": "caption", "thresholds": [0.98, 0.95, 0.9, 0.85, 0.8]},
        },
        "train": {"steps": 1, "batch_size": 2, "progress": False},
    }
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(content))

    def guide(entries, model, dataset):
        assert entries["scorer"] == "caption"
        return Semantic(entries["thresholds"]), GuidedImages(dataset, torch.zeros(len(dataset), 8))

    monkeypatch.setattr("spae.training.presets.semantic_guidance", guide)
    features = FeatureDistance(lambda images: [images], "lite0_features")
    monkeypatch.setattr("spae.training.presets._perceptual", lambda name: features)
    monkeypatch.setattr("spae.training.log.plot_log", lambda *_: None)
    monkeypatch.setattr("spae.training.run._Progress._page", lambda *_: None)
    return path


def test_there_are_nine():
    assert len(ablations()) == 9


@pytest.mark.parametrize("row", list(ablations()))
def test_row(row, preset, tmp_path):
    changed = list(ablations(4)[row])
    if row == "learned codebook VQ":
        changed += ["quantizer.codebook_size=30", "quantizer.codebook_dim=8"]
    assert train(load_preset(preset, changed), tmp_path / "run")
    (record,) = read_log(tmp_path / "run/log.jsonl")
    assert ("loss/semantic" in record) == (row not in ("learned codebook VQ", "+ frozen codebook"))
    assert ("loss/lite0_features" in record) == (row != "no perceptual loss")
    if row == "learned codebook VQ":
        assert VQGAN.from_pretrained(tmp_path / "run/model").pyramid.grids == ((4, 4),)
        return
    book = Codebook.load(tmp_path / "book")
    model = SPAE.from_pretrained(tmp_path / "run/model", codebook=book)
    assert model.config.rule == ("rq" if row == "2-layer RQ" else "saq")
    assert model.pyramid.num_layers == {"+": 1, "2": 2}.get(row[0], 6)
    if row in ("no dynamic weight", "6-layer pyramid SAQ"):
        weight = 1.0 if row == "no dynamic weight" else record["loss/appearance"] / record["loss/semantic"]
        expected = record["loss/appearance"] + weight * record["loss/semantic"]
        assert record["loss"] == pytest.approx(expected, rel=1e-5)


def test_guided_images_pair_by_index():
    features = torch.arange(6.0).reshape(3, 2)
    pairs = GuidedImages([(torch.full((3, 2, 2), float(i)), "label") for i in range(3)], features)
    image, feature = pairs[2]
    assert image.mean() == 2
    assert feature.tolist() == [4.0, 5.0]
    with pytest.raises(ValueError, match=r"features: expected \[3, E\], got \[2, 2\]"):
        GuidedImages(pairs, features[:2])


def test_guidance_by_configuration(tmp_path):
    """The real semantic loss and scorers, over a toy vocabulary."""
    semantic = pytest.importorskip("spae.losses.semantic", reason="needs the semantic loss")
    scorers = pytest.importorskip("spae.scorers", reason="needs the scorers")
    from types import SimpleNamespace

    from spae.training import guidance

    class Toy:
        name, checksum = "toy", "0123"

        @staticmethod
        def text_features(texts):
            return torch.nn.functional.normalize(torch.tensor([[len(t), 1.0, 2.0] for t in texts]), dim=1)

        @staticmethod
        def image_features(images):
            return torch.nn.functional.normalize(images.mean((2, 3)) + 2, dim=1)

    book = Codebook.from_arrays([f" {'w' * i}" for i in range(1, 20)], torch.randn(19, 4))
    model = SimpleNamespace(codebook=book, table=book, config=SimpleNamespace(rule="saq"))
    data = [torch.rand(3, 4, 4) for _ in range(5)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPAE_CACHE", str(tmp_path))
        patch.setattr(scorers, "CaptionScorer", Toy)
        entries = {"scorer": "caption", "thresholds": [0.9], "temperature": 0.5}
        loss, guided = guidance.semantic_guidance(entries, model, data)
    assert isinstance(loss, semantic.SemanticLoss)
    assert loss.thresholds == (0.9,)
    assert torch.equal(guided[3][1], Toy.image_features(data[3][None])[0])
    with pytest.raises(
        ValueError, match=r"objective.semantic.scorer: expected one of .*'caption'.* got 'clip'"
    ):
        guidance.semantic_guidance({"scorer": "clip"}, model, data)
