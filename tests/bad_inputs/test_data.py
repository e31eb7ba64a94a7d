"""Bad specifications of data, damaged files in folders and archives, and bad settings of training."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from spae import assets, data
from spae.data import MNISTDigits, Views, open_data
from spae.data.cifar10 import CIFAR10
from spae.data.emoji import Emoji
from spae.data.moving_mnist import MovingMNIST
from spae.data.sources import HuggingFaceImages, ImageFolder, TarShards
from spae.training import TrainConfig
from spae.training.presets import Preset, load_preset
from spae.training.schedule import schedule_factor


def png(seed=0):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def archive(path, **files):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("_", "."))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of folders and archives, each damaged in one way."""
    root = tmp_path_factory.mktemp("data")
    for name, content in {
        "good/a.png": png(),
        "empty/readme.txt": b"no image",
        "broken/a.png": png()[:60],
        "text/a.png": b"this is no image",
        "nothing/a.png": b"",
        "split/train/a.png": png(),
        "csv/a.png": png(),
        "csv/metadata.csv": b"file_name,caption\nb.png,a cat\n",
        "columns/a.png": png(),
        "columns/metadata.csv": b"picture,what\na.png,a cat\n",
        "json/a.png": png(),
        "json/metadata.jsonl": b'{"file_name": "a.png"',
        "list/a.png": png(),
        "list/metadata.jsonl": b"[1]\n",
        "number/a.png": png(),
        "number/metadata.jsonl": b'{"file_name": "a.png", "caption": 3}\n',
        "latin/a.png": png(),
        "latin/a.txt": b"caf\xe9",
        "preset.json": b"{",
        "list.json": b"[]",
        "bytes.json": b"\xff",
        "garbage.tar": b"no archive" * 100,
        "empty.tar": b"",
        "garbage.tar.gz": b"\x1f\x8b garbage",
        "cifar.tar.gz": b"garbage",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    archive(root / "texts.tar", a_txt=b"no image")
    archive(root / "class.tar", a_png=png(), a_cls=b"cat")
    archive(root / "latin.tar", a_png=png(), a_txt=b"caf\xe9")
    archive(root / "broken.tar", a_png=png()[:60])
    (root / "cut.tar").write_bytes((root / "class.tar").read_bytes()[:700])
    return root


class Rows:
    """A Hugging Face data set, as far as it is looked at."""

    column_names = ("image", "label")

    def __len__(self):
        return 1

    def __getitem__(self, what):
        return [0] if isinstance(what, str) else {"image": b"no image", "label": 0}


DATA = [
    (lambda f: open_data("no-such"), r"data: expected one of mnist, .*, got 'no-such'"),
    (lambda f: open_data(None), r"data: expected a string or a mapping, got None"),
    (lambda f: open_data(3), r"data: expected a string or a mapping, got 3"),
    (lambda f: open_data({}), r"data: expected exactly one of name, .*, got \[\]"),
    (lambda f: open_data({"folder": "a", "tar": "b"}), r"data: expected exactly one of name, .*, got \['folder', 'tar'\]"),
    (lambda f: open_data({"folder": 3}), r"data.folder: expected a name or path, got 3"),
    (lambda f: open_data({"folder": ""}), r"data.folder: expected a name or path, got ''"),
    (lambda f: open_data({"name": "no-such"}), r"name: expected one of 'mnist', .*, got 'no-such'"),
    (lambda f: open_data({"name": "mnist", "colour": 1}), r"data: expected options of 'mnist', .*, got \['colour'\]"),
    (lambda f: open_data({"folder": f / "good", "image": "x"}), r"data: expected no option beside 'folder', got \['image'\]"),
    (lambda f: open_data({"folder": f / "good", "train": 3}), r"data.train: expected the name of a split, got 3"),
    (lambda f: open_data({"folder": f / "good", "classes": "cat"}), r"data.classes: expected a list of names, got 'cat'"),
    (lambda f: open_data({"folder": f / "good", "classes": 3}), r"data.classes: expected a list of names, got 3"),
    (lambda f: open_data({"folder": f / "good", "views": 8}), r"data.views: expected arguments of Views, got 8"),
    (lambda f: open_data({"folder": f / "good", "views": {"size": 8}}), r"data.views: expected count, .*, got \['size'\]"),
    (lambda f: open_data({"folder": f / "good", "views": {}}), r"data.views: expected count, .*, got \[\]"),
    (lambda f: open_data("mnist", "dev"), r"split: expected .*'train'.*'test', got 'dev'"),
    (lambda f: open_data("mnist", "test", image_size=64), r"size: expected 32, .*, got 64"),
    (lambda f: open_data("mnist", "test", image_size=(32, 16)), r"image_size: expected a square, which mnist has, got \(32, 16\)"),
    (lambda f: open_data("mnist", "test", image_size=(4, 32, 32)), r"image_size: expected \(height, width\), which mnist has, got \(4, 32, 32\)"),
    (lambda f: open_data(f / "good", None, image_size=(1, 2, 3, 4)), r"size: expected \(height, width\) or .*, got \(1, 2, 3, 4\)"),
    (lambda f: open_data(f / "good", None, image_size=4), r"size: expected a whole number from 8 to 4096, got 4"),
    (lambda f: open_data(f / "good", None, image_size=32.0), r"size: expected \(height, width\) or .*, got 32.0"),
    (lambda f: open_data(f / "good", None, image_size="32"), r"size: expected \(height, width\) or .*, got '32'"),
    (lambda f: open_data(f / "good", "validation"), r"data: expected a folder '.*good/validation', got none"),
    (lambda f: open_data(f / "good", 3), r"split: expected .*, got 3"),
    (lambda f: open_data(f"folder:{f / 'none'}"), r"root: expected a folder of images, got '.*none'"),
    (lambda f: open_data(f"folder:{f / 'empty'}"), r"root: expected files that end in .png, .*, got none under .*empty"),
    (lambda f: open_data(f / "split", "test"), r"data: expected a folder '.*split/test', got train"),
    (lambda f: open_data(f / "csv"), r".*metadata.csv: line 2: expected a file beside the table, got 'b.png'"),
    (lambda f: open_data(f / "columns"), r".*metadata.csv: expected a column file_name .*, got \['picture', 'what'\]"),
    (lambda f: open_data(f / "json"), r".*metadata.jsonl: line 1: expected JSON, got"),
    (lambda f: open_data(f / "list"), r".*metadata.jsonl: line 1: expected an object, got '\[1\]'"),
    (lambda f: open_data(f / "number"), r".*metadata.jsonl: line 1: caption: expected text, got 3"),
    (lambda f: open_data(f / "latin"), r".*a.txt: expected text in UTF-8, got"),
    (lambda f: open_data(f / "broken", None)[0], r".*broken/a.png: expected an image, got what cannot be read as one"),
    (lambda f: open_data(f / "text", None)[0], r".*text/a.png: expected an image, got what cannot be read as one"),
    (lambda f: open_data(f / "nothing", None)[0], r".*nothing/a.png: expected an image, got what cannot be read as one"),
    (lambda f: ImageFolder(f / "good", 0), r"size: expected .*, got 0"),
    (lambda f: ImageFolder(None), r"root: expected a folder of images, got None"),
    (lambda f: TarShards(f / "none.tar"), r"shards: expected a file, got '.*none.tar', where there is none"),
    (lambda f: TarShards(str(f / "x-{0..3}.tar")), r"shards: expected a file, got '.*x-0.tar', where there is none"),
    (lambda f: TarShards(str(f / "*.zip")), r"shards: expected a file, got '.*zip', where there is none"),
    (lambda f: TarShards([]), r"shards: expected at least one image, got none in no shard"),
    (lambda f: TarShards(3), r"shards: expected .*, got 3"),
    (lambda f: TarShards(f / "garbage.tar"), r"shards: expected a tar archive, got .*garbage.tar, which is none or damaged"),
    (lambda f: TarShards(f / "empty.tar"), r"shards: expected .*, got .*empty.tar"),
    (lambda f: TarShards(f / "cut.tar"), r"shards: expected .*, got .*cut.tar"),
    (lambda f: TarShards(f / "garbage.tar.gz"), r"shards: expected an archive that is whole, got .*garbage.tar.gz, which is damaged"),
    (lambda f: TarShards(f / "texts.tar"), r"shards: expected at least one image, got none in .*texts.tar"),
    (lambda f: TarShards(f / "class.tar"), r"shards: .*class.tar: a.cls: expected the number of a class, got b'cat'"),
    (lambda f: TarShards(f / "latin.tar"), r"shards: .*latin.tar: a.txt: expected text in UTF-8, got b'caf"),
    (lambda f: TarShards(f / "broken.tar")[0], r".*broken.tar: a: expected an image, got what cannot be read as one"),
    (lambda f: CIFAR10(f / "none"), r"path: expected cifar-10-python.tar.gz or its folder .*, got '.*none' without"),
    (lambda f: CIFAR10(f / "good"), r"path: expected cifar-10-python.tar.gz or its folder .*, got '.*good' without"),
    (lambda f: CIFAR10(f / "cifar.tar.gz"), r"path: expected a tar archive, got .*cifar.tar.gz, which is none or damaged"),
    (lambda f: CIFAR10(f / "none", "dev"), r"split: expected one of 'train', 'test', got 'dev'"),
    (lambda f: CIFAR10(f / "none", size=(4, 32, 32)), r"size: expected \(height, width\), .*, got \(4, 32, 32\)"),
    (lambda f: HuggingFaceImages(iter([])), r"rows: expected a data set with a length, got list_iterator"),
    (lambda f: HuggingFaceImages([1]), r"rows: expected a data set with columns, got list"),
    (lambda f: HuggingFaceImages(Rows(), image="picture"), r"image: expected one of the columns \['image', 'label'\], got 'picture'"),
    (lambda f: HuggingFaceImages(Rows(), caption="text"), r"caption: expected one of the columns .*, got 'text'"),
    (lambda f: HuggingFaceImages(Rows())[0], r"row 0: expected an image, got what cannot be read as one"),
    (lambda f: data.load("no-such"), r"name: expected one of 'mnist', .*, got 'no-such'"),
    (lambda f: data.load(["mnist"]), r"name: expected one of 'mnist', .*, got \['mnist'\]"),
    (lambda f: data.register("name"), r"kind: expected a new name, got 'name'"),
    (lambda f: data.register(3), r"kind: expected a new name, got 3"),
    (lambda f: MNISTDigits("dev"), r"split: expected 'train' or 'test', got 'dev'"),
    (lambda f: MNISTDigits("test", 28), r"size: expected 32, .*, got 28"),
    (lambda f: MovingMNIST("dev"), r"split: expected one of 'train', 'test', got 'dev'"),
    (lambda f: MovingMNIST(size=20), r"size: expected a whole number from 28.*, got 20"),
    (lambda f: MovingMNIST(frames=0), r"frames: expected a whole number from 1, got 0"),
    (lambda f: MovingMNIST(digits="2"), r"digits: expected a whole number from 1, got '2'"),
    (lambda f: MovingMNIST(count=1.5), r"count: expected a whole number from 1, got 1.5"),
    (lambda f: Emoji("test"), r"split: expected one of 'train', .*, got 'test'"),
    (lambda f: Emoji("train", 4), r"size: expected a whole number from 8 to 1024, got 4"),
    (lambda f: Emoji("train", True), r"size: expected a whole number from 8 to 1024, got True"),
    (lambda f: Emoji("train", 64, held_out_vendor="apple"), r"held_out_vendor: expected one of 'noto', .*, got 'apple'"),
    (lambda f: Views([torch.zeros(3, 8, 8)], 0), r"count: expected a whole number from 1, got 0"),
    (lambda f: Views([torch.zeros(3, 8, 8)], 2, shift=-1), r"shift: expected a whole number from 0, got -1"),
    (lambda f: Views([torch.zeros(3, 8, 8)], 2, mirror=1), r"mirror: expected true or false, got 1"),
    (lambda f: assets.path("no-such"), r"name: expected one of .*, got 'no-such'"),
    (lambda f: assets.fetch(["smollm2"]), r"name: expected one of .*, got \['smollm2'\]"),
]  # fmt: skip

TRAINING = [
    (lambda f: TrainConfig(0, 1, "x"), r"train.steps: expected a whole number from 1, got 0"),
    (lambda f: TrainConfig(1.5, 1, "x"), r"train.steps: expected a whole number from 1, got 1.5"),
    (lambda f: TrainConfig("5", 1, "x"), r"train.steps: expected a whole number from 1, got '5'"),
    (lambda f: TrainConfig(1, 0, "x"), r"train.batch_size: expected a whole number from 1, got 0"),
    (lambda f: TrainConfig(1, 1, "x", learning_rate=-1e-4), r"train.learning_rate: expected a number above 0, got -0.0001"),
    (lambda f: TrainConfig(1, 1, "x", clip_norm=-1), r"train.clip_norm: expected a number above 0 or null, got -1"),
    (lambda f: TrainConfig(1, 1, "x", betas=(0.9,)), r"train.betas: expected .*, got \(0.9,\)"),
    (lambda f: TrainConfig(1, 1, "x", schedule="step"), r"train.schedule: expected one of 'inverse_sqrt', 'cosine', 'constant', got 'step'"),
    (lambda f: TrainConfig(1, 1, "x", ema_decay=1), r"train.ema_decay: expected a number from 0 to below 1 or null, got 1"),
    (lambda f: TrainConfig(1, 1, "x", mixed_precision="fp8"), r"train.mixed_precision: expected one of 'no', 'bf16', 'fp16', got 'fp8'"),
    (lambda f: TrainConfig(1, 1, "x", seed=-1), r"train.seed: expected a whole number from 0 .*, got -1"),
    (lambda f: TrainConfig(1, 1, "x", progress="no"), r"train.progress: expected true or false, got 'no'"),
    (lambda f: TrainConfig.from_dict({"epochs": 3}), r"train: expected no fields but steps, .*, got \['epochs'\]"),
    (lambda f: schedule_factor(0, steps=1, schedule="step"), r"schedule: expected one of inverse_sqrt, cosine, constant, got 'step'"),
    (lambda f: load_preset("no-such"), r"preset: expected one of \[.*\] or a JSON file, got 'no-such'"),
    (lambda f: load_preset(f / "none.json"), r"preset: expected one of .* or a JSON file, got '.*none.json'"),
    (lambda f: load_preset(f / "preset.json"), r"preset: expected JSON in .*preset.json, got what is none"),
    (lambda f: load_preset(f / "bytes.json"), r"preset: expected JSON in .*bytes.json, got what is none"),
    (lambda f: load_preset(f / "list.json"), r"preset: expected an object of sections in .*list.json, got \[\]"),
    (lambda f: load_preset("mnist", ["train.steps"]), r"override: expected section.name=value, got 'train.steps'"),
    (lambda f: load_preset("mnist", ["steps=3"]), r"override: expected section.name=value, got 'steps=3'"),
    (lambda f: load_preset("mnist", ["trian.steps=3"]), r"override: expected a section of data, .*, got 'trian'"),
    (lambda f: load_preset("mnist", ["quantizer.=3"]), r"override: expected a section of data, .*, got 'quantizer'"),
    (lambda f: load_preset("mnist", ["train.steps=abc"]), r"train.steps: expected a whole number from 1, got 'abc'"),
    (lambda f: load_preset("mnist", ["train.output_dir=x"]), r"train.output_dir: expected none in a preset, .*, got 'x'"),
    (lambda f: load_preset("mnist", ["model.channels=0"]), r"model.channels: expected a whole number from 1, got 0"),
    (lambda f: load_preset("mnist", ["model.image_size=[33, 33]"]), r"model: image_size: expected sizes divisible by .*, got \(33, 33\)"),
    (lambda f: load_preset("mnist", ["model.grids=[1, 2, 4, 3]"]), r"model: grids\[3\]: expected a grid that divides .*, got \(3, 3\)"),
    (lambda f: load_preset("mnist", ["codebook.words=3"]), r"codebook.words: expected text or .*, got 3"),
    (lambda f: load_preset("mnist", ["tokenizer=vae"]), r"preset.tokenizer: expected one of 'spae', 'vqgan', 'rq', 'lqae', 'v2l', got 'vae'"),
    (lambda f: Preset.from_dict({"data": "mnist"}), r"preset: expected model, train too, got \['data'\]"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "said"), [*DATA, *TRAINING])
def test_refused(call, said, files, refused, tmp_path, monkeypatch):
    monkeypatch.setenv("SPAE_OFFLINE", "1")
    refused(lambda: call(files), (ValueError, TypeError, FileNotFoundError), said)
