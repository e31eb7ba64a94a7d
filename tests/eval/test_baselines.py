"""Other tokenizers are trained and measured as a SPAE is, on one page."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae import LQAE, RQ, SPAE, VQGAN, Codebook, V2LTokenizer
from spae.cli import main
from spae.eval import baselines as run
from spae.eval.baselines import Baselines
from spae.models.global_features import GlobalFeatures
from spae.tokenizers.v2l_words import V2LWords
from spae.training.baselines import baselines
from spae.training.presets import load_preset

LOCAL = {"v2l-local": "projected", "v2l-local-text": "text", "v2l-local-llm": "llm"}
NAMES = ["vqgan", "rq", "lqae", "spae-flat", *LOCAL, "spae", "v2l"]
CLASSES = [VQGAN, RQ, LQAE, SPAE, *[V2LTokenizer] * 3, SPAE, V2LTokenizer]


@pytest.fixture
def recipe(tmp_path, picture_folder, monkeypatch):
    """A SPAE for 16 x 16 pictures with 4 x 4 latents, and the toy words of an LQAE."""
    folder = picture_folder(16)
    vectors = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    book = Codebook.from_arrays([f" w{i}" for i in range(30)], vectors, name="toy")
    book.save(tmp_path / "book")
    content = {
        "data": {"folder": str(folder)},
        "codebook": {"source": str(tmp_path / "book")},
        "model": {
            "image_size": [16, 16],
            "grids": [1, 2, 4],
            "channels": 4,
            "multipliers": [1, 1, 1],
            "num_res_blocks": 1,
        },
        "objective": {},
        "train": {"steps": 1, "batch_size": 2, "progress": False},
    }
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(content))
    of_bert = book.normalised("unit")
    monkeypatch.setattr("spae.training.presets.bert_codebook", lambda folder=None: of_bert)
    monkeypatch.setattr("spae.training.log.plot_log", lambda *_: None)
    monkeypatch.setattr("spae.training.run._Progress._page", lambda *_: None)
    return path


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Words of V2L, and a language model's table of them."""
    table = Codebook.from_arrays([f" v{i}" for i in range(20)], torch.rand(20, 7) - 0.5, name="llm")
    monkeypatch.setattr("spae.tokenizers.v2l._llm_table", lambda *_: table)
    vectors = torch.randn(20, 12, generator=torch.Generator().manual_seed(1))
    book = Codebook.from_arrays([f" v{i}" for i in range(20)], vectors, name="toy")
    rows = {"global": list(range(10)), "local": list(range(5, 20))}
    encoder = GlobalFeatures("conse", 12, {"classes": torch.randn(1000, 12)})
    V2LWords(book, rows, encoder).save(tmp_path / "words")
    return tmp_path / "words"


def test_all_rows_of_one_budget(recipe, words):
    presets = Baselines(str(recipe), recipe.parent / "out", words=words).presets()
    assert list(presets) == NAMES
    models = {row: preset.build() for row, preset in presets.items()}
    assert [type(model) for model in models.values()] == CLASSES
    tokens = {row: model.pyramid.num_tokens for row, model in models.items()}
    assert tokens == {**dict.fromkeys(NAMES, 16), "spae-flat": 15, "spae": 21, "v2l": 21}
    assert models["v2l"].pyramid.num_tokens_upto(2) == 5
    assert {row: models[row].config.local_vectors for row in LOCAL} == LOCAL
    assert [models[row].local.dim for row in LOCAL] == [8, 12, 7]
    assert len({json.dumps([p.train, p.data]) for p in presets.values()}) == 1
    assert len({model.config.channels for model in models.values()}) == 1


def test_only_a_spae_is_guided(recipe):
    guided = ['objective.semantic={"scorer": "caption", "thresholds": [0.98]}']
    presets = Baselines(str(recipe), recipe.parent / "out", tuple(guided)).presets()
    assert list(presets) == [name for name in NAMES if not name.startswith("v2l")]
    assert [row for row, p in presets.items() if (p.objective or {}).get("semantic")] == ["spae-flat", "spae"]


def test_trained_and_measured_by_one_command(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    command = [
        "baselines",
        "--preset",
        str(recipe),
        "--out",
        str(out),
        "--images",
        "4",
        "--rows",
        "rq",
        "lqae",
    ]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {name: len(one["layers"]) for name, one in report["models"].items()} == {"rq": 4, "lqae": 1}
    for one in report["models"].values():
        assert {"psnr", "ssim", "ms_ssim", "perplexity"} <= set(one["layers"][-1])
    lqae = report["models"]["lqae"]
    assert lqae["bits_per_image"] == pytest.approx(16 * np.log2(30))
    assert lqae["parameters"] == sum(
        p.numel() for p in LQAE.from_pretrained(out / "runs/lqae/model").parameters()
    )
    assert "| rq |" in (out / "reconstruction.md").read_text()


def test_what_is_trained_is_not_trained_again(recipe, tmp_path, monkeypatch):
    asked = []

    def stopped(preset, folder):
        asked.append(folder.name)
        return len(asked) < 2

    monkeypatch.setattr(run, "train", stopped)
    chosen = Baselines(str(recipe), tmp_path / "out", rows=("vqgan", "rq", "lqae"))
    assert run.run_baselines(chosen) is None
    assert asked == ["vqgan", "rq"]


def test_recipes_of_anything_else_are_refused(recipe, tmp_path, capsys):
    def refused(*options):
        assert main(["baselines", "--preset", str(recipe), "--out", str(tmp_path / "out"), *options]) == 1
        return capsys.readouterr().err

    assert "preset: expected one of a SPAE" in refused("--set", "tokenizer=vqgan", "--set", "codebook={}")
    assert "rows: expected some of vqgan, rq, lqae, spae-flat, spae, got 'v2l'" in refused("--rows", "v2l")
    assert "images: expected at least 3, got 2" in refused("--images", "2")
    assert "model.grids: expected a square one last" in refused("--set", "model.grids=[1, [4, 4]]")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="size: expected a power of two, at least 2, got 6"):
        baselines(6, [1, 2])


def test_the_committed_preset():
    preset = load_preset("fashion-baselines")
    presets = Baselines("fashion-baselines", Path()).presets()
    assert presets["spae"] == preset
    assert presets["vqgan"].model["codebook_size"] == preset.codebook["limit"] == 4096
