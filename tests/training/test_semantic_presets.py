import json

import pytest
import torch

from spae import Codebook, SPAEConfig
from spae.losses import ObjectiveConfig, Regions, SemanticLoss
from spae.training.presets import FOLDER, load_preset, preset_names
from spae_ops import Pyramid


@pytest.mark.parametrize("name", ["emoji64", "emoji64-words", "fashion", "mnist", "mnist-semantic"])
def test_guided_presets_hold_together(name):
    """Without the data, the codebook's file or the scorer: fields are known and layers fit the pyramid."""
    assert name in preset_names()
    preset = json.loads((FOLDER / f"{name}.json").read_text())
    config = SPAEConfig.from_dict(preset["model"])
    assert preset["codebook"].keys() <= {"source", "words", "limit", "normalise"}
    guidance = dict(preset["objective"]["semantic"])
    assert guidance.pop("scorer") == "caption"
    start = guidance.pop("start", None)
    assert (start is None) == (config.semantic_features == "none")
    book = Codebook.from_arrays([" one", " two"], torch.eye(2))
    semantic = SemanticLoss(book, torch.eye(2), rule=config.rule, **guidance)
    assert len(semantic.thresholds) < config.pyramid.num_layers, "the last layer is left to the appearance"
    if config.semantic_features != "none":
        assert len(semantic.thresholds) == config.semantic_layers


def test_photographs_have_the_paper_s_shape_and_a_scorer_that_sees_pixels():
    preset = load_preset("photo128")
    config = SPAEConfig.from_dict(preset.model)
    assert config.pyramid == Pyramid.square(16, (1, 2, 4, 8, 16, 16))
    assert config.pyramid.num_tokens == 597
    assert config.layer_dropout > 0
    guidance = preset.objective["semantic"]
    assert guidance["scorer"]["name"] == "conse"
    assert len(guidance["thresholds"]) == len(guidance["least"]) == len(guidance["words"]) == 5
    weights = {
        k: v for k, v in preset.objective.items() if k not in ("perceptual", "discriminator", "semantic")
    }
    assert ObjectiveConfig.from_dict({**weights, "discriminator_start": 0}) == ObjectiveConfig()
    assert preset.objective["perceptual"].startswith("lpips-")
    assert preset.objective["discriminator"]
    regions = Regions.from_dict(guidance["regions"])
    cells = [regions.of_layer(config.pyramid, layer).bincount().max().item() for layer in range(5)]
    # A pool may hold as many words as cells share it, so that these need not repeat one.
    assert all(most >= shared for most, shared in zip(guidance["most"], cells, strict=True))
