"""A researcher with images and captions of their own: training with guidance, evaluation, a language model."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import spae.scorers
from spae import load
from spae.cli import main
from spae.codebook import Codebook
from spae.data import open_data
from spae.eval.reconstruction import evaluate_reconstruction
from spae.incontext import Example, Lexicon, Options, Task, Template, decode
from spae.incontext.tasks.classification import classification_task, classify
from spae.scorers import CaptionScorer
from spae.training import read_log

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 200)}


class SpellingScorer(CaptionScorer):
    """Captions and words by the letters that they hold: no network, and no download."""

    def __init__(self):
        letters = "abcdefghijklmnopqrstuvwxyz"

        def encoder(texts):
            return torch.tensor([[text.lower().count(a) for a in letters] for text in texts]).float() + 0.01

        super().__init__(encoder, name="spelling", checksum="0" * 64)


@pytest.fixture
def dataset(here):
    """60 images of three colours with captions in a table; no split is made by hand."""
    rng = np.random.default_rng(0)
    (here / "data").mkdir()
    rows = []
    for number in range(60):
        name, colour = list(COLOURS.items())[number % 3]
        noise = rng.integers(-30, 30, (8, 8, 3)) + np.array(colour)
        image = Image.fromarray(noise.clip(0, 255).astype(np.uint8)).resize(
            (40, 36), Image.Resampling.BICUBIC
        )
        image.save(here / f"data/{number}.png")
        rows.append({"file_name": f"{number}.png", "caption": f"a {name} patch"})
    (here / "data/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return here / "data"


@pytest.fixture
def words(here):
    """A saved codebook of words of a tiny language model's vocabulary, and that model."""
    pytest.importorskip("transformers")
    from spae.testing.tiny_llm import tiny_llm

    llm = tiny_llm()
    read = {token: llm.decode([token]) for token in range(257, 400)}
    own = {token: word for token, word in read.items() if re.fullmatch(" [a-z]+", word)}
    torch.manual_seed(0)
    Codebook.from_arrays(list(own.values()), torch.randn(len(own), 8), list(own), name="tiny").save(
        here / "words"
    )
    return llm


def test_train_evaluate_and_ask(dataset, words, here, monkeypatch, capsys):
    pytest.importorskip("accelerate")
    monkeypatch.setenv("SPAE_CACHE", str(here / "cache"))
    monkeypatch.setattr(spae.scorers, "CaptionScorer", SpellingScorer)
    settings = {
        "codebook": {"source": str(here / "words")},
        "model": {"image_size": [32, 32], "grids": [1, 2, 4], "channels": 8, "num_res_blocks": 1},
        "objective.semantic": {"scorer": "caption", "thresholds": [0.9, 0.8], "temperature": 0.1},
        "train": {"steps": 6, "batch_size": 6, "learning_rate": 1e-3, "log_every": 1, "eval_every": 6},
    }
    command = ["train", "--preset", "mnist-semantic", "--data", str(dataset), "--out", "run"]
    for name, value in settings.items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    assert main(command) == 0
    assert "run/model: trained" in capsys.readouterr().out
    records = [record for record in read_log(here / "run/log.jsonl") if "loss/semantic" in record]
    assert len(records) == 6
    assert all(np.isfinite(record["loss"]) and record["loss/semantic"] > 0 for record in records)

    model = load("run/model")
    parts = {split: open_data(str(dataset), split, image_size=32) for split in ("train", "dev", "test")}
    train, _, test = items = [[part[i] for i in range(len(part))] for part in parts.values()]
    assert sorted(int(item.key.removesuffix(".png")) for part in items for item in part) == list(range(60))
    report = evaluate_reconstruction(model, torch.stack([item.image for item in test]))
    assert [row["layer"] for row in report["layers"]] == [1, 2, 3]
    assert all(np.isfinite(row["psnr"]) for row in report["layers"])

    lexicon = Lexicon(model.codebook, model.pyramid, words)
    names = sorted({item.caption for item in train})
    assert names == [f"a {name} patch" for name in ("blue", "green", "red")]
    shown = [next(item for item in train if item.caption == name) for name in names]
    tokens = model.encode(torch.stack([item.image for item in (*shown, test[0])]))
    ids = lexicon.llm_ids(tokens.upto(2))
    verdict = classify(
        words, classification_task(list(zip(ids, range(3), strict=False)), names), names, ids[3]
    )
    assert len(verdict.scores) == 3
    assert verdict.ranked in range(3)

    examples = tuple(Example(f"{item.caption}:", ids[i]) for i, item in enumerate(shown))
    drawn = decode(
        words,
        Task(Template(before="", between="", after="\n"), examples),
        [Example("a red patch:")],
        lexicon,
        options=Options(num_layers=2, progress=False),
    )
    assert drawn.num_layers == 2
    assert model.decode(drawn).shape == (1, 3, 32, 32)


def test_guidance_without_captions_is_refused(dataset, words, here, monkeypatch, capsys):
    pytest.importorskip("accelerate")
    monkeypatch.setenv("SPAE_CACHE", str(here / "cache"))
    monkeypatch.setattr(spae.scorers, "CaptionScorer", SpellingScorer)
    (dataset / "metadata.jsonl").unlink()
    command = ["train", "--preset", "mnist-semantic", "--data", str(dataset), "--out", "run"]
    command += ["--set", f'codebook={{"source": "{here / "words"}"}}']
    assert main(command) == 1
    assert "caption" in capsys.readouterr().err
    assert not (here / "run/model").exists()
