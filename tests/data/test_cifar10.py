"""CIFAR-10's official archive: read without executing what it holds, damaged ones named."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spae.data import open_data
from spae.data.cifar10 import CIFAR10, CLASSES


class Py2:
    """Writes a batch as Python 2 and its NumPy pickled it: the official archive's form."""

    @staticmethod
    def batch(pixels: np.ndarray, labels: list[int]) -> bytes:
        def text(value: bytes) -> bytes:
            return b"U" + bytes([len(value)]) + value

        def number(value: int) -> bytes:
            return b"J" + value.to_bytes(4, "little", signed=True)

        dtype = (
            b"cnumpy\ndtype\n"
            + text(b"u1")
            + b"K\0K\1\x87R(K\3"
            + text(b"|")
            + b"NNN"
            + number(-1) * 2
            + b"K\0tb"
        )
        content = pixels.tobytes()
        shape = number(pixels.shape[0]) + number(pixels.shape[1]) + b"\x86"
        array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
        state = b"(K\1" + shape + dtype + b"\x89T" + len(content).to_bytes(4, "little") + content + b"tb"
        listed = b"](" + b"".join(bytes([ord("K"), label]) for label in labels) + b"e"
        return b"\x80\2}(" + text(b"data") + array + state + text(b"labels") + listed + b"u."


@pytest.fixture
def cifar(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (12, 3072)).astype(np.uint8)
    labels = [i % 10 for i in range(12)]
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    files = {
        name: Py2.batch(pixels[2 * i : 2 * i + 2], labels[2 * i : 2 * i + 2]) for i, name in enumerate(names)
    }
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    (tmp_path / "out").mkdir()
    for name, content in files.items():
        (tmp_path / "out" / name).write_bytes(content)
    return SimpleNamespace(
        archive=tmp_path / "cifar-10-python.tar.gz", folder=tmp_path / "out", pixels=pixels, labels=labels
    )


def test_cifar10_s_official_archive(cifar):
    known = pickle.loads((cifar.folder / "test_batch").read_bytes(), encoding="bytes")
    assert np.array_equal(known[b"data"], cifar.pixels[10:]), "the batches are what Python reads too"
    for place in (cifar.archive, cifar.folder):
        train, test = (open_data(f"cifar10:{place}", split) for split in ("train", "test"))
        assert (len(train), len(test)) == (10, 2)
        image, *rest = test[1]
        assert torch.equal(((image + 1) * 127.5).round().byte().flatten(), torch.from_numpy(cifar.pixels[11]))
        assert rest == ["automobile", 1, "test_batch/1"]
        assert train.labels.tolist() == cifar.labels[:10]
        assert train.classes == CLASSES
    bigger = open_data({"cifar10": str(cifar.archive)}, "test", image_size=(16, 64))[0].image
    assert bigger.shape == (3, 16, 64)
    with pytest.raises(ValueError, match="split: expected one of 'train', 'test', got 'dev'"):
        CIFAR10(cifar.archive, "dev")


def test_a_batch_of_cifar10_executes_nothing(cifar, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    whole = (cifar.folder / "test_batch").read_bytes()
    damaged = {
        "expected only numbers, got posix.mkdir": pickle.dumps({"data": Evil()}),
        "expected rows of bytes, got 'O8'": pickle.dumps(
            {"data": np.zeros((1, 3072), "O"), "labels": [0]}, 5
        ),
        "": whole[: len(whole) // 2],
        "expected rows of bytes, got 'f8'": pickle.dumps({"data": np.zeros((1, 3072)), "labels": [0]}, 3),
        "expected rows of 3072 bytes": pickle.dumps({"data": np.zeros((2, 99), np.uint8), "labels": [0]}, 3),
        "expected 2 labels from 0 to 9, got \\[0, 10\\]": Py2.batch(cifar.pixels[:2], [0, 10]),
        "expected 2 labels": Py2.batch(cifar.pixels[:2], [0]),
    }
    for message, content in damaged.items():
        (cifar.folder / "test_batch").write_bytes(content)
        with pytest.raises(ValueError, match=rf"out: test_batch, which is none or damaged .*{message}"):
            CIFAR10(cifar.folder, "test")
    assert not (tmp_path / "executed").exists()
    (cifar.folder / "test_batch").unlink()
    with pytest.raises(FileNotFoundError, match="out' without test_batch"):
        CIFAR10(cifar.folder, "test")
    cifar.archive.write_bytes(cifar.archive.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"got .*cifar-10-python\.tar\.gz, which is none or damaged"):
        CIFAR10(cifar.archive)
