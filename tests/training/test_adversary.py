"""Training with an objective: two optimizers, accumulation, and all of it resumed."""

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

from accelerate import Accelerator
from torch.amp.grad_scaler import GradScaler

import spae
from spae.losses import Objective, ObjectiveConfig
from spae.training import NonFiniteLossError, TrainConfig, Trainer, latest, plot_log, read_log
from spae.training.checkpoints import checkpoints, read_manifest, sealed

TIMINGS = ("seconds", "images_per_second")


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 3, 3, padding=1))

    def forward(self, images):
        reconstruction = self.net(images)
        commitment = reconstruction.square().mean()
        return SimpleNamespace(reconstruction=reconstruction, losses={"commitment": commitment})


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.LeakyReLU(0.2), nn.Conv2d(6, 1, 3))
        self.calls, self.at_call = 0, {}

    def forward(self, images):
        logits = self.net(images)
        if len(images) > 2:  # its own turn, over images and reconstructions of a micro-batch
            self.calls += 1
            logits = self.at_call.get(self.calls, lambda x: x)(logits)
        return logits


class Guide(nn.Module):
    """A semantic loss that counts, as one that draws must."""

    def __init__(self):
        super().__init__()
        self.register_buffer("step", torch.zeros(()))

    def forward(self, output, guidance):
        self.step += 1
        noise = torch.rand(()) + self.step % 3
        return (output.reconstruction.mean((1, 2, 3)) - guidance - noise).square().mean() + 0.1


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    return TensorDataset(torch.randn(24, 3, 8, 8, generator=generator), torch.rand(24, generator=generator))


def trainer(
    folder: Path, *, objective: dict | None = None, accelerator=None, semantic=True, **changes
) -> Trainer:
    settings = {
        "steps": 8,
        "batch_size": 4,
        "accumulation": 2,
        "learning_rate": 1e-2,
        "discriminator_learning_rate": 2e-2,
        "log_every": 1,
        "ema_decay": 0.9,
        "checkpoint_steps": 2,
        "progress": False,
        **changes,
    }
    config = ObjectiveConfig(
        **{"discriminator_start": 2, "phi": 0.5, "lecam_decay": 0.5, **(objective or {})}
    )
    goal = Objective(config, discriminator=Judge(), semantic=Guide() if semantic else None)
    run = TrainConfig(output_dir=str(folder), **settings)
    return Trainer(Tiny(), dataset(), run, objective=goal, accelerator=accelerator)


def log_of(run: Trainer) -> list[dict]:
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in read_log(run.log_file)]


def weights(run: Trainer) -> list[torch.Tensor]:
    assert run.objective is not None
    assert run.ema is not None
    state = [*run.model.state_dict().values(), *run.objective.state_dict().values(), *run.ema.averages]
    assert run.opponent is not None
    for optimizer in (run.optimizer, run.opponent.optimizer):
        state += [v for group in optimizer.state_dict()["state"].values() for v in group.values()]
    return state


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """A run's picture takes longer than these runs, and has its own test."""
    monkeypatch.setattr("spae.training.log.plot_log", lambda *_: None)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Trainer:
    run = trainer(tmp_path_factory.mktemp("straight"))
    assert run.train()
    return run


def test_the_log_tells_both_sides(straight):
    records = read_log(straight.log_file)
    early, late = records[1], records[-1]
    assert {"loss/reconstruction", "loss/commitment", "loss/semantic", "loss/appearance"} <= early.keys()
    assert not any("generator" in name or "discriminator" in name for name in early)
    assert "loss/generator" in late
    names = ("loss", "hinge", "lecam", "logits_real", "logits_fake", "grad_norm", "lr")
    assert {f"discriminator/{name}" for name in names} <= late.keys()
    assert late["discriminator/loss"] == pytest.approx(
        late["discriminator/hinge"] + 0.5 * late["discriminator/lecam"], rel=1e-5
    )
    assert records[2]["discriminator/lecam"] == 0
    assert late["discriminator/lecam"] > 0
    lecam = straight.objective.lecam
    expected = records[2]["discriminator/logits_real"]
    for record in records[3:]:
        expected = 0.5 * expected + 0.5 * record["discriminator/logits_real"]
    assert lecam.ema_real.item() == pytest.approx(expected, rel=1e-5)


def test_the_discriminator_has_its_own_optimizer_and_schedule(straight):
    records = read_log(straight.log_file)
    # Both decay with the inverse root of their own updates; the discriminator's begin 2 later.
    for record in records[2:]:
        assert record["lr"] == pytest.approx(1e-2 * record["step"] ** -0.5)
        assert record["discriminator/lr"] == pytest.approx(2e-2 * (record["step"] - 2) ** -0.5)
    mine = {id(p) for group in straight.optimizer.param_groups for p in group["params"]}
    its = {id(p) for group in straight.opponent.optimizer.param_groups for p in group["params"]}
    assert mine == {id(p) for p in straight.model.parameters()}
    assert its == {id(p) for p in straight.objective.discriminator.parameters()}


def test_neither_side_s_gradient_reaches_the_other(tmp_path):
    run = trainer(tmp_path)
    model, judge = run.model, run.objective.discriminator

    def norms(module):
        return [None if p.grad is None else p.grad.abs().sum().item() for p in module.parameters()]

    seen = []
    steps = {"model": run.learner.step, "judge": run.opponent.step}
    run.learner.step = lambda: (seen.append(("model", norms(judge))), steps["model"]())  # type: ignore[method-assign]
    run.opponent.step = lambda: (seen.append(("judge", norms(model))), steps["judge"]())  # type: ignore[method-assign]
    assert run.train()
    assert [who for who, _ in seen] == ["model"] * 2 + ["model", "judge"] * 6
    assert all(norm is None for _, others in seen for norm in others)


