"""Fitted weights are set once, before a run's first step."""

from __future__ import annotations

import copy
import functools
import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae import Codebook, scorers
from spae.models.lite0 import Lite0
from spae.training import guidance, load_preset
from spae.training.run import train


@pytest.fixture
def preset(tmp_path, monkeypatch):
    """A guided preset whose semantic features start from a regression, with a random network and scorer."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for number in range(8):
        for split in ("train", "test"):
            folder = tmp_path / "images" / split / f"{'x' * (1 + number % 3)}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.RandomState(number).randint(0, 256, (32, 32, 3), np.uint8)
            image.fromarray(pixels).save(folder / f"{number}.png")
    network = Lite0().eval().requires_grad_(False)
    monkeypatch.setattr(Lite0, "load", lambda: copy.deepcopy(network))

    class Lengths(scorers.CaptionScorer):
        def __init__(self):
            super().__init__(lambda texts: torch.tensor([[len(t), 2.0] for t in texts]), checksum="lengths")

    monkeypatch.setattr(scorers, "CaptionScorer", Lengths)
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spae.training.log.plot_log", lambda *_: None)
    monkeypatch.setattr("spae.training.run._Progress._page", lambda *_: None)
    Codebook.from_arrays([" " + "w" * i for i in range(40)], torch.randn(40, 8)).save(tmp_path / "book")
    content = {
        "data": {"folder": str(tmp_path / "images"), "views": {"count": 2}},
        "codebook": {"source": str(tmp_path / "book")},
        "model": {
            "image_size": [32, 32],
            "grids": [1, 2, 4],
            "channels": 4,
            "multipliers": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "semantic_features": "lite0",
            "semantic_layers": 2,
        },
        "objective": {"semantic": {"scorer": "caption", "thresholds": [0.9], "start": {"ridge": 0.5}}},
        "train": {
            "steps": 3,
            "batch_size": 4,
            "checkpoint_steps": 1,
            "keep_checkpoints": 3,
            "progress": False,
        },
    }
    path = tmp_path / "guided.json"
    path.write_text(json.dumps(content))
    return path


def test_a_resumed_run_does_not_fit_again(preset, tmp_path, monkeypatch):
    fitted = []
    start = guidance.start_semantic_features

    @functools.wraps(start)
    def counted(features, *others, **settings):
        fitted.append(settings)
        start(features, *others, **settings)

    monkeypatch.setattr(guidance, "start_semantic_features", counted)
    run, model = tmp_path / "run", tmp_path / "run/model/model.safetensors"
    assert train(load_preset(preset), run)
    assert fitted == [{"ridge": 0.5}]
    weights = model.read_bytes()
    model.unlink()
    for step in (2, 3):
        shutil.rmtree(run / f"checkpoints/step-{step:08d}")
    assert train(load_preset(preset), run), "from the first step's checkpoint on"
    assert len(fitted) == 1
    assert model.read_bytes() == weights


def test_an_objective_is_built_without_a_touch_of_the_weights(preset):
    preset = load_preset(preset)
    model = preset.build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective, dataset = preset.build_objective(model, preset.dataset("train", model.config.image_size))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    preset.initialise(model, objective, dataset)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("semantic.") for name in changed)


def test_a_start_needs_semantic_features(preset):
    preset = load_preset(preset, ["model.semantic_features=none"])
    model = preset.build()
    objective, dataset = preset.build_objective(model, preset.dataset("train", model.config.image_size))
    with pytest.raises(
        ValueError, match=r"objective.semantic.start: expected a model with semantic features"
    ):
        preset.initialise(model, objective, dataset)
