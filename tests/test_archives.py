"""The archives that packages come in, whole and damaged."""

from __future__ import annotations

import io
import tarfile
import zipfile

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


def test_links_are_no_files(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("x", tarfile.REGTYPE), ("y", tarfile.SYMTYPE), ("z", tarfile.LNKTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "x"
            archive.addfile(entry)
    assert list(contents(tmp_path / "a.tar", lambda name: True)) == [("x", b"")]


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


def tar_of(*entries):
    """A tar of (name, what else its entry is)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, changes in entries:
            entry = tarfile.TarInfo(name)
            content = changes.pop("content", b"plain")
            entry.size = len(content) if "type" not in changes else 0
            for field, value in changes.items():
                setattr(entry, field, value)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def zip_of(*entries, **changes):
    """A zip of (name, content), whose first entry says what it is not."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = changes.get("mode", 0o100644) << 16
            archive.writestr(info, content)
    raw = bytearray(out.getvalue())
    directory = raw.find(b"PK\x01\x02")
    if "crc" in changes:
        raw[directory + 16 : directory + 20] = b"\0\0\0\0"
    if "encrypted" in changes:
        raw[6] |= 1
        raw[directory + 8] |= 1
    if "offset" in changes:
        raw[directory + 42 : directory + 46] = (1 << 31).to_bytes(4, "little")
    if "method" in changes:
        raw[8] = raw[directory + 10] = 99
    return bytes(raw)


SECRET = b"what lies beside the archive"
HOSTILE = {
    "symlink.tar": tar_of(("x", {"type": tarfile.SYMTYPE, "linkname": "../secret"})),
    "absolute symlink.tar": tar_of(("x", {"type": tarfile.SYMTYPE, "linkname": "/etc/hostname"})),
    "symlink to itself.tar": tar_of(("x", {"type": tarfile.SYMTYPE, "linkname": "x"})),
    "hard link.tar": tar_of(("x", {"type": tarfile.LNKTYPE, "linkname": "../secret"})),
    "through a link.tar": tar_of(("d", {"type": tarfile.SYMTYPE, "linkname": ".."}), ("d/secret", {})),
    "device.tar": tar_of(("x", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5})),
    "pipe.tar": tar_of(("x", {"type": tarfile.FIFOTYPE})),
    "folder of that name.tar": tar_of(("x", {"type": tarfile.DIRTYPE})),
    "upwards.tar": tar_of(("../secret", {}), ("a/../../secret", {})),
    "absolute.tar": tar_of(("/secret", {})),
    "path in a header.tar": tar_of(("x", {"pax_headers": {"path": "../secret"}})),
    "size in a header.tar": tar_of(("x", {"pax_headers": {"size": "-1"}}), ("y", {})),
    "larger than it is.tar": tar_of(("x", {}))[:512] + b"few",
    "upwards.zip": zip_of(("../secret", b"plain"), ("/secret", b"plain")),
    "symlink.zip": zip_of(("x", b"../secret"), mode=0o120777),
    "wrong sum.zip": zip_of(("x", b"plain" * 99), crc=True),
    "encrypted.zip": zip_of(("x", b"plain"), encrypted=True),
    "beyond its end.zip": zip_of(("x", b"plain"), offset=True),
    "unknown method.zip": zip_of(("x", b"plain"), method=True),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_give_their_own_bytes_or_an_error(tmp_path, name):
    """Nothing that lies elsewhere is read or written, whatever an entry says that it is or where."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "inside").mkdir()
    archive = tmp_path / "inside" / name
    archive.write_bytes(HOSTILE[name])
    found, said = [], name
    try:
        found += contents(archive, lambda name: True)
    except assets.AssetError as error:
        said = str(error)
    assert name in said
    assert {content for _, content in found} <= {b"plain", b"../secret", b""}
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["inside", name, "secret"])
    assert (tmp_path / "secret").read_bytes() == SECRET


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
