from __future__ import annotations

import io
import os
import signal
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

# torch keeps compiled graphs by what they are traced from, not by the code of a custom backward: a kept one would pass a
# test of code that has changed since.
os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"

# Speed is measured in benchmarks/, never asserted in a test; and a run of the suite is repeatable.
settings.register_profile("spae", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("spae")


@pytest.fixture(scope="session")
def write() -> SimpleNamespace:
    """Writers of small archives in the forms that packages come in: (path, files by name) -> path."""
    return SimpleNamespace(wheel=write_wheel, tarball=write_tarball, deb=write_deb)


def write_wheel(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tar(files: Mapping[str, bytes], compression: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:  # pyright: ignore
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def write_tarball(path: Path, files: Mapping[str, bytes]) -> Path:
    path.write_bytes(tar(files, "" if path.suffix == ".tar" else "gz"))
    return path


def write_deb(path: Path, files: Mapping[str, bytes], compression: str = "xz") -> Path:
    data = tar({f"./{name}": content for name, content in files.items()}, compression)
    parts = {"debian-binary": b"2.0\n", "control.tar.gz": b"odd", f"data.tar.{compression}": data}
    with path.open("wb") as out:
        out.write(b"!<arch>\n")
        for name, content in parts.items():
            out.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            out.write(content + b"\n" * (len(content) % 2))
    return path


@pytest.fixture(scope="session")
def clip_config() -> Any:
    """A small causal model's, of clips of 5 frames of 8 x 8."""
    from spae import SPAEConfig

    return SPAEConfig(
        image_size=(5, 8, 8),
        grids=((1, 1, 1), (3, 1, 1), (3, 2, 2)),
        channels=4,
        multipliers=(1, 1, 1),
        num_res_blocks=1,
        strides=((1, 2, 2), 2),
        causal=True,
    )


@pytest.fixture(scope="session")
def trained() -> Callable[..., tuple[list[float], Any]]:
    """Some steps of Adam for a tokenizer: (model, images of a seed, commitment's weight, steps) -> the
    reconstruction loss of each, and what the last step gave."""
    return train


def train(model: Any, images: Callable[..., Any], beta: float, steps: int) -> tuple[list[float], Any]:
    from torch.optim import Adam

    optimizer = Adam(model.parameters(), 2e-3)
    history, output = [], None
    for step in range(steps):
        output = model.train()(images(seed=step % 4))
        losses = output.losses
        history.append(losses["reconstruction"].item())
        total = losses["reconstruction"] + beta * losses["commitment"] + losses.get("codebook", 0.0)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return history, output


@pytest.fixture
def picture_folder(tmp_path) -> Callable[[int], Path]:
    """Writes four random pictures of a size for each of train and test: size -> their folder."""

    def write_pictures(size: int) -> Path:
        image = pytest.importorskip("PIL.Image", reason="needs Pillow")
        import numpy as np

        for split in ("train", "test"):
            (tmp_path / "images" / split).mkdir(parents=True)
            for number in range(4):
                pixels = np.random.RandomState(number).randint(0, 256, (size, size, 3), np.uint8)
                image.fromarray(pixels).save(tmp_path / "images" / split / f"{number}.png")
        return tmp_path / "images"

    return write_pictures


@pytest.fixture(scope="session")
def random_lite0():
    """An EfficientNet-Lite0 of random weights, whose running statistics are those of one batch."""
    import torch

    from spae.models.lite0 import Lite0

    torch.manual_seed(0)
    network = Lite0()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # one batch gives all of the running statistics
    coarse = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    network(torch.nn.functional.interpolate(coarse, (64, 64), mode="nearest"))
    return network.eval().requires_grad_(False)


# Where a shell has started the run in the background, interrupts are ignored; the tests of interrupts need them.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
