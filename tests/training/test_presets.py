import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae import SPAE, Codebook, SPAEConfig
from spae.cli import main
from spae.data.mnist import WORDS
from spae.losses import ObjectiveConfig
from spae.models import FrameDiscriminator, PatchDiscriminator, ResidualDiscriminator
from spae.training import TrainConfig, read_log
from spae.training.presets import Preset, load_preset, preset_names
from spae.training.run import train
from spae_ops import Pyramid


def test_mnist_names_its_digits_in_the_first_word():
    assert "mnist" in preset_names()
    preset = load_preset("mnist")
    assert preset.codebook["words"]["names"] == list(WORDS)
    assert preset.codebook["words"]["count"] == 128
    assert preset.model["vocabularies"] == ["names", "others", "others", "others"]
    assert preset.objective["semantic"]["thresholds"] == [1.0], "the digit's own name and no other word"


def test_a_preset_s_layers_take_the_words_that_it_chose(tmp_path):
    vectors = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    book = Codebook.from_arrays([f" {c * 4}" for c in "abcdefghijkl"], vectors, name="toy")
    book.save(tmp_path / "book")
    values = {
        "data": "mnist",
        "codebook": {
            "source": str(tmp_path / "book"),
            "words": {"count": 5, "names": ["cccc", "aaaa"]},
            "normalise": "centre+scale",
        },
        "model": {
            "image_size": [16, 16],
            "grids": [1, 2, 4],
            "channels": 4,
            "multipliers": [1, 1, 1],
            "vocabularies": ["names", "others", "all"],
        },
        "train": {"steps": 1, "batch_size": 1},
    }
    model = Preset.from_dict(values).build()
    words = [[model.codebook.words[row] for row in mask.nonzero()[:, 0]] for mask in model.word_masks]
    assert words[0] == [" cccc", " aaaa"]
    assert len(words[1]) == 3
    assert not set(words[0]) & set(words[1])
    assert words[2] == model.codebook.words
    values["model"]["vocabularies"][1] = "rest"
    with pytest.raises(ValueError, match=r"model.vocabularies: expected 'all' or .* got 'rest'"):
        Preset.from_dict(values)
    values["model"]["vocabularies"] = ["names", "all", "all"]
    values["codebook"]["words"] = "word-like"
    with pytest.raises(ValueError, match=r"model.vocabularies: expected 'all' or .* got 'names'"):
        Preset.from_dict(values)


