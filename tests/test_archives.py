"""The archives that packages come in, whole and damaged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spae import assets
from spae.assets.archives import contents


def test_every_kind_of_archive_is_read(tmp_path, write):
    files = {"a/x.txt": b"x" * 1000, "a/y.bin": b"y", "z.txt": b""}
    written = [
        write.wheel(tmp_path / "a.whl", files),
        write.tarball(tmp_path / "a.tgz", files),
        write.tarball(tmp_path / "a.tar", files),
        write.deb(tmp_path / "a.deb", files),
        write.deb(tmp_path / "b.deb", files, "gz"),
    ]
    for archive in written:
        assert dict(contents(archive, lambda name: name.endswith(".txt"))) == {
            "a/x.txt": b"x" * 1000,
            "z.txt": b"",
        }


@pytest.mark.parametrize("name", ["a.whl", "a.tgz", "a.tar", "a.deb", "a.rar"])
def test_a_damaged_archive_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"!<arch>\nno archive at all")
    with pytest.raises(assets.AssetError, match=f"{name} is damaged"):
        list(contents(tmp_path / name, lambda name: True))


def test_a_cut_deb_is_damaged(tmp_path, write):
    whole = write.deb(tmp_path / "a.deb", {"x": bytes(range(256)) * 100}).read_bytes()
    (tmp_path / "a.deb").write_bytes(whole[:-100])
    with pytest.raises(assets.AssetError, match="damaged"):
        list(contents(tmp_path / "a.deb", lambda name: True))


@given(
    st.sampled_from(["a.whl", "a.zip", "a.tgz", "a.tar", "a.deb"]),
    st.integers(0, 10**6),
    st.binary(min_size=1, max_size=8),
    st.booleans(),
)
def test_a_spoilt_archive_is_read_or_named(tmp_path_factory, write, name, place, change, cut):
    folder = tmp_path_factory.mktemp("spoilt")
    files = {"x.txt": b"x" * 100, "y.bin": bytes(range(256))}
    writer = {"deb": write.deb, "tgz": write.tarball, "tar": write.tarball}.get(name[2:], write.wheel)
    path = writer(folder / name, files)
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place : place + len(change)] = b"" if cut else change[: len(content) - place]
    path.write_bytes(content)
    try:
        for _, found in contents(path, lambda name: True):
            assert len(found) <= 1 << 20
    except assets.AssetError as error:
        named = name in str(error)
    else:
        named = True
    assert named
