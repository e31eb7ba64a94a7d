"""Early stopping: where a run ends, which weights stay, and that interruptions change neither."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

pytest.importorskip("accelerate", reason="the training loop needs accelerate")

from spae import SPAE, Codebook, scorers
from spae.training import TrainConfig, Trainer, read_log
from spae.training.presets import load_preset
from spae.training.run import train
from spae.training.stopping import EarlyStopping

CURVE = {2: 0.1, 4: 0.5, 6: 0.4, 8: 0.7, 10: 0.7, 12: 0.6, 14: 0.2, 16: 0.9}


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.norm = nn.BatchNorm1d(3)

    def forward(self, images):
        return SimpleNamespace(losses={"fit": (self.norm(images[:, :, 0, 0]) * self.weight).square().mean()})


class Watched:
    """Evaluates by the curve, and keeps the weights of every evaluation."""

    def __init__(self):
        self.seen = {}

    def __call__(self, model, step):
        self.seen[step] = {name: value.clone() for name, value in model.state_dict().items()}
        return {"score": CURVE[step], "other": 0.0}


def trainer(folder, watched, **changes):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(12, 3, 1, 1, generator=generator))
    settings = {
        "steps": 16, "batch_size": 4, "learning_rate": 0.05, "eval_every": 2, "checkpoint_steps": 2, "ema_decay": 0.5,
        "early_stopping": 3, "early_stopping_figure": "score", "progress": False, **changes,
    }  # fmt: skip
    return Trainer(Line(), data, TrainConfig(output_dir=str(folder), **settings), evaluate=watched)


def restored(run):
    model = Line()
    run.stopping.restore(model)
    return model.state_dict()


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    monkeypatch.setattr("spae.training.log.plot_log", lambda *_: None)


def test_the_run_ends_after_its_patience_with_the_best_weights(tmp_path):
    watched = Watched()
    run = trainer(tmp_path, watched)
    assert run.train()
    assert run.step == 14, "8 was the best, 10 no better, 12 and 14 worse: that 16 would be is not waited for"
    assert (run.stopping.best, run.stopping.step) == (0.7, 8)
    for name, value in restored(run).items():
        assert torch.equal(value, watched.seen[8][name]), name
    assert not torch.equal(watched.seen[8]["weight"], watched.seen[14]["weight"])
    assert read_log(run.log_file)[-1]["step"] == 14
    again = trainer(tmp_path, watched)
    assert again.train()
    assert again.step == 14, "over is over"
    assert torch.equal(restored(again)["weight"], watched.seen[8]["weight"])


def test_a_resumed_run_waits_as_long(tmp_path):
    straight = trainer(tmp_path / "straight", Watched())
    straight.train()
    broken = tmp_path / "broken"
    first = trainer(broken, Watched(), steps=10)
    assert first.train()
    assert (first.step, first.stopping.waited) == (10, 1)
    second = trainer(broken, Watched())
    assert second.train()
    assert second.step == 14
    for name, value in restored(straight).items():
        assert torch.equal(value, restored(second)[name]), name


def test_without_it_runs_go_to_their_end(tmp_path):
    run = trainer(tmp_path, Watched(), early_stopping=None)
    assert run.train()
    assert (run.step, run.stopping) == (16, None)


def test_nan_is_never_the_best():
    model, stopping = Line(), EarlyStopping("score", 3)
    for step, value in enumerate([float("nan"), 0.2, float("nan"), 0.3]):
        nn.init.constant_(model.weight, step)
        stopping.see({"score": value}, step, model)
    assert (stopping.best, stopping.step, stopping.waited) == (0.3, 3, 0)
    nn.init.constant_(model.weight, 9)
    stopping.see({"score": float("nan")}, 4, model)
    assert stopping.waited == 1
    stopping.restore(model)
    assert model.weight.tolist() == [3.0] * 3


def test_a_figure_that_is_not_measured_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"train.early_stopping_figure: expected one of \['other', 'score'\], got 'psnr'"
    ):
        trainer(tmp_path, Watched(), early_stopping_figure="psnr").train()
    with pytest.raises(
        ValueError, match=r"train.eval_every: expected a number of steps for early stopping, got None"
    ):
        TrainConfig(1, 1, "", early_stopping=2)
    with pytest.raises(
        ValueError, match=r"train.early_stopping: expected a whole number from 1 or null, got 0"
    ):
        TrainConfig(1, 1, "", eval_every=1, early_stopping=0)


def test_nothing_is_restored_before_an_evaluation():
    model = Line()
    before = model.weight.clone()
    EarlyStopping("score", 1).restore(model)
    assert torch.equal(model.weight, before)


class Lengths(scorers.CaptionScorer):
    def __init__(self):
        super().__init__(lambda texts: torch.tensor([[len(t), 2.0] for t in texts]), checksum="lengths")


def test_a_preset_stops_by_the_words_of_its_development_split(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for part, value in (("train", 10), ("dev", 120), ("test", 250)):
        for number in range(4):
            folder = tmp_path / "images" / part / ("c" * (number + 1))
            folder.mkdir(parents=True)
            pixels = np.random.RandomState(number).randint(0, value, (16, 16, 3), np.uint8)
            image.fromarray(pixels).save(folder / "1.png")
    monkeypatch.setattr(scorers, "CaptionScorer", Lengths)
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spae.training.run._Progress._page", lambda *_: None)
    Codebook.from_arrays([" " + "w" * i for i in range(40)], torch.randn(40, 8)).save(tmp_path / "book")
    content = {
        "data": {"folder": str(tmp_path / "images")},
        "codebook": {"source": str(tmp_path / "book")},
        "model": {"image_size": [16, 16], "grids": [1, 2, 4], "channels": 4, "multipliers": [1, 1, 1], "num_res_blocks": 1},
        "objective": {"semantic": {"scorer": "caption", "thresholds": [0.9, 0.8]}},
        "train": {"steps": 40, "batch_size": 4, "progress": False, "eval_every": 1, "early_stopping": 2, "learning_rate": 0.01},
    }  # fmt: skip
    (tmp_path / "guided.json").write_text(json.dumps(content))
    assert train(load_preset(tmp_path / "guided.json"), tmp_path / "run")
    log = read_log(tmp_path / "run/log.jsonl")
    scores = [record["eval/semantic_score"] for record in log]
    assert len(scores) < 40
    best = scores.index(max(scores))
    assert len(scores) == best + 3
    layers = [[record[f"eval/semantic_score_layer_{layer}"] for record in log] for layer in (1, 2)]
    assert scores == pytest.approx(np.mean(layers, axis=0).tolist())
    # The saved model is that of the best evaluation, by the development images and what they are called.
    model = SPAE.from_pretrained(tmp_path / "run/model", codebook=Codebook.load(tmp_path / "book"))
    dev = load_preset(tmp_path / "guided.json").dataset("dev", (16, 16))
    ids = model.encode(torch.stack([item.image for item in dev]), 2).ids
    scorer = Lengths()
    raw = scorer.caption_features(dev.captions) @ scorer.text_features(model.codebook.words).T
    relative = (raw - raw.amin(1, keepdim=True)) / (raw.amax(1, keepdim=True) - raw.amin(1, keepdim=True))
    values = relative.gather(1, ids)
    assert (values[:, :1].mean() + values[:, 1:].mean()) / 2 == pytest.approx(max(scores), abs=1e-5)
