"""Runs that train on mixed pictures."""

from typing import Any

import pytest
import torch

pytest.importorskip("accelerate", reason="the training loop needs accelerate")

from spae import SPAE, Codebook, SPAEConfig, scorers
from spae.losses import Objective, ObjectiveConfig
from spae.models.semantic_words import SemanticWords
from spae.training import TrainConfig, Trainer
from spae.training.guidance import check_guidance, semantic_guidance

WORDS = [f" w{i}" for i in range(8)]


class Colours:
    """Sees an image's mean colour; words are colours, too."""

    name, checksum = "colours", "0123"

    @staticmethod
    def text_features(texts):
        table = torch.nn.functional.normalize(
            torch.randn(8, 3, generator=torch.Generator().manual_seed(1)), dim=1
        )
        return table[[WORDS.index(text) for text in texts]]

    @staticmethod
    def image_features(images):
        return torch.nn.functional.normalize(images.mean((2, 3)), dim=1)


@pytest.fixture(autouse=True)
def toys(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scorers, "ConSEScorer", Colours)
    monkeypatch.setattr("spae.training.log.plot_log", lambda *_: None)


def trainer(folder, steps: int, mixup: float = 0.5, seen: list | None = None, **changes) -> Trainer:
    torch.manual_seed(0)
    book = Codebook.from_arrays(WORDS, torch.randn(8, 6))
    model = SPAE(SPAEConfig((16, 16), (1, 2, 4), channels=4, multipliers=(1, 1, 1), num_res_blocks=1), book)
    generator = torch.Generator().manual_seed(2)
    data: Any = [(torch.rand(3, 16, 16, generator=generator) * 2 - 1, i) for i in range(12)]
    entries = {"scorer": "conse", "thresholds": [0.9, 0.8], "mixup": mixup}
    semantic, guided = semantic_guidance(entries, model, data)
    config = TrainConfig(steps, 4, str(folder), checkpoint_steps=2, progress=False, **changes)
    if seen is not None:
        model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach().clone()))
    return Trainer(model, guided, config, objective=Objective(ObjectiveConfig(), semantic=semantic))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_that_goes_on_sees_the_pictures_it_would_have_seen(tmp_path, accumulation):
    straight, first, second = [], [], []
    run = trainer(tmp_path / "a", 5, seen=straight, accumulation=accumulation)
    run.train()
    trainer(tmp_path / "b", 2, seen=first, accumulation=accumulation).train()
    resumed = trainer(tmp_path / "b", 5, seen=second, accumulation=accumulation)
    resumed.train()
    assert len(straight) == 5 * accumulation
    assert all(map(torch.equal, straight, [*first, *second]))
    states = (run.model.state_dict(), resumed.model.state_dict())
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_pictures_are_mixed_only_where_asked_for(tmp_path):
    plain, mixed = [], []
    trainer(tmp_path / "a", 1, mixup=0, seen=plain).train()
    trainer(tmp_path / "b", 1, seen=mixed).train()
    for row in range(4):
        pair = torch.stack([plain[0][row], plain[0][row - 1]]).flatten(1)
        picture = mixed[0][row].flatten()
        assert not torch.equal(picture, pair[0])
        share = ((picture - pair[1]) @ (pair[0] - pair[1]) / (pair[0] - pair[1]).square().sum()).item()
        torch.testing.assert_close(picture, share * pair[0] + (1 - share) * pair[1], atol=1e-5, rtol=0)


def test_words_that_no_step_changes_are_not_mixed(tmp_path):
    model = trainer(tmp_path, 1).model
    model.semantic = SemanticWords.__new__(SemanticWords)
    torch.nn.Module.__init__(model.semantic)
    data: Any = [(torch.zeros(3, 16, 16), 0)]
    with pytest.raises(ValueError, match=r"objective.semantic.mixup: expected 0 beside .* got 0.5"):
        semantic_guidance({"scorer": "conse", "mixup": 0.5}, model, data)


@pytest.mark.parametrize("mixup", [-1, "much"])
def test_errors_name_the_entry(mixup):
    with pytest.raises(ValueError, match=r"objective.semantic.mixup: expected a number from 0"):
        check_guidance({"scorer": "conse", "mixup": mixup})
