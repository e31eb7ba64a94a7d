import json

import pytest
import torch

from spae import SPAE, Codebook
from spae.cli import main
from spae.training import read_log
from spae.training.presets import load_preset, presets


def test_mnist_is_the_whole_vocabulary_without_semantics():
    assert "mnist" in presets()
    preset = load_preset("mnist")
    assert preset.codebook == {"source": "smollm2", "normalise": "centre"}
    assert set(preset.train["loss_weights"]) == {"reconstruction", "commitment"}


def test_overrides():
    preset = load_preset("mnist", ["model.rule=rq", "train.steps=5", "train.loss_weights.commitment=1"])
    assert preset.model["rule"] == "rq"
    assert preset.train["steps"] == 5
    assert preset.train["loss_weights"]["commitment"] == 1
    for bad, message in [
        ("rule=rq", "section.name=value"),
        ("nothing.x=1", "no section 'nothing'"),
        ("x", "section.name"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_preset("mnist", [bad])
    with pytest.raises(ValueError, match="preset: expected one of"):
        load_preset("imaginary")


def test_train_command_from_preset_to_model(tmp_path, capsys):
    """Images in, a saved tokenizer out; and the same command on a finished run changes nothing."""
    vectors = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    Codebook.from_arrays([f" w{i}" for i in range(300)], vectors).save(tmp_path / "book")
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
