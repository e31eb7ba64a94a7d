"""The cache on disk: entries that appear whole or not at all, whoever else is at work."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_MANIFEST = "manifest.json"
_CHUNK = 1 << 20


def cache_root() -> Path:
    """The cache's folder: `$SPAE_CACHE`, else `$XDG_CACHE_HOME/spae`, else `~/.cache/spae`. It need not
    exist."""
    if chosen := os.environ.get("SPAE_CACHE"):
        return Path(chosen).expanduser().absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).absolute() / "spae"
    return Path.home() / ".cache" / "spae"


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """The cached folder `derived/<name>`, made by `build(folder)` the first time.

    `build` writes files into the empty folder it gets. Their sizes and SHA-256 sums are recorded and checked
    in full on every call (about a quarter of a second per 100 MB); a folder that fails is built again. `name`
    must change whenever the content would: put the source's checksum and a format version in it.
    """
    folder = cache_root() / "derived" / name

    def build_with_manifest(staged: Path) -> None:
        build(staged)
        listed = {
            file.relative_to(staged).as_posix(): {"size": file.stat().st_size, "sha256": sha256(file)}
            for file in sorted(staged.rglob("*"))
            if file.is_file()
        }
        (staged / _MANIFEST).write_text(json.dumps({"files": listed}, indent=1))

    publish(folder, build_with_manifest, lambda: _manifest_holds(folder))
    return folder


def _manifest_holds(folder: Path) -> bool:
    try:
        listed = json.loads((folder / _MANIFEST).read_text())["files"]
        return all(
            (folder / name).stat().st_size == entry["size"] and sha256(folder / name) == entry["sha256"]
            for name, entry in listed.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def publish(
    folder: Path,
    build: Callable[[Path], None],
    valid: Callable[[], bool],
    report: Callable[[str], None] = lambda _: None,
) -> None:
    """Make `folder` valid: build it beside its place, under its lock, then rename it there."""
    if valid():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{error.strerror} (the cache can be moved with the environment variable SPAE_CACHE)"
        raise OSError(error.errno, problem, str(folder.parent)) from error
    with _locked(folder, report):
        if valid():  # another process was first
            return
        for stale in folder.parent.glob(f"{folder.name}.tmp-*"):
            # A killed process left it: one that lives would hold the lock.
            shutil.rmtree(stale, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.tmp-", dir=folder.parent) as temporary:
            staged = Path(temporary) / folder.name
            staged.mkdir()
            build(staged)
            for file in staged.rglob("*"):
                _flush_to_disk(file)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(staged, folder)


@contextmanager
def _locked(folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"waiting for another process that prepares {folder.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def sha256(file: Path) -> str:
    """A file's SHA-256, hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _flush_to_disk(file: Path) -> None:
    """Force a file's bytes out before the rename that makes it count, so a power cut leaves no hole."""
    if file.is_file():
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
