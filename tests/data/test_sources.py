"""Images of one's own: folders, tar shards, Hugging Face data sets."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spae import data
from spae.data.sources import HuggingFaceImages, ImageFolder, TarShards, expand, read_image

Image = pytest.importorskip("PIL.Image", reason="needs Pillow (the extra data)")


def picture(colour, kind: str = "PNG", size=(16, 16), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, kind)
    return buffer.getvalue()


def test_an_image_is_scaled_and_its_middle_kept():
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 8:24] = [255, 0, 0]
    image = read_image(Image.fromarray(pixels), 8)
    assert image.shape == (3, 8, 8)
    torch.testing.assert_close(image[0, :, 1:-1], torch.ones(8, 6), atol=0.05, rtol=0)
    assert (image[1:] == -1).all()
    grey = read_image(io.BytesIO(picture(100, mode="L")), 8)
    torch.testing.assert_close(grey, torch.full((3, 8, 8), 100 / 127.5 - 1))


def test_what_is_transparent_is_white():
    image = read_image(io.BytesIO(picture((9, 9, 9, 0), mode="RGBA")), 8)
    assert (image == 1).all()


def test_a_damaged_image_is_named():
    whole = picture((1, 2, 3), size=(64, 64))
    for damaged in (b"no image", whole[:40], whole[: len(whole) // 2]):
        with pytest.raises(ValueError, match=r"cat\.png is not an image that can be read"):
            read_image(io.BytesIO(damaged), 8, "cat.png")


def test_a_folder_of_classes(tmp_path):
    for name, colour in (
        ("b_b/x.png", "red"),
        ("b_b/deep/y.JPG", "red"),
        ("a/z.png", "blue"),
        ("top.png", "white"),
    ):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        kind = "JPEG" if name.endswith("JPG") else "PNG"
        (tmp_path / "train" / name).write_bytes(picture(colour, kind))
    (tmp_path / "train" / "notes.txt").write_text("no image")
    dataset = data.load(f"folder:{tmp_path}", "train", size=8)
    assert isinstance(dataset, ImageFolder)
    assert len(dataset) == 4
    assert dataset.classes == ["", "a", "b_b"]
    assert dataset.labels.tolist() == [1, 2, 2, 0]
    assert dataset.captions == ["a", "b b", "b b", ""]
    image, label = dataset[0]
    assert label == 1
    assert image[:, 4, 4].tolist() == [-1, -1, 1]
    with pytest.raises(FileNotFoundError, match=r"root: expected a folder of images, got .*val"):
        data.load(f"folder:{tmp_path}", "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="root: no file under"):
        ImageFolder(tmp_path / "empty")


def test_shards(tmp_path, write):
    def sample(key: str, colour: str, **others: bytes) -> dict[str, bytes]:
        return {f"{key}.png": picture(colour), **{f"{key}.{kind}": value for kind, value in others.items()}}

    write.tarball(
        tmp_path / "train-00.tar",
        {
            **sample("d/one.x", "red", txt=b"a red one\n", cls=b"7"),
            "d/two.json": b"{}",
            **sample("d/three", "lime"),
        }
        | {"d/one.seg.png": picture("black")},
    )
    write.tarball(tmp_path / "train-01.tar", sample("four", "blue", txt="ein blaues äh".encode()))
    write.tarball(tmp_path / "val-00.tar", sample("five", "blue"))
    dataset = data.load(f"tar:{tmp_path}/{{split}}-{{00..01}}.tar", "train", size=8)
    assert isinstance(dataset, TarShards)
    assert len(dataset) == 2
    assert dataset.keys == ["d/three", "four"]
    assert dataset.captions == ["", "ein blaues äh"]
    assert dataset.labels.tolist() == [-1, -1]
    assert dataset[1][0][:, 4, 4].tolist() == [-1, -1, 1]
    assert dataset[0][0][:, 4, 4].tolist() == [-1, 1, -1]
    assert dataset[-1][1] == 1
    assert len(TarShards(f"{tmp_path}/*-00.tar", size=8)) == 2
    assert len(TarShards([tmp_path / "val-00.tar"], size=8)) == 1


def test_captions_and_classes_of_shards(tmp_path, write):
    files = {"one.png": picture("red"), "one.txt": b"a red one\n", "one.cls": b"7"}
    write.tarball(tmp_path / "a.tar", files)
    dataset = TarShards(tmp_path / "a.tar", size=8)
    assert (dataset.captions, dataset.labels.tolist()) == (["a red one"], [7])


def test_bad_shards_are_named(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"found none at .*x-1\.tar"):
        TarShards(f"{tmp_path}/x-{{1..3}}.tar")
    with pytest.raises(FileNotFoundError, match="shards: expected a file"):
        TarShards(f"{tmp_path}/*.tar")
    write.tarball(tmp_path / "a.tgz", {"a.png": picture("red")})
    (tmp_path / "b.tar").write_bytes((tmp_path / "a.tgz").read_bytes())
    with pytest.raises(ValueError, match=r"b\.tar is no tar archive without compression"):
        TarShards(tmp_path / "b.tar")
    write.tarball(tmp_path / "c.tar", {"a.txt": b"words alone"})
    with pytest.raises(ValueError, match="no image is in"):
        TarShards(tmp_path / "c.tar")


def test_patterns(tmp_path):
    for name in ("a-8.tar", "a-9.tar", "a-10.tar", "b-9.tar"):
        (tmp_path / name).touch()
    paths = expand(f"{tmp_path}/a-{{8..10}}.tar")
    assert [path.rsplit("/", 1)[1] for path in paths] == ["a-8.tar", "a-9.tar", "a-10.tar"]
    assert len(expand(f"{tmp_path}/{{a,b}}-9.tar")) == 2
    assert len(expand(f"{tmp_path}/a-*.tar")) == 3


class Rows(list):
    """What is used of a `datasets.Dataset`."""

    def __init__(self, columns, rows, features=None):
        super().__init__(rows)
        self.column_names, self.features = columns, features or {}

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


def test_hugging_face_rows(monkeypatch):
    red, blue = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")
    rows = [
        {"image": red, "label": 1, "caption": "so red"},
        {"image": blue, "label": 0, "caption": "so blue"},
    ]
    dataset = HuggingFaceImages(Rows(["image", "label", "caption"], rows), 8)
    assert (dataset.captions, dataset.labels.tolist()) == (["so red", "so blue"], [1, 0])
    assert dataset[1][0][:, 4, 4].tolist() == [-1, -1, 1]
    assert dataset[-1][1] == 1
    names = {"label": SimpleNamespace(names=["some_blue", "some_red"])}
    assert HuggingFaceImages(Rows(["image", "label"], rows, names), 8).captions == ["some red", "some blue"]
    bare = HuggingFaceImages(Rows(["picture"], [{"picture": red}]), 8, image="picture")
    assert (bare.captions, bare.labels.tolist()) == (None, [-1])
    with pytest.raises(ValueError, match=r"image: expected one of the columns \['picture'\], got 'image'"):
        HuggingFaceImages(Rows(["picture"], []))
    with pytest.raises(
        TypeError, match=r"rows: expected a data set with a length, got generator \(streamed\?\)"
    ):
        HuggingFaceImages(row for row in rows)
    loader = SimpleNamespace(load_dataset=lambda name, split: Rows(["image"], rows[: len(split)]))
    monkeypatch.setitem(sys.modules, "datasets", loader)
    assert len(data.load("hf:some/name", "t", size=8)) == 1
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        data.load("hf:some/name")
