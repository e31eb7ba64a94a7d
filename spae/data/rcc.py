"""Files out of Qt's binary resource archives (.rcc)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_DIRECTORY, _ZLIB, _ZSTD = 2, 1, 4


def resources(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """(path, content) of every file in a resource archive of version 1 to 3, plain or packed with zlib.

    Raises ValueError for anything else, and for files packed with zstd.
    """
    try:
        yield from _files(archive)
    except (struct.error, zlib.error, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"archive: expected a Qt resource archive, got a damaged one ({error})") from error


def _files(archive: bytes) -> Iterator[tuple[str, bytes]]:
    magic, version, tree, data, names = struct.unpack_from(">4sIIII", archive)
    if magic != b"qres" or not 1 <= version <= 3:
        raise ValueError(f"archive: expected a Qt resource archive, got {archive[:8]!r}")
    width = 14 if version == 1 else 22  # of an entry: from version 2 on, with the time of its last change

    def visit(entry: int, folder: str) -> Iterator[tuple[str, bytes]]:
        place = tree + width * entry
        name_offset, flags = struct.unpack_from(">IH", archive, place)
        path = folder
        if entry:
            (length,) = struct.unpack_from(">H", archive, names + name_offset)
            start = names + name_offset + 6  # after the length and a hash
            name = archive[start : start + 2 * length].decode("utf-16-be")
            path = f"{folder}/{name}" if folder else name
        if flags & _DIRECTORY:
            count, first = struct.unpack_from(">II", archive, place + 6)
            if count and first <= entry:  # children come later, so that a damaged tree has no circles
                raise ValueError("archive: expected a Qt resource archive, got a damaged tree")
            for child in range(first, first + count):
                yield from visit(child, path)
            return
        (offset,) = struct.unpack_from(">I", archive, place + 10)
        (size,) = struct.unpack_from(">I", archive, data + offset)
        content = archive[data + offset + 4 : data + offset + 4 + size]
        if len(content) != size:
            raise ValueError(f"archive: expected {size} bytes of {path}, got {len(content)}")
        if flags & _ZSTD:
            raise ValueError(f"archive: expected {path} plain or packed with zlib, got zstd")
        yield path, zlib.decompress(content[4:]) if flags & _ZLIB else content

    yield from visit(0, "")