def test_overrides():
    preset = load_preset("mnist", ["model.rule=rq", "train.steps=5", "train.loss_weights.commitment=1"])
    assert preset.model["rule"] == "rq"
    assert preset.train["steps"] == 5
    assert preset.train["loss_weights"]["commitment"] == 1
    for bad, message in [
        ("rule=rq", "section.name=value"),
        ("nothing.x=1", "expected a section of .*, got 'nothing'"),
        ("x", "section.name"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_preset("mnist", [bad])
    with pytest.raises(ValueError, match="preset: expected one of"):
        load_preset("imaginary")
    preset = load_preset(
        "mnist",
        [
            "quantizer.rule=rq",
            "quantizer.grids=[4,4]",
            "quantizer.vocabularies=null",
            "model.word_noise=null",
            "data.split_seed=1",
        ],
    )
    assert preset.model["rule"] == "rq"
    assert preset.model["grids"] == [4, 4]
    assert preset.data == {"name": "mnist", "split_seed": 1}
    preset = load_preset(
        "mnist", ["objective={}", "objective.discriminator.kind=patch", "objective.gan=non_saturating"]
    )
    assert preset.objective == {"discriminator": {"kind": "patch"}, "gan": "non_saturating"}
    assert load_preset("emoji128", ["objective.perceptual=null"]).objective["perceptual"] is None
    with pytest.raises(ValueError, match=r"override: expected a section of .*, got 'quantizer'"):
        load_preset("mnist", ["quantizer.colour=red"])


@pytest.mark.parametrize("name", ["imagenet128", "imagenet256", "emoji128"])
def test_the_paper_s_settings(name):
    preset = load_preset(name)
    config = SPAEConfig.from_dict(preset.model)
    assert config.pyramid == Pyramid.square(16, (1, 2, 4, 8, 16, 16))
    goal = {k: v for k, v in preset.objective.items() if k not in ("perceptual", "discriminator", "semantic")}
    assert ObjectiveConfig.from_dict(goal) == ObjectiveConfig()
    train = TrainConfig.from_dict({**preset.train, "output_dir": "x"})
    assert (train.schedule, train.learning_rate) == ("inverse_sqrt", 1e-4)
    if name.startswith("imagenet"):
        assert (train.steps, train.batch_size) == (450_000, 256)


def toy_book(folder):
    vectors = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    Codebook.from_arrays([f" w{i}" for i in range(300)], vectors).save(folder / "book")


def save_images(folder, count, label="x"):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    (folder / label).mkdir(parents=True)
    for number in range(count):
        pixels = np.random.RandomState(number).randint(0, 256, (40, 36, 3), np.uint8)
        image.fromarray(pixels).save(folder / label / f"{number:02d}.png")


@pytest.mark.parametrize("name", ["imagenet128", "imagenet256", "emoji128"])
def test_the_paper_s_settings_run_when_small(name, tmp_path):
    """Every part of the recipe for one step, LPIPS and a set to fetch aside."""
    toy_book(tmp_path)
    save_images(tmp_path / "images/train", 4)
    save_images(tmp_path / "images/val", 4)
    data = json.dumps({"folder": str(tmp_path / "images"), "train": "train", "test": "val"})
    factor = 16 if name == "imagenet256" else 8
    overrides = [
        f"data={data}",
        f"codebook={json.dumps({'source': str(tmp_path / 'book')})}",
        f"model.image_size={[4 * factor] * 2}",
        "model.grids=[1,2,4,4]",
        "model.channels=4",
        "model.num_res_blocks=1",
        "objective.perceptual=null",
        "objective.semantic=null",
        "objective.discriminator.channels=4",
        *("train.steps=1", "train.batch_size=2", "train.mixed_precision=no", "train.num_workers=0"),
        "train.progress=false",
    ]
    assert train(load_preset(name, overrides), tmp_path / "run")
    (record,) = read_log(tmp_path / "run/log.jsonl")
    assert {"loss/generator", "discriminator/hinge", "eval/psnr_4_layers"} <= record.keys()
    assert (tmp_path / "run/progress/step-00000001.png").stat().st_size > 5000
    assert load_preset(tmp_path / "run/preset.json").objective["lambda_"] == 0.1


def test_parts_of_an_objective_by_name():
    model = SimpleNamespace(config=SPAEConfig(image_size=(32, 32), grids=(1, 4)))
    plain = ["objective.perceptual=null", "objective.semantic=null"]

    def build(name, overrides):
        objective, data = load_preset(name, overrides).build_objective(model, "data")
        assert data == "data"
        return objective

    goal = build("emoji128", [*plain, "objective.discriminator.kind=patch"])
    assert isinstance(goal.discriminator, PatchDiscriminator)
    assert goal.perceptual is None
    assert isinstance(build("emoji128", plain).discriminator, ResidualDiscriminator)
    assert build("mnist", ["objective=null"]) is None
    for override, message in [
        (
            "objective.discriminator.kind=dense",
            "discriminator.kind: expected 'patch' or 'residual', got 'dense'",
        ),
        (
            "objective.perceptual=vgg",
            "objective.perceptual: expected one of 'lite0', 'lpips-vgg', .* got 'vgg'",
        ),
        ("objective.weight=2", r"objective: expected no fields but .*, got \['weight'\]"),
        (
            "objective.discriminator.colour=2",
            r"objective.discriminator: expected no fields but .*, got \['colour'\]",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            build("emoji128", [*plain, override])
    with pytest.raises(ValueError, match=r"train: expected no fields but .*, got \['epochs'\]"):
        TrainConfig.from_dict({"epochs": 3})


@pytest.mark.parametrize("entries", [{"kind": "patch"}, {"kind": "residual", "per_frame": True}])
def test_clips_are_judged_whole_or_frame_by_frame(entries, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow (the extra data)")
    toy_book(tmp_path)
    for clip in range(8):
        folder = tmp_path / "clips" / ("train" if clip % 2 else "test")
        folder.mkdir(parents=True, exist_ok=True)
        frames = [image.new("RGB", (32, 32), (30 * clip, 40 * time, 0)) for time in range(5)]
        frames[0].save(folder / f"clip{clip}.gif", save_all=True, append_images=frames[1:])
    overrides = [
        f"data={json.dumps({'folder': str(tmp_path / 'clips')})}",
        f"codebook={json.dumps({'source': str(tmp_path / 'book')})}",
        "model.image_size=[5,32,32]",
        "model.grids=[[1,1,1],[2,1,1],[2,4,4]]",
        *("model.vocabularies=null", "model.channels=4", "objective.semantic=null"),
        f"objective.discriminator={json.dumps({'channels': 4, **entries})}",
        *("train.steps=1", "train.batch_size=2", "train.num_workers=0", "train.progress=false"),
    ]
    preset = load_preset("moving-mnist", overrides)
    goal, _ = preset.build_objective(SimpleNamespace(config=SPAEConfig.from_dict(preset.model)), "data")
    assert isinstance(goal.discriminator, FrameDiscriminator if len(entries) == 2 else PatchDiscriminator)
    assert train(preset, tmp_path / "run")
    (record,) = read_log(tmp_path / "run/log.jsonl")
    assert {"loss/generator", "discriminator/hinge", "eval/psnr_3_layers"} <= record.keys()
    model = SimpleNamespace(config=SPAEConfig(image_size=(32, 32), grids=(1, 4)))
    parts = ["objective.perceptual=null", "objective.semantic=null", "objective.discriminator.per_frame=true"]
    of_images = load_preset("emoji128", parts)
    with pytest.raises(ValueError, match=r"discriminator.per_frame: expected false for a model of images"):
        of_images.build_objective(model, "data")


def test_train_command_from_preset_to_model(tmp_path, capsys):
    """Images in, a saved tokenizer out; and the same command on a finished run changes nothing."""
    toy_book(tmp_path)
    preset = {
        "data": "mnist",
        "codebook": {"source": str(tmp_path / "book"), "normalise": "centre"},
        "model": {"image_size": [32, 32], "grids": [1, 2, 4], "channels": 4, "multipliers": [1, 1, 1, 1]},
        "train": {"steps": 4, "batch_size": 8, "log_every": 1, "eval_every": 2, "progress": False},
    }
    (tmp_path / "toy.json").write_text(json.dumps(preset))
    command = ["train", "--preset", str(tmp_path / "toy.json"), "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert "trained" in capsys.readouterr().out
    log = read_log(tmp_path / "run/log.jsonl")
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    assert "eval/psnr_3_layers" in log[1]
    book = Codebook.load(tmp_path / "book", normalise="centre")
    model = SPAE.from_pretrained(tmp_path / "run/model", codebook=book)
    assert model.encode(torch.zeros(1, 3, 32, 32)).ids.shape == (1, 21)
    weights = (tmp_path / "run/model/model.safetensors").read_bytes()
    assert main(command) == 0
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == weights
