"""Checkpoints: nothing in them is run, what is damaged is seen, and the one before it is used."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

pytest.importorskip("accelerate", reason="the training loop needs accelerate")

from spae.training import CheckpointError, TrainConfig, Trainer, latest
from spae.training.checkpoints import checkpoints, newest_whole, read_manifest, sealed
from spae.training.log import append_log, read_log, truncate_log
from spae.training.state import random_state, read_state, set_random_state, write_state

CPU = torch.device("cpu")


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))

    def forward(self, images):
        noise = torch.rand(()) + np.random.rand()
        return SimpleNamespace(losses={"fit": (self.net(images) - noise).square().mean()})


def trainer(folder: Path, **changes) -> Trainer:
    settings = {"steps": 6, "batch_size": 4, "ema_decay": 0.9, "checkpoint_steps": 2, "progress": False}
    images = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    config = TrainConfig(output_dir=str(folder), **{**settings, **changes})
    return Trainer(Tiny(), TensorDataset(images), config)


def weights(run: Trainer) -> list[torch.Tensor]:
    assert run.ema is not None
    moments = [v for state in run.optimizer.state_dict()["state"].values() for v in state.values()]
    return [*run.model.state_dict().values(), *run.ema.averages, *moments]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("spae.training.log.plot_log", lambda *_: None)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Trainer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spae.training.log.plot_log", lambda *_: None)
        run = trainer(tmp_path_factory.mktemp("straight"))
        assert run.train()
    return run


@pytest.fixture
def stopped(straight, tmp_path) -> Path:
    """The folder of a run of 6 steps that has checkpoints of steps 2 and 4."""
    trainer(tmp_path / "run", steps=4).train()
    return tmp_path / "run"


def test_a_checkpoint_is_tensors_and_json(straight):
    folder = latest(straight.checkpoint_dir)
    assert folder is not None
    names = {"state.safetensors", "state.json", "random-0.json", "checkpoint.json"}
    assert {file.name for file in folder.iterdir()} == names
    for file in folder.glob("*.json"):
        json.loads(file.read_text())


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


OLD_NAMES = [f"custom_checkpoint_{i}.pkl" for i in range(4)]
OLD_NAMES += ["random_states_0.pkl", "pytorch_model.bin", "optimizer.bin", "scheduler.bin", "scaler.pt"]


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_crafted_pickle_is_never_executed(stopped, tmp_path, write):
    """Beside the files, and in place of each of them with a manifest that vouches for it."""
    mark = tmp_path / "executed"
    crafted = tmp_path / "crafted"
    with crafted.open("wb") as stream:
        write(Payload(mark), stream)
    newest = latest(stopped / "checkpoints")
    assert newest is not None
    own = [file.name for file in newest.iterdir() if file.name != "checkpoint.json"]
    for name in (*OLD_NAMES, *own):
        manifest = read_manifest(newest)
        before = (newest / name).read_bytes() if name in own else None
        shutil.copy(crafted, newest / name)
        manifest["files"][name] = _digest(crafted)
        (newest / "checkpoint.json").write_text(sealed(manifest))
        if before is None:
            assert trainer(stopped, steps=4).train()
        else:
            with pytest.raises(Exception, match=r".") as caught:
                trainer(stopped, steps=4).train()
            assert not isinstance(caught.value, CheckpointError), "the manifest vouched for it"
            (newest / name).write_bytes(before)
            manifest["files"][name] = _digest(newest / name)
            (newest / "checkpoint.json").write_text(sealed(manifest))
    assert not mark.exists()
    with crafted.open("rb") as stream:
        torch.load(stream, weights_only=False) if write is torch.save else pickle.load(stream)
    assert mark.exists(), "the payload works"


def _digest(file: Path) -> str:
    from spae.assets import sha256

    return sha256(file)


def test_states_of_any_depth_come_back_with_their_kinds(tmp_path):
    tied = torch.arange(6.0)
    state = {
        "weights": {
            "a": tied,
            "b": tied,
            "c": tied.view(2, 3).T,
            "half": torch.ones(2, dtype=torch.bfloat16),
        },
        "groups": [{"betas": (0.9, 0.99), "lr": 1e-4, "params": [0, 1], "fused": None, "amsgrad": False}],
        "state": {0: {"step": torch.tensor(3.0)}, 1: {}},
        "empty": torch.empty(0, 4, dtype=torch.int64),
        "name": "tensor",
    }
    write_state(tmp_path, state)
    back = read_state(tmp_path)
    assert back["groups"] == state["groups"]
    assert isinstance(back["groups"][0]["betas"], tuple)
    assert list(back["state"]) == [0, 1]
    assert back["name"] == "tensor"
    pairs = [(back["weights"][k], v) for k, v in state["weights"].items()]
    for a, b in [
        *pairs,
        (back["state"][0]["step"], state["state"][0]["step"]),
        (back["empty"], state["empty"]),
    ]:
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    with pytest.raises(TypeError, match=r"state/a/1: expected tensors and plain values, got set"):
        write_state(tmp_path, {"a": [1, {2}]})


def test_random_numbers_go_on_where_they_were():
    import random

    def draw():
        return (
            random.gauss(0, 1),
            random.random(),
            np.random.randn(),
            np.random.rand(),
            torch.randn(3).tolist(),
        )

    draw()
    saved = json.loads(json.dumps(random_state(CPU)))
    expected = [draw() for _ in range(3)]
    set_random_state(saved, CPU)
    assert [draw() for _ in range(3)] == expected


def test_every_flipped_bit_is_seen(stopped):
    """40 of them over all files, the manifest among these: the checkpoint before is used, with a warning."""
    older, newest = checkpoints(stopped / "checkpoints")
    files = sorted(newest.iterdir())
    random = np.random.RandomState(0)
    for number in range(40):
        file = files[number % len(files)]
        content = bytearray(file.read_bytes())
        place, bit = random.randint(len(content)), random.randint(8)
        content[place] ^= 1 << bit
        whole = file.read_bytes()
        file.write_bytes(content)
        with pytest.warns(RuntimeWarning, match=rf"{newest.name}/{file.name}: .*using {older.name}"):
            assert latest(stopped / "checkpoints") == older, (file.name, place, bit)
        file.write_bytes(whole)
    assert latest(stopped / "checkpoints") == newest


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "random-0.json", "checkpoint.json"])
def test_resumes_bit_for_bit_from_the_checkpoint_before_a_damaged_one(straight, stopped, name):
    file = stopped / "checkpoints/step-00000004" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    run = trainer(stopped)
    with pytest.warns(RuntimeWarning, match=f"step-00000004/{name}"):
        assert run.train()
    assert all(map(torch.equal, weights(run), weights(straight)))
    folders = sorted(folder.name for folder in run.checkpoint_dir.iterdir())
    assert folders == ["step-00000004", "step-00000004.damaged", "step-00000006"]
    assert newest_whole(run.checkpoint_dir).damaged == []


BAD_MANIFESTS = ["{}", "[]", "null", "4", "", '{"step": 4', "[" * 100_000, '{"step": 4, "files": {}}', "\xff"]
BAD_MANIFESTS += [
    sealed({"step": 4, "seconds": 1.0, "settings": {}, "files": {}, **wrong})
    for wrong in (
        {"step": "4"},
        {"seconds": None},
        {"files": []},
        {"files": {"/dev/zero": "0"}},
        {"files": {"../step-00000002/state.json": "0"}},
        {"files": {"state.json": 5}},
        {"files": {"a\0.json": "0"}},
    )
]


@pytest.mark.parametrize("text", BAD_MANIFESTS, ids=range(len(BAD_MANIFESTS)))
def test_manifests_that_are_none(stopped, text):
    older, newest = checkpoints(stopped / "checkpoints")
    (newest / "checkpoint.json").write_bytes(text.encode("latin-1"))
    with pytest.warns(RuntimeWarning, match=r"step-00000004/(checkpoint|state).json: expected"):
        assert latest(stopped / "checkpoints") == older


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "random-0.json", "checkpoint.json"])
def test_missing_and_cut_files(stopped, name):
    older, newest = checkpoints(stopped / "checkpoints")
    content = (newest / name).read_bytes()
    for change in (lambda file: file.unlink(), lambda file: file.write_bytes(content[:-1])):
        change(newest / name)
        with pytest.warns(RuntimeWarning, match=f"step-00000004/{name}"):
            assert latest(stopped / "checkpoints") == older


def test_where_none_is_whole_nothing_is_overwritten(stopped):
    for folder in checkpoints(stopped / "checkpoints"):
        (folder / "random-0.json").unlink()
    before = tree(stopped)
    message = (
        r"no checkpoint is whole: .*step-00000004/random-0.json: No such file.*step-00000002/random-0.json"
    )
    with pytest.raises(CheckpointError, match=message):
        trainer(stopped).train()
    assert tree(stopped) == before


def test_what_a_kill_left_half_written_goes(straight, stopped):
    root = stopped / "checkpoints"
    for name in ("step-00000030.partial", "step-00000002.partial"):
        (root / name).mkdir()
        (root / name / "state.json").write_text("{")
    assert trainer(stopped).train()
    assert [folder.name for folder in sorted(root.iterdir())] == ["step-00000004", "step-00000006"]
    assert latest(stopped / "nothing") is None


def test_a_longer_run_goes_on_with_its_own_learning_rate(tmp_path):
    """The rate of the first update after the resume is that of the new number of steps, not of the old."""
    first, whole = trainer(tmp_path / "a", steps=2, log_every=1), trainer(tmp_path / "b", log_every=1)
    first.train()
    whole.train()
    longer = trainer(tmp_path / "a", log_every=1)
    assert longer.train()
    assert all(map(torch.equal, weights(longer), weights(whole)))


@contextmanager
def file_size_limit(size: int):
    """No file of this process grows beyond `size` bytes; what is written into it fails."""
    resource = pytest.importorskip("resource", reason="the limit is POSIX's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["state.safetensors", "random-0.json"])
def test_a_full_disk_leaves_the_checkpoint_before(straight, stopped, name):
    """Full in the middle of the named file, which is larger than those before it."""
    older = latest(stopped / "checkpoints")
    assert older is not None
    size = (older / name).stat().st_size
    run = trainer(stopped)
    message = (
        r"step-00000006: could not be written \(.*File too large.*\); kept: step-00000002, step-00000004"
    )
    with file_size_limit(size // 2), pytest.raises(CheckpointError, match=message):
        run.train()
    assert [folder.name for folder in sorted(run.checkpoint_dir.iterdir())] == ["step-00000002", older.name]
    assert latest(run.checkpoint_dir) == older
    again = trainer(stopped)
    assert again.train()
    assert all(map(torch.equal, weights(again), weights(straight)))


@pytest.mark.parametrize("call", ["flush", "sha256", "sealed"])
def test_a_disk_that_fails_late_leaves_the_checkpoint_before(stopped, monkeypatch, call):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = trainer(stopped)
    with monkeypatch.context() as patch, run.lock:
        run.resume()
        patch.setattr(f"spae.training.checkpoints.{call}", fail)
        with pytest.raises(CheckpointError, match=r"step-00000006: .*No space left .*kept: .*step-00000004"):
            run.train()
    names = [folder.name for folder in sorted(run.checkpoint_dir.iterdir())]
    assert names == ["step-00000002", "step-00000004"]
    assert trainer(stopped).train()


def test_a_log_that_cannot_be_written_names_its_file(tmp_path):
    for step in (1, 2, 3):
        append_log(tmp_path / "log.jsonl", {"step": step, "loss": 1.0})
    half = (tmp_path / "log.jsonl").stat().st_size + 10
    with file_size_limit(half), pytest.raises(OSError, match=r"File too large: .*log\.jsonl"):
        append_log(tmp_path / "log.jsonl", {"step": 4, "loss": 1.0})
    assert (tmp_path / "log.jsonl").stat().st_size == half
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1, 2, 3]
    truncate_log(tmp_path / "log.jsonl", 2)
    append_log(tmp_path / "log.jsonl", {"step": 3})
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1, 2, 3]
    for bad in (b"{", b"\xff", b"[]", b'{"step": "3"}', b"[" * 100_000):
        (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n' + bad + b"\n")
        with pytest.raises(ValueError, match=r"log\.jsonl, line 2: expected a JSON object with a step"):
            read_log(tmp_path / "log.jsonl")
