from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

pytest.importorskip("accelerate", reason="the training loop needs accelerate")

from accelerate import Accelerator, DistributedType

import spae
from spae.training import NonFiniteLossError, TrainConfig, Trainer, latest, plot_log, read_log
from spae.training.checkpoints import checkpoints, read_manifest
from spae.training.log import append_log, truncate_log
from spae.training.state import read_state

TIMINGS = ("seconds", "images_per_second")


class Tiny(nn.Module):
    """Draws from every generator; has running statistics, a frozen codebook and an extra state."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 3, 1))
            self.register_buffer("codebook", torch.randn(1000, 8), persistent=False)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.calls = 0
        self.at_call = {}  # what to do in which call, counted from 1

    def get_extra_state(self):
        return {"codebook": "tiny", "checksum": "0123"}

    def set_extra_state(self, state):
        assert state == self.get_extra_state()

    def forward(self, images):
        self.calls += 1
        noise = torch.rand(()) + random.random() + np.random.rand()
        out = self.net(images)
        loss = (out - noise).square().mean()
        action = self.at_call.get(self.calls)
        return SimpleNamespace(losses={"fit": action(loss) if action else loss, "size": out.abs().mean()})


def images() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(30, 3, 6, 6, generator=generator), torch.arange(30))


def evaluate(model: nn.Module, step: int) -> dict[str, float]:
    assert not model.training
    assert not torch.is_grad_enabled()
    return {"norm": sum(p.square().sum().item() for p in model.parameters())}


def trainer(folder: Path, **changes) -> Trainer:
    settings = {
        "steps": 20,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup_steps": 5,
        "cooldown_steps": 5,
        "loss_weights": {"size": 0.1},
        "ema_decay": 0.9,
        "log_every": 2,
        "eval_every": 5,
        "checkpoint_steps": 5,
        "progress": False,
        **changes,
    }
    return Trainer(Tiny(), images(), TrainConfig(output_dir=str(folder), **settings), evaluate=evaluate)


def log_of(run: Trainer) -> list[dict]:
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in read_log(run.log_file)]


def assert_same_run(a: Trainer, b: Trainer):
    for (name, x), (_, y) in zip(a.model.state_dict().items(), b.model.state_dict().items(), strict=True):
        assert x == y if isinstance(x, dict) else torch.equal(x, y), name
    assert a.ema is not None
    assert b.ema is not None
    assert all(map(torch.equal, a.ema.averages, b.ema.averages))
    assert log_of(a) == log_of(b)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Trainer:
    run = trainer(tmp_path_factory.mktemp("straight"))
    assert run.train()
    return run


def test_a_run_leaves_its_log_its_curves_and_its_last_checkpoints(straight):
    records = read_log(straight.log_file)
    assert [r["step"] for r in records] == [2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20]
    assert [r["step"] for r in records if "eval/norm" in r] == [5, 10, 15, 20]
    assert {"loss", "loss/fit", "loss/size", "lr", "grad_norm", *TIMINGS} <= records[0].keys()
    for record in records:
        assert record["loss"] == pytest.approx(record["loss/fit"] + 0.1 * record["loss/size"], rel=1e-5)
    assert [p.name for p in checkpoints(straight.checkpoint_dir)] == ["step-00000015", "step-00000020"]
    assert straight.log_file.with_suffix(".png").stat().st_size > 5000
    manifest = read_manifest(straight.checkpoint_dir / "step-00000015")
    assert (manifest["epoch"], manifest["batch"]) == (2, 1)
    assert manifest["settings"]["train.loss_weights.size"] == 0.1


def test_resumes_bit_for_bit_after_sigkill_in_the_middle_of_a_step(straight, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(spae.__file__).parents[1])}
    command = [sys.executable, __file__, str(tmp_path), "14"]
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    run = trainer(tmp_path)
    folder = latest(run.checkpoint_dir)
    assert folder is not None
    assert folder.name == "step-00000010"
    assert read_log(run.log_file)[-1]["step"] == 12
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    assert run.train()
    assert run.model.calls == 10
    assert_same_run(run, straight)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_resumes_bit_for_bit(straight, tmp_path, number):
    run = trainer(tmp_path, checkpoint_steps=None)

    def interrupt(loss):
        os.kill(os.getpid(), number)
        return loss

    run.model.at_call[7] = interrupt
    before = signal.getsignal(number)
    assert run.train() is False
    assert signal.getsignal(number) is before
    assert [p.name for p in checkpoints(run.checkpoint_dir)] == ["step-00000007"]
    resumed = trainer(tmp_path, checkpoint_steps=None)
    assert resumed.train()
    assert_same_run(resumed, straight)
    assert resumed.train(), "a finished run has nothing left to do"
    assert resumed.model.calls == 13


def test_the_same_weights_with_a_loading_process(straight, tmp_path):
    run = trainer(tmp_path, num_workers=1)
    assert run.train()
    assert_same_run(run, straight)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_non_finite_loss_stops_before_it_reaches_the_weights(tmp_path, where):
    def spoil(loss):
        if where == "loss":
            return loss * float("nan")
        loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    run = trainer(tmp_path)
    run.model.at_call[13] = spoil
    with pytest.raises(NonFiniteLossError, match=r"step 13 .*loss.*step-00000010"):
        run.train()
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    folder = latest(run.checkpoint_dir)
    assert folder is not None
    assert folder.name == "step-00000010"
    assert read_log(run.log_file)[-1]["step"] == 12


def test_checkpoints_hold_no_codebook_and_nothing_of_its_size(straight):
    folder = latest(straight.checkpoint_dir)
    assert folder is not None
    state = read_state(folder)["model"]["module"]
    assert "codebook" not in state
    assert state["_extra_state"]["checksum"] == "0123"
    assert all(f.stat().st_size < straight.model.codebook.nbytes for f in folder.iterdir())


def test_only_parameters_that_require_a_gradient_train(straight):
    assert torch.equal(straight.model.frozen, torch.ones(3))
    (group,) = straight.optimizer.param_groups
    assert len(group["params"]) == len(list(straight.model.net.parameters()))


def test_averaged_weights_come_and_go(straight):
    own = [p.clone() for p in straight.model.net.parameters()]
    with straight.averaged():
        assert all(map(torch.equal, straight.model.net.parameters(), straight.ema.averages)) is False
        inside = [p.clone() for p in straight.model.net.parameters()]
    assert all(map(torch.equal, straight.model.net.parameters(), own))
    assert all(map(torch.equal, straight.ema.averages, inside))
    assert not any(map(torch.equal, own, inside))


def test_another_run_in_the_same_folder_is_an_error(straight):
    folder = straight.log_file.parent
    with pytest.raises(ValueError, match=r"learning_rate was 0\.01, is 0\.1.*use another output_dir"):
        trainer(folder, learning_rate=0.1).train()
    smaller = Trainer(Tiny(), TensorDataset(torch.zeros(8, 3, 6, 6)), straight.config)
    with pytest.raises(ValueError, match=r"data.samples was 30, is 8"):
        smaller.train()


def test_errors(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"loss_weights: expected names among \['fit', 'size'\], got \['semantic'\]"
    ):
        trainer(tmp_path, loss_weights={"semantic": 1.0}).train()
    with pytest.raises(ValueError, match="batch_size: expected at most the 30 samples"):
        trainer(tmp_path, batch_size=31).train()
    with pytest.raises(ValueError, match=r"train.steps: expected a whole number from 1, got 0"):
        trainer(tmp_path, steps=0)
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(
        ValueError, match="accelerator: expected processes that hold the whole model, got FSDP"
    ):
        trainer(tmp_path)


def test_log_survives_a_cut_line_and_truncates(tmp_path):
    log = tmp_path / "log.jsonl"
    for step in (1, 2, 3):
        append_log(log, {"step": step, "loss": 1.0 / step, "loss/a": 0.0})
    with log.open("a") as stream:
        stream.write('{"step": 4, "lo')
    assert [r["step"] for r in read_log(log)] == [1, 2, 3]
    plot_log(log, tmp_path / "log.png")
    assert (tmp_path / "log.png").read_bytes().startswith(b"\x89PNG")
    truncate_log(log, 2)
    assert log.read_text().count("\n") == 2
    log.write_text("")
    with pytest.raises(ValueError, match="expected at least one complete line, got none"):
        plot_log(log, tmp_path / "log.png")


if __name__ == "__main__":  # the process that is killed, in the backward pass of a step
    doomed = trainer(Path(sys.argv[1]))

    def kill_in_backward(loss):
        loss.register_hook(lambda _: os.kill(os.getpid(), signal.SIGKILL))
        return loss

    doomed.model.at_call[int(sys.argv[2])] = kill_in_backward
    doomed.train()
