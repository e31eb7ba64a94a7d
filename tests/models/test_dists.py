"""DISTS against a second implementation, by hand, on weights of our own; and what the authors' package says."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spae import assets
from spae.models.dists import DISTSNetwork
from tests.models.test_lpips import VGG, C, pictures, published, scene

CHANNELS = (3, 64, 128, 256, 512, 512)
ENDS = (3, 8, 15, 22, 29)  # of VGG16's layers as torchvision numbers them


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """The network out of files like the published ones, and what they hold."""
    arrays = published("vgg")
    (tmp_path / "vgg16.ckpt").write_bytes(pickle.dumps(arrays, protocol=3))
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.rand(1, 1475, 1, 1, generator=generator) for name in ("alpha", "beta")}
    torch.save(weights, tmp_path / "weights.pt")
    places = {"lpips": tmp_path, "dists": tmp_path / "weights.pt"}
    monkeypatch.setattr(assets, "require", lambda name, progress: places[name])
    return SimpleNamespace(network=DISTSNetwork.load(), arrays=arrays["VGG16_0"], weights=weights)


def by_hand(arrays, weights, image, other):
    """Of two images [3, H, W]: eqs. 3 to 5 and 9 in float64, channel by channel."""
    root = {0: (image.double() + 1) / 2, 1: (other.double() + 1) / 2}
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    maps = [root]
    x = {which: (pixels - mean[:, None, None]) / deviation[:, None, None] for which, pixels in root.items()}
    numbers = iter(range(13))
    hanning = torch.from_numpy(np.outer(np.hanning(5)[1:-1], np.hanning(5)[1:-1]))
    for place, layer in enumerate(VGG):
        for which in x:
            if layer == "relu":
                x[which] = x[which].clamp_min(0)
            elif layer == 2:
                one = (hanning / hanning.sum())[None, None]
                squares = x[which].square()[:, None]
                x[which] = (F.conv2d(squares, one, stride=2, padding=1)[:, 0] + 1e-12).sqrt()
        if layer == C:
            at = arrays[f"Conv_{next(numbers)}"]
            kernel = torch.from_numpy(at["kernel"]).double().permute(3, 2, 0, 1)
            x = {
                w: F.conv2d(v[None], kernel, torch.from_numpy(at["bias"]).double(), 1, 1)[0]
                for w, v in x.items()
            }
        if place in ENDS:
            maps.append(dict(x))
    alpha, beta = (weights[name].double().flatten() for name in ("alpha", "beta"))
    alike, channel = 0.0, 0
    for pair in maps:
        for a, b in zip(pair[0], pair[1], strict=True):
            covariance = (a * b).mean() - a.mean() * b.mean()
            texture = (2 * a.mean() * b.mean() + 1e-6) / (a.mean() ** 2 + b.mean() ** 2 + 1e-6)
            structure = (2 * covariance + 1e-6) / (a.var(correction=0) + b.var(correction=0) + 1e-6)
            alike += alpha[channel] * texture + beta[channel] * structure
            channel += 1
    assert channel == sum(CHANNELS)
    return 1 - alike / (alpha.sum() + beta.sum())


def test_the_distance_is_the_paper_s_definition(loaded):
    a, b = pictures(0), pictures(1)
    found = loaded.network(a, b)
    expected = [by_hand(loaded.arrays, loaded.weights, *pair) for pair in zip(a, b, strict=True)]
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert found.dtype == torch.float32
    assert loaded.network(a, a).abs().max() < 1e-6
    assert not any(p.requires_grad for p in loaded.network.parameters())
    assert not loaded.network.training


def test_the_gradient_is_finite_also_where_nothing_varies(loaded):
    for images in (pictures(0), torch.zeros(2, 3, 32, 32)):
        others = pictures(1, images.shape[2:]).requires_grad_()
        flat = images.clone().requires_grad_()
        gradients = torch.autograd.grad(loaded.network(flat, others).sum(), (flat, others))
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert gradients[1].abs().sum() > 0


def test_images_of_other_shapes_are_refused():
    network = DISTSNetwork()
    assert network.features(pictures(0, (16, 16)))[-1].numel() > 0
    with pytest.raises(ValueError, match=r"images: expected at least 16 x 16 pixels for vgg, got \[15, 16\]"):
        network.features(pictures(0, (15, 16)))
    with pytest.raises(ValueError, match=r"images: expected float \[B, 3, H, W\], got torch.float32 \[2, 1,"):
        network.features(pictures(0)[:, :1])


def test_the_published_weights_say_what_the_authors_package_says():
    """dists-pytorch 0.1 with these weights of VGG16, on the same pictures."""
    try:
        for name in ("dists", "lpips"):
            assets.path(name)
    except assets.AssetNotCached as error:
        pytest.skip(f"needs the published weights: {error}")
    network, image = DISTSNetwork.load(), scene()
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    others = {
        "noise": (image + 0.3 * noise).clamp(-1, 1),
        "blur": F.avg_pool2d(image, 5, 1, 2, count_include_pad=False),
        "mirrored": image.flip(-1),
    }
    found = {name: network(image, other).item() for name, other in others.items()}
    assert found == pytest.approx(AUTHORS, rel=2e-4)


AUTHORS = {"noise": 0.3228143, "blur": 0.1908949, "mirrored": 0.2130134}
