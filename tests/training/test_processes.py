"""Two gloo processes train what one process with all their images does."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import TensorDataset

pytest.importorskip("accelerate", reason="the training loop needs accelerate")

from spae import SPAE, Codebook, SPAEConfig
from spae.losses import FeatureDistance, Objective, ObjectiveConfig
from spae.models import PatchDiscriminator
from spae.models.sync_norm import SynchronisedBatchNorm, synchronise
from spae.training import RunInUseError, TrainConfig, Trainer, read_log

MODEL = SPAEConfig(image_size=(16, 16), grids=(1, 2, 4), channels=8, multipliers=(1, 2, 2), num_res_blocks=1)


def objective() -> Objective:
    torch.manual_seed(5)
    features = nn.Conv2d(3, 4, 3).requires_grad_(False)
    return Objective(
        ObjectiveConfig(discriminator_start=1, gan="non_saturating", phi=0.1, lecam_decay=0.5),
        perceptual=FeatureDistance(lambda images: [features(images)], "toy_features"),
        discriminator=PatchDiscriminator(channels=8, num_layers=2),
        # A loss whose gradient, by the dynamic weight, depends on the whole batch.
        semantic=lambda output, guidance: (output.features.mean((1, 2, 3)) - guidance).square().mean() + 0.1,
    )


def train(folder: Path, steps: int = 4, **changes) -> Trainer:
    trainer = make(folder, steps, **changes)
    assert trainer.train()
    return trainer


def make(folder: Path, steps: int = 4, **changes) -> Trainer:
    torch.manual_seed(0)
    vectors = torch.randn(50, 12) * 0.3
    model = SPAE(MODEL, Codebook.from_arrays([f" w{i}" for i in range(50)], vectors, name="toy"))
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(
        torch.rand(24, 3, 16, 16, generator=generator) * 2 - 1, torch.rand(24, generator=generator)
    )
    config = TrainConfig(
        steps=steps,
        batch_size=8,
        accumulation=2,
        output_dir=str(folder),
        learning_rate=1e-4,
        log_every=1,
        ema_decay=0.5,
        progress=False,
        **changes,
    )
    return Trainer(model, data, config, objective=objective())


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    assert trainer.objective is not None
    assert trainer.ema is not None
    both = {**model.state_dict(), **trainer.objective.state_dict()}
    averages = {f"ema{i}": value for i, value in enumerate(trainer.ema.averages)}
    return {name: value.clone() for name, value in {**both, **averages}.items()}


def _work(rank: int, port: int, folder: str) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    processes = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    os.environ |= address | processes
    trainer = train(Path(folder))
    assert trainer.accelerator.num_processes == 2
    result = {"training": state(trainer), "norm": normalise(rank), "resumed": resume(folder, rank)}
    torch.save(result, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def resume(parent: str, rank: int) -> dict:
    """Three steps, then the fourth from the checkpoint before a damaged one; and two runs at once."""
    folder = Path(parent) / "parts"
    train(folder, 3, checkpoint_steps=1)
    if rank == 0:
        (folder / "checkpoints/step-00000003/random-1.json").unlink()
    torch.distributed.barrier()
    again, errors = make(folder), []
    with again.lock:
        for other in (make(folder), make(folder, clip_norm=0.5)):
            try:
                other.train()
            except RunInUseError as error:
                errors.append(str(error))
        assert again.resume() == 2
        assert again.train()
    try:
        make(folder, clip_norm=0.5).train()
    except ValueError as error:
        errors.append(str(error))
    return {"state": state(again), "errors": errors}


def normalise(rank: int) -> dict[str, torch.Tensor]:
    norm, x = synchronise(batch_norm()), inputs()
    # Shares of different sizes: the statistics weigh them by their counts.
    share = (x[:4] if rank == 0 else x[4:]).clone().requires_grad_()
    output = norm(share)
    (output**3).sum().backward()
    norm.eval()
    result = {"output": output.detach(), "input": share.grad, "evaluated": norm(share).detach()}
    return result | {name: p.grad for name, p in norm.named_parameters()} | norm.state_dict(prefix="state.")


def batch_norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(5)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 5))
        norm.bias.copy_(torch.linspace(-1, 1, 5))
    return norm


def inputs() -> torch.Tensor:
    return torch.randn(6, 5, 3, 4, generator=torch.Generator().manual_seed(0)) * 3 + 100


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> tuple[Path, list[dict]]:
    """What each of two processes got, and where."""
    folder = tmp_path_factory.mktemp("shared")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_work, args=(port, str(folder)), nprocs=2)
    return folder, [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_batch_norm_over_two_processes_is_that_of_the_whole_batch(shared):
    parts = [part["norm"] for part in shared[1]]
    norm, x = batch_norm(), inputs().requires_grad_()
    output = norm(x)
    (output**3).sum().backward()
    assert x.grad is not None
    for name, expected in (("output", output), ("input", x.grad), ("evaluated", norm.eval()(x))):
        assert torch.allclose(torch.cat([part[name] for part in parts]), expected, rtol=1e-4, atol=1e-4), name
    for name, parameter in norm.named_parameters():
        assert torch.allclose(sum(part[name] for part in parts), parameter.grad, rtol=1e-4, atol=1e-3), name
    for name, expected in norm.state_dict(prefix="state.").items():
        for part in parts:
            assert torch.allclose(part[name].double(), expected.double(), rtol=1e-6), name


def test_synchronising_changes_nothing_in_one_process():
    plain, twin = batch_norm(), synchronise(nn.Sequential(batch_norm()))[0]
    assert isinstance(twin, SynchronisedBatchNorm)
    assert torch.equal(plain(inputs()), twin(inputs()))
    assert plain.state_dict().keys() == twin.state_dict().keys()
    assert torch.equal(plain.running_var, twin.running_var)
    assert torch.equal(plain.eval()(inputs()), twin.eval()(inputs()))


def test_two_processes_train_what_one_with_their_batch_does(shared, tmp_path):
    folder, parts = shared
    first, second = (part["training"] for part in parts)
    alone = train(tmp_path)
    # A bias before a batch norm has no gradient but rounding errors, which Adam blows up to full steps.
    noise = ("encoder.head.2.bias", "latent_norm.norm.running_mean")
    names = [name for name, _ in alone.model.named_parameters()]
    noise += (f"ema{names.index(noise[0])}",)
    for name, expected in state(alone).items():
        assert torch.equal(first[name], second[name]), name
        bound = 4e-4 if name in noise else 1e-6
        assert torch.allclose(first[name].float(), expected.float(), rtol=1e-5, atol=bound), name
    for both, own in zip(read_log(folder / "log.jsonl"), read_log(alone.log_file), strict=True):
        for name, value in own.items():
            if name not in ("seconds", "images_per_second"):
                assert both[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_two_processes_resume_bit_for_bit_and_share_one_lock(shared):
    folder, parts = shared
    for part in parts:
        for name, value in part["training"].items():
            assert torch.equal(part["resumed"]["state"][name], value), name
        *in_use, other = part["resumed"]["errors"]
        assert len(in_use) == 2
        assert all("another run is at work" in text for text in in_use)
        assert "train.clip_norm was 1.0, is 0.5" in other
    with pytest.raises(ValueError, match="processes was 2, is 1"):
        train(folder)
    names = {file.name for file in (folder / "checkpoints/step-00000004").iterdir()}
    assert {"random-0.json", "random-1.json"} <= names
