"""Recordings to words and back to WAV files; what is measured of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.cli import main
from spae.data.sound import SoundProcessor, read_wav, write_wav

pytest.importorskip("matplotlib", reason="needs the package matplotlib")


def say(path: Path, digit: int, take: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = torch.arange(2000) / 8000
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(take))
    write_wav(0.5 * torch.sin(2 * math.pi * 350 * (digit + 1) * time) + 0.01 * noise, path, 8000)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A tiny model of sound in a folder; the current folder is empty."""
    torch.manual_seed(0)
    book = Codebook.from_arrays([f" w{i}" for i in range(40)], torch.randn(40, 6))
    book.save(tmp_path / "book")
    book = Codebook.load(tmp_path / "book")
    sizes = {"channels": 4, "multipliers": (1, 1, 1), "num_res_blocks": 1, "in_channels": 1}
    model = SPAE(SPAEConfig((16, 16), (1, 2, 4), **sizes), book).eval()
    model.processor = SoundProcessor((16, 16))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return str(tmp_path / "model")


def test_wav_to_words_to_wav(toy, capsys):
    for digit in range(3):
        say(Path(f"in/{digit}.wav"), digit, 0)
    Path("in/cover.png").write_bytes(b"not looked at")
    assert main(["encode", "in", "--model", toy, "--out", "t.json"]) == 0
    document = json.loads(Path("t.json").read_text())
    assert [row["name"] for row in document["images"]] == [f"in/{digit}.wav" for digit in range(3)]
    model = SPAE.from_pretrained(toy)
    assert model.processor == SoundProcessor((16, 16))
    ids = model.encode(model.preprocess([f"in/{digit}.wav" for digit in range(3)])).ids
    assert [row["ids"] for row in document["images"]] == ids.tolist()
    assert main(["decode", "t.json", "--model", toy, "--out", "out", "--layers", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"out/in/{digit}.decoded.wav" for digit in range(3)]
    samples, rate = read_wav("out/in/1.decoded.wav")
    assert (rate, len(samples)) == (8000, 16 * 160)
    images = model.decode(model.tokens([row["words"][:2] for row in document["images"]])).detach()
    assert np.abs(samples - model.postprocess(images)[1].numpy()).max() < 1e-4


def test_a_bad_recording_is_named_and_skipped(toy, capsys):
    say(Path("good.wav"), 1, 0)
    Path("bad.wav").write_bytes(b"RIFF")
    assert main(["encode", "good.wav", "bad.wav", "--model", toy, "--out", "t.json"]) == 1
    assert "skipped bad.wav: bad.wav: expected a WAV file of PCM" in capsys.readouterr().err
    Path("empty").mkdir()
    assert main(["encode", "empty", "--model", toy]) == 1
    assert "images: expected files that end in .wav, got none in empty" in capsys.readouterr().err


def test_the_demo_writes_its_examples_as_sound(toy, monkeypatch, capsys):
    monkeypatch.setattr("spae.demo.check", lambda count: None)
    assert main(["demo", "--model", toy]) == 1
    assert "model: expected examples.json beside a model of sound" in capsys.readouterr().err
    for digit in range(3):
        say(Path(f"{digit}.wav"), digit, 0)
    assert main(["encode", "0.wav", "1.wav", "2.wav", "--model", toy, "--out", f"{toy}/examples.json"]) == 0
    assert main(["demo", "--model", toy, "--images", "2", "--out", "demo/page.png"]) == 0
    names = [f"page-{digit}-{layers}.wav" for digit in range(2) for layers in (1, 2, 3)]
    assert sorted(path.name for path in Path("demo").iterdir()) == sorted([*names, "page.png"])
    assert "1 in words, layer by layer" in capsys.readouterr().out


def test_spoken_digits_are_measured(toy, capsys):
    pytest.importorskip("sklearn", reason="needs the package scikit-learn")
    for digit in (0, 3, 9):
        for take in range(8):
            say(Path(f"digits/{digit}_ann_{take}.wav"), digit, take)
    command = ["eval", "sound", "--model", toy, "--data", "spoken-digits:digits", "--out", "o"]
    assert main([*command, "--json"]) == 0
    report = json.loads(Path("o/sound.json").read_text())
    assert report == json.loads(capsys.readouterr().out)
    assert report["images"] == 15
    assert report["originals"]["accuracy"] == 1
    best = report["resynthesis"]
    assert best["decibels"] == best["log_spectral_distance"] == best["multi_resolution_stft"] == 0
    assert best["accuracy"] == best["accuracy_of_sound"] == 1
    for row in report["layers"]:  # an untrained model says nothing of what it heard
        assert row["decibels"] > 10
        assert row["log_spectral_distance"] > 3
        assert row["multi_resolution_stft"] > 1
        assert row["accuracy"] < 0.7
    assert best["decibels_of_sound"] < min(row["decibels_of_sound"] for row in report["layers"])
    lines = Path("o/sound.md").read_text().splitlines()
    assert lines[0].endswith("| read right | heard right |")
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| 1", "| 2", "| 3", "| resynthesis"]
