"""Data-parallel training in two gloo processes, as a user would start it."""

import socket
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from spae import SPAE, Codebook, SPAEConfig

CONFIG = SPAEConfig(image_size=(16, 16), grids=(1, 2, 4), channels=8, multipliers=(1, 2, 2), num_res_blocks=1)


def build():
    torch.manual_seed(0)
    vectors = torch.randn(50, 12) * 0.3
    return SPAE(CONFIG, Codebook.from_arrays([f" w{i}" for i in range(50)], vectors, name="toy"))


class Collectives(TorchDispatchMode):
    """Records every collective that runs while it is active."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ("c10d", "_c10d_functional"):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def _worker(rank, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=2, rank=rank
    )
    try:
        module = build()
        ddp = DistributedDataParallel(module)
        optimizer = torch.optim.Adam(ddp.parameters(), 1e-3)
        for step in range(3):
            images = (
                torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(2 * step + rank)) * 2 - 1
            )
            with Collectives() as collectives:
                module(images)
            assert not collectives.seen, collectives.seen
            sum(ddp(images).losses.values()).backward()
            optimizer.step()
            optimizer.zero_grad()
        weights = torch.cat([p.detach().flatten() for p in module.parameters()])
        torch.save({"weights": weights, "table": module.codebook.vectors}, Path(folder) / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_train_the_same_weights(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, args=(port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    start = build()
    assert torch.equal(first["weights"], second["weights"])
    assert not torch.equal(first["weights"], torch.cat([p.detach().flatten() for p in start.parameters()]))
    assert torch.equal(first["table"], second["table"])
    assert torch.equal(first["table"], start.codebook.vectors), "the frozen table moved"
