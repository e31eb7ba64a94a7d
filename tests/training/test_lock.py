"""One run at a time in a folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

pytest.importorskip("accelerate", reason="the training loop needs accelerate")

import spae
from spae.training import RunInUseError, TrainConfig, Trainer, read_log


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(3, 3, 1)
        self.action = lambda: None

    def forward(self, images):
        self.action()
        return SimpleNamespace(losses={"fit": self.net(images).square().mean()})


def trainer(folder: Path, **changes) -> Trainer:
    config = TrainConfig(3, 4, str(folder), log_every=1, progress=False, **changes)
    return Trainer(Tiny(), TensorDataset(torch.ones(8, 3, 4, 4)), config)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("spae.training.log.plot_log", lambda *_: None)


def test_a_second_run_in_one_folder_is_refused(tmp_path):
    run, refused = trainer(tmp_path), []

    def start_another():
        before = run.log_file.read_bytes() if run.log_file.exists() else b""
        with pytest.raises(RunInUseError) as caught:
            trainer(tmp_path).train()
        refused.append(str(caught.value))
        assert (run.log_file.read_bytes() if run.log_file.exists() else b"") == before

    run.model.action = start_another
    assert run.train()
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    assert len(refused) == 3
    assert all(str(tmp_path) in text and owner in text and "another output_dir" in text for text in refused)
    assert [record["step"] for record in read_log(run.log_file)] == [1, 2, 3]
    assert trainer(tmp_path).train(), "the lock is free after the run"


def test_the_lock_may_be_held_around_the_run(tmp_path):
    run = trainer(tmp_path)
    with run.lock:
        assert run.resume() == 0
        assert run.train()
        with pytest.raises(RunInUseError):
            trainer(tmp_path).train()
    again = trainer(tmp_path)
    with again.lock:
        assert again.resume() == 3


def test_a_killed_run_locks_nobody_out(tmp_path):
    """Not even while its loading processes, which inherited its files, live on."""
    environment = os.environ | {"PYTHONPATH": str(Path(spae.__file__).parents[1])}
    command = [sys.executable, __file__, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        worker = int(killed.stdout.readline())
        killed.kill()
        killed.wait(timeout=60)
        try:
            os.kill(worker, 0)
            assert trainer(tmp_path).train()
        finally:
            os.kill(worker, signal.SIGKILL)


class Slow(TensorDataset):
    """Whose loading process outlives its parent."""

    def __getitem__(self, index):
        from torch.utils.data import get_worker_info

        print(os.getpid(), flush=True)
        assert get_worker_info() is not None
        time.sleep(60)


if __name__ == "__main__":  # the run that is killed, while it waits for its loading process
    run = trainer(Path(sys.argv[1]), num_workers=1)
    run.dataset = Slow(torch.ones(8, 3, 4, 4))
    run.train()
