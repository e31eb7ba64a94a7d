from __future__ import annotations

import io
import signal
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings

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


# Where a shell has started the run in the background, interrupts are ignored; the tests of interrupts need them.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
