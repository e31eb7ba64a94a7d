import random

import pytest
import torch

from spae.eval.centroids import Features, centroid_guess, histograms, lite0_features, pixels
from spae.eval.episodes import Episode, Shot
from spae.models.lite0 import Lite0


def test_the_nearest_mean_wins_and_ties_are_drawn():
    points = {0: [0.0, 0.0], 1: [4.0, 0.0], 2: [1.0, 3.0], 3: [1.0, 3.0]}
    features = Features(
        {item: torch.tensor(point) for item, point in points.items()},
        {7: torch.tensor([2.0, 1.0]), 8: torch.tensor([1.0, 2.5]), 9: torch.tensor([2.0, -5.0])},
    )
    shots = (Shot(0, 0), Shot(1, 0), Shot(2, 1), Shot(3, 1))  # the means are (2, 0) and (1, 3)

    def guess(query, seed=0):
        return centroid_guess(features, Episode((5, 6), shots, Shot(query, 0)), random.Random(seed))

    assert [guess(7), guess(8), guess(9)] == [0, 1, 0]
    same = Episode((5, 6), (Shot(2, 0), Shot(3, 1)), Shot(7, 0))
    assert {centroid_guess(features, same, random.Random(seed)) for seed in range(20)} == {0, 1}


def test_histograms_count_words_of_both_sets():
    shown, asked = histograms([(5, 5, 9), (7,)], {3: (9, 9, 5)})
    assert [row.tolist() for row in (shown[0], shown[1], asked[3])] == [[2, 0, 1], [0, 1, 0], [1, 0, 2]]


def test_histograms_of_phrases():
    """V2L's words have one id or several."""
    shown, asked = histograms([((5, 6), 5), ((5,), 9)], {3: (9, (5, 6, 7), (5, 6))})
    assert sorted(shown[0].tolist()) == [0, 0, 0, 1, 1]
    assert [float(shown[i] @ asked[3]) for i in (0, 1)] == [1, 1]
    assert asked[3].sum() == 3


def test_pixels_and_lite0(monkeypatch):
    torch.manual_seed(0)
    model = Lite0().eval()
    monkeypatch.setattr(Lite0, "load", lambda: model)
    images = {4: torch.rand(3, 8, 8), 2: torch.rand(3, 8, 8)}
    assert torch.equal(pixels(images)[4], images[4].flatten())
    features = lite0_features(images)
    assert list(features) == [4, 2]
    for item, image in images.items():
        alone = model.embed(image[None], size=128)[0].detach()
        assert features[item].norm().item() == pytest.approx(1, abs=1e-5)
        assert torch.allclose(features[item], alone / alone.norm(), atol=1e-5)
