"""Inception's features by torch-fidelity, on weights of our own: what it is given, and what is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from spae.eval.features import ImageFeatures
from spae.optional import import_beside_torchvision


@pytest.fixture(scope="module")
def network():
    try:
        module = import_beside_torchvision("torch_fidelity.feature_extractor_inceptionv3", "needs it")
    except ImportError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        return module.FeatureExtractorInceptionV3("random", ["2048", "logits_unbiased"])


@pytest.fixture
def weights(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    return tmp_path / "inception.pth"


def test_it_sees_the_bytes_of_a_file_s_pixels(network, weights):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 48), dtype=np.uint8)
    images = torch.from_numpy(pixels).float() / 127.5 - 1
    inception = ImageFeatures.inception(weights)
    features, classes = inception.all_of(images * 1.0001, batch_size=1)
    expected, logits = network(torch.from_numpy(pixels))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(classes, logits.log_softmax(1), rtol=1e-4, atol=1e-5)
    assert (inception.name, features.shape, classes.shape) == ("Inception", (2, 2048), (2, 1008))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_other_files_are_refused_and_execute_nothing(network, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"weights: expected a file of Inception's weights, got .*none"
    ):
        ImageFeatures.inception(tmp_path / "none")
    for content in ({"x": torch.ones(1)}, [1, 2], Evil(str(tmp_path / "executed"))):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=r"weights: expected Inception's, got '.*other\.pth'"):
            ImageFeatures.inception(tmp_path / "other.pth")
    assert not (tmp_path / "executed").exists()
