"""What is computed once and kept in the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from spae import assets


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    """An empty one."""
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))


def test_a_derived_entry_is_built_once():
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "table.bin").write_bytes(b"table")

    first = assets.cached("kind/table-v1", build)
    assert (first / "table.bin").read_bytes() == b"table"
    assert assets.cached("kind/table-v1", build) == first
    assert len(built) == 1


@pytest.mark.parametrize("damage", ["cut", "changed", "removed", "no manifest", "manifest is not JSON"])
def test_a_damaged_derived_entry_is_built_again(damage):
    def build(folder: Path) -> None:
        (folder / "table.bin").write_bytes(b"table")

    folder = assets.cached("table-v1", build)
    table, manifest = folder / "table.bin", folder / "manifest.json"
    match damage:
        case "cut":
            table.write_bytes(b"tab")
        case "changed":
            table.write_bytes(b"tabel")
        case "removed":
            table.unlink()
        case "no manifest":
            manifest.unlink()
        case "manifest is not JSON":
            manifest.write_text("{")
    assert (assets.cached("table-v1", build) / "table.bin").read_bytes() == b"table"


def test_a_build_that_fails_leaves_nothing():
    def build(folder: Path) -> None:
        (folder / "table.bin").write_bytes(b"half a ta")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assets.cached("table-v1", build)
    assert not (assets.cache_root() / "derived" / "table-v1").exists()
    assert not list(assets.cache_root().rglob("*.tmp-*"))


def test_an_unusable_cache_folder_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="SPAE_CACHE"):
        assets.cached("table-v1", lambda folder: None)
