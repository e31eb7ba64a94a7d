import json

import pytest
import torch

from spae import Codebook, SPAEConfig
from spae.losses import SemanticLoss
from spae.training.presets import FOLDER, preset_names


@pytest.mark.parametrize("name", ["emoji64", "fashion", "mnist", "mnist-semantic"])
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
