"""Images of one's own: folders, tar shards, Hugging Face data sets."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spae import data
from spae.data.images import read_image
from spae.data.sources import HuggingFaceImages, ImageFolder, TarShards, expand

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
        with pytest.raises(ValueError, match=r"cat\.png: expected an image, got what cannot be read"):
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
    dataset = ImageFolder(tmp_path / "train", 8)
    assert len(dataset) == 4
    assert dataset.keys == ["a/z.png", "b_b/deep/y.JPG", "b_b/x.png", "top.png"]
    assert dataset.classes == ["", "a", "b_b"]
    assert dataset.labels.tolist() == [1, 2, 2, 0]
    assert dataset.captions == ["a", "b b", "b b", ""]
    image, label = dataset[0]
    assert label == 1
    assert image[:, 4, 4].tolist() == [-1, -1, 1]
    with pytest.raises(FileNotFoundError, match=r"root: expected a folder of images, got .*val"):
        ImageFolder(tmp_path / "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="root: expected files that end in"):
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
    dataset = TarShards(f"{tmp_path}/train-{{00..01}}.tar", size=8)
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
    with pytest.raises(FileNotFoundError, match=r"got .*x-1\.tar.*, where there is none"):
        TarShards(f"{tmp_path}/x-{{1..3}}.tar")
    with pytest.raises(FileNotFoundError, match="shards: expected a file"):
        TarShards(f"{tmp_path}/*.tar")
    (tmp_path / "b.tar").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"b\.tar, which is none or damaged"):
        TarShards(tmp_path / "b.tar")
    whole = write.tarball(tmp_path / "a.tar", {"a.png": picture("red"), "b.png": picture("red")}).read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[:1700])
    with pytest.raises(ValueError, match=r"b\.tar, which is none or damaged \(unexpected end"):
        TarShards(tmp_path / "b.tar")
    for name, content, message in (
        ("a.cls", b"cat", r"d\.tar: a\.cls: expected the number of a class, got b'cat'"),
        ("a.txt", b"\xff", r"d\.tar: a\.txt: expected text in UTF-8"),
    ):
        write.tarball(tmp_path / "d.tar", {"a.png": picture("red"), name: content})
        with pytest.raises(ValueError, match=message):
            TarShards(tmp_path / "d.tar")
    write.tarball(tmp_path / "c.tar", {"a.txt": b"words alone"})
    with pytest.raises(ValueError, match="shards: expected at least one image, got none in"):
        TarShards(tmp_path / "c.tar")


def test_compressed_shards_are_unpacked_once(tmp_path, write, monkeypatch):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    files = {"one.png": picture("red"), "one.cls": b"7", "two.png": picture("blue")}
    write.tarball(tmp_path / "a.tar.gz", files)
    for _ in range(2):
        dataset = TarShards(tmp_path / "a.tar.gz", size=8)
        assert dataset.labels.tolist() == [7, -1]
        assert dataset[1][0][:, 4, 4].tolist() == [-1, -1, 1]
    assert len(list((tmp_path / "cache").rglob("shard.tar"))) == 1
    content = (tmp_path / "a.tar.gz").read_bytes()
    for damaged in (content[:-20], content[:20] + b"?" * 20 + content[40:]):
        (tmp_path / "b.tar.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"shards: .*b\.tar\.gz, which is damaged"):
            TarShards(tmp_path / "b.tar.gz")


def test_animations_are_video(tmp_path):
    colours = ["red", "lime", "blue", "white", "black"]
    frames = [Image.new("RGB", (20, 10), colour) for colour in colours]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    video = read_image(tmp_path / "a.gif", (3, 8, 16))
    assert video.shape == (3, 3, 8, 16)
    assert video[:, :, 4, 8].T.tolist() == [[1, -1, -1], [-1, -1, 1], [-1, -1, -1]]
    assert read_image(tmp_path / "a.gif", (8, 16))[:, 4, 8].tolist() == [1, -1, -1]
    with pytest.raises(ValueError, match=r"a\.gif: expected at least 6 frames, got 5"):
        ImageFolder(tmp_path, (6, 8, 8))[0]


@pytest.mark.parametrize("size", [4, (8, 9, 10, 11), (8.0, 8), (0, 8, 8), (8, 5000), "8", (8,)])
def test_sizes_out_of_range(size):
    with pytest.raises(ValueError, match="size: expected"):
        read_image(Image.new("RGB", (8, 8)), size)


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
    with pytest.raises(ValueError, match=r"image: expected the name of one of the columns \['picture'\]"):
        HuggingFaceImages(Rows(["picture"], []))
    with pytest.raises(
        TypeError, match=r"rows: expected a data set with a length, got generator \(streamed\?\)"
    ):
        HuggingFaceImages(row for row in rows)
    several = HuggingFaceImages(
        Rows(["img", "text", "label"], [{"img": red, "text": ["a", "b"], "label": "x"}, {"img": blue, "text": None, "label": None}]), 8
    )  # fmt: skip
    assert (several.captions, several.labels.tolist(), several.classes) == (["a", ""], [0, -1], ("x",))
    raw = [{"image": {"bytes": picture("red"), "path": None}}]
    assert HuggingFaceImages(Rows(["image"], raw), 8)[0][0][:, 4, 4].tolist() == [1, -1, -1]


def test_hugging_face_names_and_folders(tmp_path, monkeypatch):
    rows = [{"image": Image.new("RGB", (9, 9), "red")}] * 40

    def load_from_disk(name):
        saved = Rows(["image"], rows)
        return {"train": saved} if name.endswith("split") else saved

    loader = SimpleNamespace(
        load_dataset=lambda name, split: Rows(["image"], rows[: len(split)]), load_from_disk=load_from_disk
    )
    monkeypatch.setitem(sys.modules, "datasets", loader)
    assert len(data.open_data("hf:some/name", "t", image_size=8)) == 1
    with pytest.raises(ValueError, match="split: expected one of those that some/name has, got None"):
        data.open_data("hf:some/name", None)
    for name, file in (("split", "dataset_dict.json"), ("whole", "dataset_info.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    assert len(data.open_data(f"hf:{tmp_path}/split", "train", image_size=8)) == 40
    with pytest.raises(ValueError, match=r"split: expected one of \['train'\] in .*split, got 'dev'"):
        data.open_data(f"hf:{tmp_path}/split", "dev", image_size=8)
    parts = [
        data.open_data(f"hf:{tmp_path}/whole", split, image_size=8) for split in ("train", "dev", "test")
    ]
    assert sum(map(len, parts)) == len(data.open_data(f"hf:{tmp_path}/whole", None, image_size=8)) == 40
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="datasets"):
        data.open_data("hf:some/name")
