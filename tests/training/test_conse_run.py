"""`spae train` guided by a scorer that sees pixels: crops of photographs, from options to a saved model."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="spae.training needs accelerate")

from spae import SPAE, Codebook
from spae.cli import main
from spae.models.lite0 import Lite0
from spae.scorers import ConSEScorer
from spae.training import read_log

GUIDANCE = [
    "objective.semantic.scorer=conse",
    "objective.semantic.thresholds=[0.98,0.9]",
    "objective.semantic.draw=ranked",
    "objective.semantic.least=[1,4]",
    "objective.semantic.regions.grids=[1,2]",
    "objective.semantic.hubs=0.5",
]


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What ConSE is loaded with, and how many images its toy network sees."""
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    network = Lite0().eval().requires_grad_(False)
    seen = {"loads": [], "images": 0}

    class Counted(ConSEScorer):
        def image_features(self, images):
            seen["images"] += len(images)
            return super().image_features(images)

    def letters(texts):
        return torch.tensor(
            np.array([np.bincount([ord(c) % 16 for c in t], minlength=16) + 0.1 for t in texts]),
            dtype=torch.float32,
        )

    def load(*, vocabulary: Sequence[str] | None = None, top: int = 10, size: int = 128):
        seen["loads"].append((vocabulary, size))
        return Counted(network, letters, [f"class {i}" for i in range(1000)], top=top, size=size)

    monkeypatch.setattr(ConSEScorer, "load", load)
    return seen


@pytest.fixture
def preset(tmp_path, picture_folder):
    folder = picture_folder(32)
    vectors = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    Codebook.from_arrays([f" w{i}" for i in range(60)], vectors).save(tmp_path / "book")
    content = {
        "data": {"folder": str(folder), "views": {"count": 3}},
        "codebook": {"source": str(tmp_path / "book")},
        "model": {
            "image_size": [32, 32],
            "grids": [1, 2, 4],
            "channels": 4,
            "multipliers": [1, 1, 1, 1],
            "num_res_blocks": 1,
        },
        "objective": {},
        "train": {"steps": 2, "batch_size": 3, "progress": False, "log_every": 1},
    }
    path = tmp_path / "photos.json"
    path.write_text(json.dumps(content))
    return path


def test_from_options_to_a_model(preset, calls, tmp_path, monkeypatch):
    monkeypatch.setattr("spae.training.log.plot_log", lambda *_: None)
    monkeypatch.setattr("spae.training.run._Progress._page", lambda *_: None)
    sets = [part for option in GUIDANCE for part in ("--set", option)]
    assert main(["train", "--preset", str(preset), "--out", str(tmp_path / "run"), *sets]) == 0
    first, second = read_log(tmp_path / "run/log.jsonl")
    assert 0 < second["loss/semantic"] < 50
    assert first["loss/semantic"] != second["loss/semantic"]
    assert SPAE.from_pretrained(tmp_path / "run/model", codebook=Codebook.load(tmp_path / "book"))
    assert calls["images"] == 4 * 5, "every image and its four crops once, whatever the number of views"
    again = [*sets, "--set", "train.steps=3"]
    assert main(["train", "--preset", str(preset), "--out", str(tmp_path / "run"), *again]) == 0
    assert calls["images"] == 4 * 5, "kept in the cache"
    assert len(read_log(tmp_path / "run/log.jsonl")) == 3


def test_the_codebook_s_words_may_be_the_vocabulary(preset, calls, tmp_path, monkeypatch):
    from spae.training.presets import load_preset

    scorer = {"name": "conse", "size": 64, "vocabulary": "codebook"}
    chosen = load_preset(
        preset, [f"objective.semantic={json.dumps({'scorer': scorer, 'thresholds': [0.9]})}"]
    )
    model = chosen.build()
    _, guided = chosen.build_objective(model, chosen.dataset("train", (32, 32)))
    assert calls["loads"] == [(model.codebook.words, 64)]
    assert guided[0][1].shape == (16,)
    with pytest.raises(ValueError, match=r"objective.semantic.scorer.vocabulary: expected .*, got 'words'"):
        load_preset(
            preset, [f"objective.semantic={json.dumps({'scorer': scorer | {'vocabulary': 'words'}})}"]
        )
