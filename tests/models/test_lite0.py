"""EfficientNet-Lite0: its structure, its loader on weights of our own, and what the published weights see."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from spae import assets
from spae.models import lite0
from spae.models.lite0 import Lite0


@pytest.fixture(scope="module")
def model() -> Lite0:
    torch.manual_seed(0)
    model = Lite0()
    model(torch.randn(4, 3, 64, 64))  # gives the running statistics values of their own
    return model.eval()


@pytest.fixture
def loaded(model, monkeypatch, tmp_path) -> Lite0:
    """`Lite0.load()` of the random weights, under other names."""
    names = [f"layer.{i}" for i in range(len(model.state_dict()))]
    torch.save(dict(zip(names, model.state_dict().values(), strict=True)), tmp_path / "weights.pth")
    monkeypatch.setattr(assets, "require", lambda name, progress: tmp_path / "weights.pth")
    return Lite0.load()


def test_the_network_has_the_published_size(model):
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    assert len(model.state_dict()) == 296


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 96), (33, 70)])
def test_maps_have_one_cell_per_stride(model, height, width):
    images = torch.rand(2, 3, height, width) * 2 - 1
    maps = model.features(images)
    assert list(maps) == [2, 4, 8, 16, 32]
    for stride, features in maps.items():
        cells = (-(-height // stride), -(-width // stride))
        assert features.shape == (2, lite0.CHANNELS[stride], *cells)
    assert model.embed(images).shape == (2, lite0.EMBED_DIM)
    assert model(images).shape == (2, lite0.NUM_CLASSES)


def test_small_images_may_be_enlarged_first(model):
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    maps = model.features(images, size=128)
    assert maps[16].shape == (2, 112, 8, 8)
    assert maps[32].shape == (2, 320, 4, 4)
    assert model.embed(images, size=64).shape == (2, 1280)


def test_padding_is_that_of_tensorflow():
    # Stride 2 on an even length pads the end alone; an odd length, or stride 1, pads both sides alike.
    for length, stride, pads in ((8, 2, (0, 1)), (9, 2, (1, 1)), (8, 1, (1, 1))):
        conv = lite0._SameConv2d(1, 1, 3, stride, bias=False)
        x = torch.randn(1, 1, length, length)
        expected = F.conv2d(F.pad(x, (*pads, *pads)), conv.weight, stride=stride)
        torch.testing.assert_close(conv(x), expected)


def test_loading_freezes_and_folds_without_changing_the_answer(model, loaded):
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(loaded(images), model(images), atol=1e-4, rtol=1e-4)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in loaded.modules())


def test_the_gradient_reaches_the_images(loaded):
    images = torch.zeros(1, 3, 32, 32, requires_grad=True)
    loaded.features(images)[16].square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(1, 1, 64, 64),
            r"images: expected float \[B, 3, H, W\], got torch.float32 \[1, 1, 64, 64\]",
        ),
        (torch.zeros(3, 64, 64), r"got torch.float32 \[3, 64, 64\]"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "got torch.uint8"),
        (torch.zeros(1, 3, 64, 31), r"at least 32 x 32 pixels, got \[64, 31\]"),
    ],
)
def test_other_images_are_refused(model, images, message):
    with pytest.raises(ValueError, match=message):
        model(images)
