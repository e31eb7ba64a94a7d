"""`spae train --data`: every preset on data of one's own, and every kind of tokenizer from the command line."""

from __future__ import annotations

import json
import os
import wave

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae import Codebook, load
from spae.cli import main
from spae.training.presets import load_preset, preset_names

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")


def save_image(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(number).randint(0, 256, (8, 9, 3), np.uint8)
    Image.fromarray(pixels).resize((36, 40), Image.Resampling.BICUBIC).save(path)


def save_sound(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 8000 * np.sin(2 * np.pi * (200 + 40 * number) * np.arange(4000) / 8000)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(tone.astype("<i2").tobytes())


def own(name, folder):
    """What --data says of 60 items of one's own, none of which is in a split."""
    size = load_preset(name).model["image_size"]
    for number in range(60):
        kind, item = ("bird", "fish")[number % 2], f"{number:02}"
        if len(size) == 3:
            clip = folder / kind / item
            save_image(clip / "0.png", number)
            for frame in range(1, size[0]):
                os.link(clip / "0.png", clip / f"{frame}.png")
        elif name == "spoken-digits":
            save_sound(folder / kind / f"{item}.wav", number)
        else:
            save_image(folder / kind / f"{item}.png", number)
    return (
        f"frames:{folder}" if len(size) == 3 else f"wav:{folder}" if name == "spoken-digits" else str(folder)
    )


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_splits_what_has_no_splits(name, tmp_path):
    preset = load_preset(name, [f"data={json.dumps(own(name, tmp_path / 'own'))}"])
    size = tuple(preset.model["image_size"])
    parts = {split: preset.dataset(split, size) for split in ("train", "dev", "test")}
    keys = {split: [part[i].key for i in range(len(part))] for split, part in parts.items()}
    assert len({key for part in keys.values() for key in part}) == sum(map(len, keys.values())) == 60
    assert len(keys["train"]) > 30 > min(map(len, keys.values())) > 0
    again = preset.dataset("train", size)
    assert [again[i].key for i in range(len(again))] == keys["train"]
    item = parts["train"][0]
    assert item.image.shape[1:] == size
    assert item.caption in ("bird", "fish")
    assert -1 <= item.image.min() < item.image.max() <= 1


@pytest.fixture
def sources(tmp_path):
    """A codebook and a BERT, both tiny."""
    transformers = pytest.importorskip("transformers", reason="BERT comes with transformers")
    torch.manual_seed(0)
    Codebook.from_arrays([f" w{i}" for i in range(60)], torch.randn(60, 8)).save(tmp_path / "book")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "bert")
    names = ["[PAD]", "[MASK]", *(f"##w{i}" for i in range(2, 40))]
    (tmp_path / "bert/vocab.txt").write_text("\n".join(names) + "\n")
    return {"source": str(tmp_path / "book")}, {"folder": str(tmp_path / "bert")}


LEARNED = {"codebook_size": 30, "codebook_dim": 8, "latent_norm": "none"}


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("SPAE", {"grids": [1, 2, 4]}),
        ("SPAE", {"grids": [4, 4], "rule": "rq"}),
        ("LQAE", {"grids": [4]}),
        ("VQGAN", {"grids": [4], **LEARNED}),
        ("VQGAN", {"grids": [4, 4], "rule": "rq", **LEARNED}),
    ],
    ids=["spae", "spae-rq", "lqae", "vqgan", "rq-vae"],
)
def test_every_tokenizer_trains_from_the_command_line(kind, model, sources, tmp_path, capsys):
    data = own("mnist", tmp_path / "own")
    small = {"image_size": [32, 32], "channels": 4, "multipliers": [1, 1, 1, 1], "num_res_blocks": 1}
    settings = {
        "tokenizer": kind.lower(),
        "codebook": {"SPAE": sources[0], "LQAE": sources[1]}.get(kind, {}),
        "model": small | model,
        "objective": None,
        "train": {"steps": 2, "batch_size": 4, "log_every": 1, "eval_every": 2, "progress": False},
    }
    command = ["train", "--preset", "mnist", "--data", data, "--out", str(tmp_path / "run")]
    for name, value in settings.items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    assert main(command) == 0
    assert "trained" in capsys.readouterr().out
    trained = load(tmp_path / "run/model")
    assert type(trained).__name__ == kind
    assert trained.config.rule == model.get("rule", "saq")
    assert trained.words(trained.encode(torch.zeros(1, 3, 32, 32)))