@pytest.mark.parametrize("call", [5, 6])
def test_resumes_bit_for_bit_after_sigkill_in_the_discriminator_s_turn(straight, tmp_path, call):
    """Killed between two optimizers' steps, in the first or second micro-batch of the discriminator."""
    environment = os.environ | {"PYTHONPATH": str(Path(spae.__file__).parents[1])}
    command = [sys.executable, __file__, str(tmp_path), str(call)]
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    run = trainer(tmp_path)
    folder = latest(run.checkpoint_dir)
    assert folder is not None
    assert folder.name == "step-00000004"
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    assert run.train()
    assert all(map(torch.equal, weights(run), weights(straight)))
    assert log_of(run) == log_of(straight)


@pytest.mark.parametrize("dynamic", [False, True])
def test_micro_batches_add_up_to_the_batch(tmp_path, dynamic):
    """Exact but for rounding, if the loss is a mean over images; eq. 9's ratio of two such is not."""
    runs = []
    for accumulation in (1, 2):
        run = trainer(
            tmp_path / f"{accumulation}",
            accumulation=accumulation,
            batch_size=8,
            objective={"dynamic_weight": dynamic},
            semantic=dynamic,
        )
        run.train()
        runs.append(run)
    pairs = list(zip(weights(runs[0]), weights(runs[1]), strict=True))
    assert not all(torch.equal(a, b) for a, b in pairs)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in pairs) is not dynamic


def test_a_non_finite_discriminator_stops_the_run(tmp_path):
    run = trainer(tmp_path)
    run.objective.discriminator.at_call[7] = lambda logits: logits * float("inf")
    with pytest.raises(
        NonFiniteLossError, match=r"step 6 is not finite: .*discriminator/loss.*step-00000004"
    ):
        run.train()
    assert all(torch.isfinite(p).all() for p in run.objective.discriminator.parameters())
    assert [folder.name for folder in checkpoints(run.checkpoint_dir)][-1] == "step-00000004"


def test_another_objective_in_the_same_folder_is_an_error(straight):
    folder = straight.log_file.parent
    with pytest.raises(ValueError, match=r"objective.eta was 0.1, is 0.2.*another output_dir"):
        trainer(folder, objective={"eta": 0.2}).train()
    with pytest.raises(ValueError, match="accumulation was 2, is 1"):
        trainer(folder, accumulation=1).train()
    without = trainer(folder)
    without.opponent = None
    with pytest.raises(ValueError, match=r"parts was \[.*'discriminator', .*\], is \['average', 'memory0'"):
        without.train()


def test_a_checkpoint_from_before_a_setting_existed_still_resumes(tmp_path):
    assert trainer(tmp_path, accumulation=1, steps=2).train()
    folder = tmp_path / "checkpoints/step-00000002"
    manifest = read_manifest(folder)
    del manifest["settings"]["train.accumulation"]
    (folder / "checkpoint.json").write_text(sealed(manifest))
    assert trainer(tmp_path, accumulation=1, steps=3).train()


def test_fp16_scales_and_unscales_each_side_once_and_resumes_its_scale(tmp_path):
    """With a gradient scaler, as fp16 has it, the same weights as without: powers of two cancel exactly."""
    accelerator = Accelerator()
    for steps in (5, 8):
        accelerator.scaler = GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        scaled = trainer(tmp_path / "scaled", accelerator=accelerator, steps=steps)
        # Only now, so that the scale alone is what differs: no forward pass in fp16.
        accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
        try:
            assert scaled.train()
        finally:
            accelerator.native_amp, accelerator.state._mixed_precision = False, "no"
    scales = accelerator.scaler
    # It grows after every 3 updates in a row, of model and discriminator alike: as in one run of 8 steps.
    plain = trainer(tmp_path / "plain")
    assert plain.train()
    assert all(map(torch.equal, weights(scaled), weights(plain)))
    whole = 8 + 6
    assert scales.get_scale() == 2.0 ** (10 + whole // 3)


def test_the_picture_has_a_panel_for_the_discriminator(straight, tmp_path):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    plot_log(straight.log_file, tmp_path / "log.png")
    assert (tmp_path / "log.png").stat().st_size > 5000


def test_tensorboard_gets_what_the_log_gets(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trainer(tmp_path, tensorboard=True)
    run.train()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    values = [event.value for event in events.Scalars("discriminator/loss")]
    assert values == pytest.approx([r["discriminator/loss"] for r in read_log(run.log_file)[2:]], rel=1e-6)


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="loss_weights: expected none beside an objective"):
        trainer(tmp_path, loss_weights={"commitment": 1.0})
    with pytest.raises(ValueError, match="batch_size: expected a multiple of 3 shares, got 4"):
        trainer(tmp_path, accumulation=3)


if __name__ == "__main__":  # the process that is killed, in the backward pass of the discriminator
    doomed = trainer(Path(sys.argv[1]))

    def kill_in_backward(logits):
        logits.register_hook(lambda _: os.kill(os.getpid(), signal.SIGKILL))
        return logits

    doomed.objective.discriminator.at_call[int(sys.argv[2])] = kill_in_backward
    doomed.train()
