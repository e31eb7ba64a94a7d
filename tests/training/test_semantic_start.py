import copy

import torch
from torch.utils.data import TensorDataset

from spae import SPAE, Codebook, SPAEConfig
from spae.losses import SemanticLoss, relative_scores
from spae.models.lite0 import Lite0
from spae.training.semantic_start import start_semantic_features


def test_words_fit_before_the_first_step(monkeypatch):
    """On images that features tell apart, the first layers choose fitting words after the start, and not before."""
    torch.manual_seed(0)
    network = Lite0()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    coarse = torch.rand(8, 3, 2, 2) * 2 - 1
    images = torch.nn.functional.interpolate(coarse, (32, 32), mode="nearest")
    network(images)
    network.eval().requires_grad_(False)
    monkeypatch.setattr(Lite0, "load", lambda: copy.deepcopy(network))
    book = Codebook.from_arrays([f" w{i}" for i in range(50)], torch.randn(50, 16))
    config = SPAEConfig(
        (32, 32), (1, 2, 4), channels=4, multipliers=(1, 1, 1, 1), num_res_blocks=1,
        semantic_features="lite0", semantic_layers=2, semantic_dropout=0.0,
    )  # fmt: skip
    model = SPAE(config, book)
    text = torch.nn.functional.normalize(torch.randn(50, 8), dim=1)
    guidance = torch.nn.functional.normalize(torch.randn(8, 8), dim=1)
    semantic = SemanticLoss(book, text, (0.98, 0.9))
    relative = relative_scores(guidance @ text.T)

    model.latent_norm.norm.momentum = None  # one batch gives all of the running statistics

    def score():
        model.latent_norm.norm.reset_running_stats()
        model.train()
        with torch.no_grad():
            model(images)
        return relative.gather(1, model.eval().encode(images, 2).ids).mean().item()

    before = score()
    start_semantic_features(model.semantic, semantic, book, TensorDataset(images, guidance), ridge=0.01)
    assert int(semantic.step) == 0
    assert score() > max(0.8, before + 0.2)
