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


def test_words_may_start_from_other_data_than_the_run_s(preset, tmp_path):
    """From the images that "data" opens, with the scorer's features of these, and none of the run's."""
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "images/test", other / "train")
    for number, folder in enumerate(sorted((other / "train").iterdir())):
        folder.rename(folder.with_name("x" * (10 + number)))
    shown = load_preset(
        preset,
        [
            "model.semantic_projection=words",
            "model.semantic_rank=2",
            f'objective.semantic.start={{"ridge": 0.1, "data": {{"folder": "{other}"}}}}',
        ],
    )
    model = shown.build()
    dataset = shown.dataset("train", model.config.image_size)
    objective, guided = shown.build_objective(model, dataset)
    shown.initialise(model, objective, guided)
    found = model.eval().encode(torch.stack([image for image, *_ in dataset.dataset])).layer(0)
    opened = shown.dataset("train", (32, 32))  # the run's own captions are one to three letters long
    assert max(map(len, opened.captions)) <= 3
    assert min(len(model.codebook.words[word]) for word in found[:, 0].tolist()) > 6

    refused = load_preset(
        preset,
        ["model.semantic_projection=words", "model.semantic_rank=2", "objective.semantic.start.sharpness=20"],
    )
    with pytest.raises(ValueError, match=r"start\.sharpness: expected none beside .* 'words', got 20"):
        refused.initialise(model, objective, guided)


def test_weights_begin_as_a_saved_model_s(preset, tmp_path):
    """All of the same name and shape; of the others none, and a resumed run takes them no second time."""
    torch.manual_seed(5)
    saved = load_preset(preset, ["model.grids=[1, 2, 2]", "model.channels=8"]).build()
    saved.save_pretrained(tmp_path / "wide")
    with torch.no_grad():
        for value in (same := load_preset(preset).build()).parameters():
            value.fill_(0.25)
    same.save_pretrained(tmp_path / "same")
    overrides = ["train.learning_rate=1e-9", "objective.semantic.start=null"]

    begun = load_preset(preset, [*overrides, f"weights={tmp_path / 'same'}"])
    assert load_preset(preset).weights is None
    assert begun.to_dict()["weights"] == str(tmp_path / "same")
    model = begun.build()
    begun.initialise(model, None, None)
    assert all((value == 0.25).all() for value in model.parameters())

    other = load_preset(preset, [*overrides, f"weights={tmp_path / 'wide'}"])
    model, untouched = other.build(), dict(saved.named_parameters())
    before = {name: value.clone() for name, value in model.named_parameters()}
    other.initialise(model, None, None)
    shared = {name for name, value in before.items() if untouched[name].shape == value.shape}
    assert shared
    assert shared < set(before)
    for name, value in model.named_parameters():
        assert torch.equal(value, untouched[name] if name in shared else before[name]), name

    assert train(begun, tmp_path / "run")
    with pytest.raises(ValueError, match="weights"):
        train(other, tmp_path / "run")


def test_weights_of_nothing_are_refused(preset, tmp_path):
    shown = load_preset(preset, [f"weights={tmp_path / 'none'}"])
    with pytest.raises(FileNotFoundError, match="expected a folder with"):
        shown.initialise(shown.build(), None, None)
