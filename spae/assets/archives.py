"""Reading the archives that packages are: wheels (zip), npm tarballs, Debian packages."""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from spae.assets.asset import AssetError

_BLOCK = 1 << 20
_AR_MAGIC = b"!<arch>\n"
_DATA_FORMATS = {"data.tar.xz": "r|xz", "data.tar.gz": "r|gz", "data.tar": "r|"}
_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, struct.error),
    *(EOFError, OSError, ValueError, LookupError, ArithmeticError),
    RuntimeError,  # of zipfile: encrypted, or packed in a way it does not know
)


def contents(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The wanted regular files of a .whl, .zip, .tar, .tgz, .tar.gz or .deb, in the archive's order.

    Yields each one's path (without a leading "./") and its bytes.

    Raises:
        AssetError: the archive is damaged or of another kind.
    """
    for name, stream in _members(archive, wanted):
        with _named(archive):
            content = stream.read()
        yield name, content


def blocks(archive: Path, member: str) -> Iterator[bytes]:
    """The bytes of one file of an archive, or with the path "" of the archive itself.

    Raises:
        AssetError: as `contents`, or there is no such file.
    """
    if not member:
        with archive.open("rb") as stream:
            yield from _read(stream)
        return
    for _, stream in _members(archive, member.__eq__):
        with _named(archive):
            yield from _read(stream)
        return
    raise AssetError(f"{archive.name} lacks {member}")


def _read(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block


def _members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes]]]:
    with _named(archive), _opened(archive) as opened:
        if isinstance(opened, zipfile.ZipFile):
            for info in opened.infolist():
                if not info.is_dir() and wanted(info.filename):
                    with opened.open(info) as stream:
                        yield info.filename, stream
        else:
            for entry in opened:
                name = entry.name.removeprefix("./")
                if entry.isreg() and wanted(name) and (stream := opened.extractfile(entry)) is not None:
                    yield name, stream


@contextmanager
def _named(archive: Path) -> Iterator[None]:
    try:
        yield
    except AssetError:
        raise
    except _DAMAGE as error:
        raise AssetError(f"{archive} is damaged or no archive that can be read: {error}") from error


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    suffix = archive.suffix.lower()
    if suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as opened:
            yield opened
    elif suffix == ".deb":
        with archive.open("rb") as stream, _data_of_deb(stream) as opened:
            yield opened
    elif suffix in (".tar", ".tgz", ".gz"):
        with archive.open("rb") as stream:
            mode: Any = "r|" if suffix == ".tar" else "r|gz"
            with tarfile.open(fileobj=stream, mode=mode) as opened:
                yield opened
    else:
        raise ValueError(f"expected a .whl, .zip, .tar, .tgz or .deb, got {archive.name}")


def _data_of_deb(stream: IO[bytes]) -> tarfile.TarFile:
    """The tar of a Debian package's files.

    A .deb is an `ar` archive: after the magic, members of a 60-byte header (name 16, time 12, owner 6, group
    6, mode 8, size 10, magic 2) and their bytes, padded to an even length.
    """
    if stream.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError("expected a Debian package, got something else")
    while len(header := stream.read(60)) == 60:
        name, size = header[:16].decode("ascii").rstrip("/ "), int(header[48:58])
        if name.startswith("data.tar"):
            if name not in _DATA_FORMATS:
                raise ValueError(
                    f"expected its files packed as one of {', '.join(_DATA_FORMATS)}, got {name}"
                )
            mode: Any = _DATA_FORMATS[name]
            return tarfile.open(fileobj=stream, mode=mode)
        stream.seek(size + size % 2, 1)
    raise ValueError("expected files in it, got none")
