"""The packaged sets, on small archives in their packages' forms; and the published ones where cached."""

from __future__ import annotations

import gzip
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spae import assets, data
from spae.data import easy_vqa, fashion, moving_mnist, stamps, wallpapers
from spae.data.easy_vqa import EasyVQA
from spae.data.fashion import Fashion
from spae.data.moving_mnist import MovingMNIST
from spae.data.stamps import Stamps
from spae.data.wallpapers import Wallpapers

Image = pytest.importorskip("PIL.Image", reason="needs Pillow (the extra data)")


def picture(pixels, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    image.save(buffer, kind, **({"quality": 95} if kind == "jpeg" else {}))
    return buffer.getvalue()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """An empty folder that stands for the fetched asset, and an empty cache."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "require", lambda name: folder)
    return folder


def idx(values: np.ndarray) -> bytes:
    return gzip.compress(
        bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes() + values.tobytes()
    )


def test_fashion(packages, write, monkeypatch):
    monkeypatch.setattr(fashion, "_NUM_TRAIN", 6)
    images = np.random.RandomState(0).randint(256, size=(10, 28, 28)).astype(np.uint8)
    labels = np.arange(10, dtype=np.uint8)[::-1].copy()
    parts = {"train": slice(0, 6), "t10k": slice(6, 10)}
    files = {f"usr/x/{part}-images-idx3-ubyte.gz": idx(images[rows]) for part, rows in parts.items()}
    files |= {f"usr/x/{part}-labels-idx1-ubyte.gz": idx(labels[rows]) for part, rows in parts.items()}
    write.deb(packages / "a.deb", files)
    train, test = Fashion("train"), Fashion("test")
    assert (len(train), len(test)) == (6, 4)
    image, label = test[1]
    assert image.shape == (3, 32, 32)
    assert label == 2
    assert test.captions[1] == "pullover"
    assert test.labels.tolist() == [3, 2, 1, 0]
    assert torch.equal(((image[1, 2:-2, 2:-2] + 1) * 127.5).round().byte(), torch.from_numpy(images[7]))
    assert (image[:, :2] == -1).all()
    with pytest.raises(ValueError, match="size: expected one of 32, got 64"):
        Fashion(size=64)
    with pytest.raises(ValueError, match=r"expected an IDX file of bytes, 00 00 08 \.\., got 00 00 0d"):
        fashion._idx(b"\0\0\x0d\1")


def test_easy_vqa(packages, write, monkeypatch):
    monkeypatch.setattr(easy_vqa, "_NUM", {"train": 3, "test": 2})
    files = {"easy_vqa/data/answers.txt": b"red\ncircle\n"}
    for split, count in easy_vqa._NUM.items():
        asked = [[f"{split}?", "red", image] for image in range(count)] + [["shape?", "circle", 1]]
        files[f"easy_vqa/data/{split}/questions.json"] = json.dumps(asked).encode()
        for image in range(count):
            colour = [200 if split == "test" else 100, image * 10, 0]
            files[f"easy_vqa/data/{split}/images/{image}.png"] = picture(np.full((8, 8, 3), colour))
    write.wheel(packages / "easy_vqa-1.0-py3-none-any.whl", files)
    train, test = EasyVQA("train", size=8), EasyVQA("test", size=8)
    assert (len(train), len(test)) == (3, 2)
    image, index = test[1]
    assert index == 1
    assert ((image[:, 4, 4] + 1) * 127.5).round().tolist() == [200, 10, 0]
    assert test.questions == [[("test?", "red")], [("test?", "red"), ("shape?", "circle")]]
    assert test.answers == ("circle", "red")


def test_wallpapers_are_cut_by_photograph(packages, write, monkeypatch):
    folder = "usr/share/backgrounds/"
    files = {}
    for number, name in enumerate(wallpapers.FILES):
        pixels = np.full((140, 170, 3), number * 9)
        files[folder + name] = picture(pixels, "jpeg")
    files[folder + "not-a-photograph.jpg"] = b""
    mate = {name: file for name, file in files.items() if "/mate/" in name}
    write.deb(packages / "lomiri.deb", {name: file for name, file in files.items() if name not in mate})
    write.deb(packages / "mate.deb", mate)
    train, test = Wallpapers("train", size=8), Wallpapers("test", size=8)
    per_photograph = 8 * 9  # the shorter side has 8 tiles
    assert (len(train), len(test)) == (21 * per_photograph, 5 * per_photograph)
    assert not set(train.files) & set(test.files)
    assert set(test.files) == set(wallpapers.TEST_FILES)
    image, label = train[5]
    assert wallpapers.FILES[label] == train.files[5]
    torch.testing.assert_close(image, torch.full((3, 8, 8), label * 9 / 127.5 - 1), atol=0.03, rtol=0)


def test_stamps_are_held_out_by_family(packages, write):
    folder = "usr/share/tuxpaint/stamps/"
    names = [f"animals/kind{chr(97 + i)}/one" for i in range(20)]
    captions = dict.fromkeys(names, "")
    captions = {name: f"A thing {i}." for i, name in enumerate(captions)}
    captions["animals/kinda/one_mirror"] = "Seen in a mirror."
    captions["animals/kinda/two"] = "a thing 0"
    captions["animals/kindb/one-2"] = "Two."
    files = {}
    for name, caption in captions.items():
        files[f"{folder}{name}.png"] = picture(np.full((6, 12, 4), [255, 0, 0, 255]))
        files[f"{folder}{name}.txt"] = f"{caption}\nde.utf8=Ein Ding\nfr=not so\nxx.utf8=\n".encode()
    files[f"{folder}animals/mute.png"] = picture(np.zeros((4, 4, 3)))
    write.deb(packages / "stamps.deb", files)
    train, test = Stamps("train", size=16), Stamps("test", size=16)
    assert len(train) + len(test) == 23
    families = [{file.rsplit("/", 1)[0] for file in dataset.files} for dataset in (train, test)]
    assert len(families[1]) == 2  # a tenth
    assert not families[0] & families[1]
    whole = dict(zip(train.files + test.files, train.captions + test.captions, strict=True))
    assert whole["animals/kinda/one.png"] == "A thing 0."
    assert train.categories[0] == "animals/" + train.files[0].split("/")[1]
    assert set(train.names("de")) == {"Ein Ding"}
    assert train.languages() == ["de", "en"]
    image, _ = train[0]
    assert image[:, 0, 0].tolist() == [1, 1, 1]  # white above, the picture in the middle
    assert image[:, 8, 8].tolist() == [1, -1, -1]


@pytest.mark.parametrize("seed", range(3))
def test_captions_and_variants_join_families(monkeypatch, seed):
    monkeypatch.setattr(stamps, "_SPLIT_SEED", seed)
    monkeypatch.setattr(stamps, "_TEST_SHARE", 0.5)
    pairs = [("a/x.png", "One."), ("b/y.png", "one"), ("b/y_mirror.png", "Two!"), ("c/z.png", "Three")]
    assert stamps.held_out_stamps(pairs) in ({0, 1, 2}, {3})


@pytest.fixture
def digits(monkeypatch):
    """Digit k is a square of k's own brightness."""
    images = torch.full((10, 3, 32, 32), -1.0)
    images[:, :, 2:30, 2:30] = torch.linspace(-0.8, 1, 10)[:, None, None, None]
    fake = SimpleNamespace(images=images, labels=torch.arange(10))
    monkeypatch.setattr(moving_mnist, "MNISTDigits", lambda split: fake)


def test_moving_digits_move_straight_and_stay_inside(digits):
    dataset = MovingMNIST("train", frames=40, digits=1, count=20)
    for index in range(20):
        video, number = dataset[index]
        assert number == index
        assert video.shape == (3, 40, 64, 64)
        level = torch.linspace(-0.8, 1, 10)[dataset.labels[index, 0]]
        bright = video[0] > -0.9
        assert (bright.sum((1, 2)) == 28 * 28).all()
        assert (video[0][bright] == level).all()
        rows = bright.any(2).float().argmax(1)
        steps = rows.diff()
        assert steps.abs().max() <= 0.1 * 36 + 1
        # Straight, up to rounding, but for the bounces: one in ten frames at most, each seen in two differences.
        assert (steps.diff().abs() > 1.01).sum() <= 8
    assert rows.max() > 20


def test_a_video_is_always_the_same(digits):
    few, many = MovingMNIST("train", count=5), MovingMNIST("train", count=50)
    assert torch.equal(few[4][0], many[4][0])
    assert torch.equal(few.labels, many.labels[:5])
    assert torch.equal(few[-1][0], few[4][0])
    assert not torch.equal(few[3][0], few[4][0])
    assert not torch.equal(MovingMNIST("test", count=5)[4][0], few[4][0])
    assert few.captions[0] == f"{few.labels[0, 0]} and {few.labels[0, 1]}"
    with pytest.raises(IndexError):
        few[5]
    with pytest.raises(ValueError, match="size: expected a whole number from 28 to 1024, got 20"):
        MovingMNIST(size=20)


def test_digits_move_as_their_captions_say(digits):
    options = {"motion": "straight", "digit_size": 14, "digits": 1, "count": 40}
    dataset = MovingMNIST("train", 32, frames=9, **options)
    seen = set()
    for index, caption in enumerate(dataset.captions):
        digit, moving, way = caption.split()
        seen.add(way)
        assert (digit, moving) == (str(dataset.labels[index, 0].item()), "moving")
        bright = dataset[index][0][0] > -0.9
        assert (bright.sum((1, 2)) == 14 * 14).all()
        rows, columns = bright.any(2).float().argmax(1), bright.any(1).float().argmax(1)
        across, along = (rows, columns) if way in ("left", "right") else (columns, rows)
        steps = along.diff() * (1 if way in ("right", "down") else -1)
        assert (across == across[0]).all()
        assert (steps > 0).all()
        assert 0.6 * 18 - 1 <= steps.sum() <= 18
    assert seen == {"left", "right", "up", "down"}
    two = MovingMNIST("test", 32, frames=2, motion="straight", digit_size=14, count=1)
    assert two.captions[0].count(" moving ") == 2
    assert " and " in two.captions[0]
    more = MovingMNIST("train", 32, frames=9, **{**options, "count": 60})
    assert more.captions[:40] == dataset.captions
    assert torch.equal(more[7][0], dataset[7][0])


def test_sets_are_found_by_name(digits):
    assert isinstance(data.load("moving-mnist", "test", count=3), MovingMNIST)
    with pytest.raises(ValueError, match=r"name: expected one of 'mnist', 'emoji'.* got 'mnits'"):
        data.load("mnits")
    for entry in data.SETS.values():
        assert entry.asset in assets.REGISTRY


@pytest.mark.parametrize("name", sorted(set(data.SETS) - {"mnist", "moving-mnist", "emoji"}))
def test_the_published_sets(name):
    sizes = {
        "fashion": (60_000, 10_000),
        "stamps": (714, 71),
        "wallpapers": (1920, 480),
        "easy-vqa": (4000, 1000),
        "things": (5032, 715),
        "emoji-animated": (164, 23),
    }
    try:
        assets.path(data.SETS[name].asset)
    except assets.AssetNotCached as error:
        pytest.skip(f"needs the packages: {error}")
    train, test = data.load(name, "train"), data.load(name, "test")
    assert (len(train), len(test)) == sizes[name]
    for dataset in (train, test):
        image, _ = dataset[len(dataset) // 2]
        assert image.dtype == torch.float32
        assert image.min() >= -1
        assert image.max() <= 1
