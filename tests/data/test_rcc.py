"""Qt's resource archives, written here by the format's description."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spae.data.rcc import resources

TREE = {"a": {"x.webp": b"picture", "deep": {"y.txt": b"z" * 1000}}, "empty": {}, "zoë.bin": b""}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_file_comes_out_by_its_path(version, write_rcc):
    archive = write_rcc(TREE, version, packed=("y.txt",))
    assert dict(resources(archive)) == {"a/x.webp": b"picture", "a/deep/y.txt": b"z" * 1000, "zoë.bin": b""}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda whole: b"PK" + whole[2:], "expected a Qt resource archive, got b'PK"),
        (lambda whole: b"", "damaged"),
        (lambda whole: whole[:-30], "damaged"),
        (lambda whole: whole[:4] + struct.pack(">I", 9) + whole[8:], "expected a Qt resource archive, got"),
        (lambda whole: whole.replace(struct.pack(">IHII", 0, 2, 3, 1), struct.pack(">IHII", 0, 2, 3, 0)), "damaged tree"),
        (lambda whole: whole.replace(struct.pack(">I", 7) + b"picture", struct.pack(">I", 9999) + b"picture"), "expected 9999 bytes of a/x.webp"),
        (lambda whole: whole.replace(struct.pack(">HHH", 1, 0, 1), struct.pack(">HHH", 4, 0, 1)), "a/deep/y.txt plain or packed with zlib, got zstd"),
    ],
)  # fmt: skip
def test_damage_is_said(write_rcc, spoil, message):
    whole = write_rcc(TREE, packed=("y.txt",))
    assert spoil(whole) != whole
    with pytest.raises(ValueError, match=message):
        list(resources(spoil(whole)))


@given(st.integers(0, 10**4), st.binary(min_size=1, max_size=4))
def test_a_spoilt_archive_is_read_or_refused(write_rcc, place, change):
    archive = bytearray(write_rcc(TREE, packed=("y.txt",)))
    place %= len(archive)
    archive[place : place + len(change)] = change[: len(archive) - place]
    with contextlib.suppress(ValueError):  # and nothing else
        for path, content in resources(bytes(archive)):
            assert isinstance(path, str)
            assert len(content) <= 1 << 20
