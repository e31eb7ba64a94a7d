"""LPIPS against a second implementation, by hand, on weights of our own; and what the published ones see."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spae import assets
from spae.assets.pickles import read_arrays
from spae.models import lpips
from spae.models.lpips import LPIPSNetwork, unit

# As torchvision numbers the layers of `vgg16().features` and `alexnet().features`: convolutions by
# (stride, padding), "relu", and "max" by its window. LPIPS reads the maps after the layers in TAPS.
C, R = (1, 1), "relu"
VGG = [C, R, C, R, 2, C, R, C, R, 2, C, R, C, R, C, R, 2, C, R, C, R, C, R, 2, C, R, C, R, C, R]
ALEX = [(4, 2), R, 3, (1, 2), R, 3, C, R, C, R, C, R]
LAYERS = {"vgg": VGG, "alex": ALEX}
TAPS = {"vgg": (3, 8, 15, 22, 29), "alex": (1, 4, 7, 9, 11)}
PREFIX = {"vgg": "VGG16_0", "alex": "AlexNet_0"}
FILES = {"vgg": "vgg16.ckpt", "alex": "alexnet.ckpt"}


def published(net, seed=0):
    """Random weights as the published file holds them."""
    generator = np.random.RandomState(seed)
    if net == "vgg":
        widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
        kernels, taps = [3] * 13, (64, 128, 256, 512, 512)
    else:
        widths, kernels, taps = (3, 64, 192, 384, 256, 256), [11, 5, 3, 3, 3], (64, 192, 384, 256, 256)

    def random(*shape, scale=1.0):
        return (scale * generator.standard_normal(shape)).astype(np.float32)

    convolutions = {
        f"Conv_{i}": {
            "kernel": random(k, k, widths[i], widths[i + 1], scale=(2 / k / k / widths[i]) ** 0.5),
            "bias": random(widths[i + 1], scale=0.1),
        }
        for i, k in enumerate(kernels)
    }
    heads = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": abs(random(1, 1, c, 1))}} for i, c in enumerate(taps)}
    return {PREFIX[net]: convolutions, **heads}


def by_hand(net, arrays, images, others):
    """LPIPS in float64, layer by layer as torchvision lists them."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    both = torch.cat([images, others]).double()
    x = (both - shift.double()[:, None, None]) / scale.double()[:, None, None]
    convolutions = iter(arrays[PREFIX[net]][f"Conv_{i}"] for i in range(13))
    total, taps = torch.zeros(len(images), dtype=torch.float64), iter(range(5))
    for number, layer in enumerate(LAYERS[net]):
        if layer == R:
            x = x.clamp_min(0)
        elif isinstance(layer, int):
            x = F.max_pool2d(x, layer, 2)
        else:
            weights = next(convolutions)
            kernel = torch.from_numpy(weights["kernel"]).double().permute(3, 2, 0, 1)
            x = F.conv2d(x, kernel, torch.from_numpy(weights["bias"]).double(), layer[0], layer[1])
        if number in TAPS[net]:
            norm = x.square().sum(1, keepdim=True).sqrt() + 1e-10
            a, b = (x / norm).chunk(2)
            head = torch.from_numpy(arrays[f"NetLinLayer_{next(taps)}"]["Conv_0"]["kernel"]).double()
            total += F.conv2d((a - b).square(), head.permute(3, 2, 0, 1)).mean((1, 2, 3))
    return total


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """`LPIPSNetwork.load` of random weights, out of files like the published ones."""

    def load(net):
        (tmp_path / FILES[net]).write_bytes(pickle.dumps(published(net), protocol=3))
        monkeypatch.setattr(assets, "require", lambda name, progress: tmp_path)
        return LPIPSNetwork.load(net)

    return load


def pictures(seed, size=(32, 47)):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, *size, generator=generator) * 2 - 1


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_the_distance_is_the_package_s_definition(loaded, net):
    network, a, b = loaded(net), pictures(0), pictures(1)
    expected = by_hand(net, published(net), a, b)
    assert network(a, b).dtype == torch.float32
    torch.testing.assert_close(network(a, b).double(), expected, rtol=1e-4, atol=0)
    assert network(a, a).tolist() == [0, 0]
    assert torch.equal(network(a, b), network(b, a))
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training


def test_cells_and_channels_by_hand():
    """(3, 4) and (4, 3) are (0.6, 0.8) and (0.8, 0.6): 0.04 apart in both channels; a cell of zeros stays."""
    a = torch.tensor([[3.0, 0.0], [4.0, 0.0]]).reshape(1, 2, 1, 2)
    b = torch.tensor([[4.0, 0.0], [3.0, 7.0]]).reshape(1, 2, 1, 2)
    network = LPIPSNetwork("alex")
    network.weights = torch.nn.ParameterList([torch.tensor([2.0, 5.0]), torch.tensor([1.0, 0.0])])
    maps = [unit(a), unit(a)], [unit(b), unit(b)]
    assert maps[0][0][..., 1].tolist() == [[[0], [0]]]
    first = ((2 + 5) * 0.04 + 5 * 1.0) / 2
    second = (0.04 + 0) / 2
    assert network.distance(*maps).item() == pytest.approx(first + second, rel=1e-6)


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_the_gradient_is_finite_where_maps_are_zero(loaded, net):
    network = loaded(net)
    for stage in network.stages:
        for convolution in stage:
            convolution.bias.fill_(-100.0)  # every map is zero
    images = pictures(0).requires_grad_()
    (gradient,) = torch.autograd.grad(network(images, pictures(1)).sum(), images)
    assert gradient.abs().sum() == 0
    (gradient,) = torch.autograd.grad(loaded(net)(images, pictures(1)).sum(), images)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(("net", "least"), [("vgg", 16), ("alex", 31)])
def test_the_smallest_images_have_a_cell(net, least):
    network = LPIPSNetwork(net)
    size = (least, least)
    assert network.features(pictures(0, size))[-1].numel() > 0
    with pytest.raises(ValueError, match=rf"images: expected at least {least} x {least} pixels for {net}"):
        network.features(pictures(0, (least - 1, least)))
    with pytest.raises(ValueError, match=r"images: expected float \[B, 3, H, W\], got torch.float32 \[2, 1,"):
        network.features(pictures(0)[:, :1])
    with pytest.raises(ValueError, match=r"net: expected 'vgg' or 'alex', got 'resnet'"):
        LPIPSNetwork("resnet")  # type: ignore[arg-type]


class Harm:
    def __reduce__(self):
        return print, ("harm",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": Harm()}), r"got one that names builtins\.print"),
        (pickle.dumps({"a": np.array([None])}), "got an array of object"),
        (pickle.dumps({"a": {"b": 1}}), r"weights\.ckpt: a: b: expected arrays of numbers.*, got int"),
        (pickle.dumps({"a": np.ones(3)})[:-9], "got a damaged one"),
        (b"no pickle", "got a damaged one"),
        (b"cos\nsystem\n(S'true'\ntR.", r"names os\.system"),
    ],
)
def test_pickles_hold_arrays_and_nothing_else(tmp_path, capsys, content, message):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(content)
    with pytest.raises(assets.AssetError, match=message):
        read_arrays(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_come_out_as_they_went_in(tmp_path, protocol):
    path = tmp_path / "weights.ckpt"
    kernel = np.arange(6, dtype="<f4").reshape(2, 3)
    path.write_bytes(pickle.dumps({"a": {"kernel": kernel}}, protocol=protocol))
    assert np.array_equal(read_arrays(path)["a"]["kernel"], kernel)


def test_arrays_that_numpy_1_wrote_are_read(tmp_path):
    path = tmp_path / "weights.ckpt"
    written = pickle.dumps({"a": np.arange(3)}, protocol=3)
    path.write_bytes(written.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"))
    assert read_arrays(path)["a"].tolist() == [0, 1, 2]


def scene(size=64):
    """A picture with edges, a gradient and a disc."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    disc = (x - 0.2).square() + (y + 0.1).square() < 0.3
    stripes = ((6 * x).floor() % 2 == 0).float()
    return torch.stack([torch.where(disc, 1 - y, stripes - 0.5), y * 0.8, torch.where(disc, x, -x)])[
        None
    ].clamp(-1, 1)


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_the_published_weights_see_more_of_more_noise_and_blur(net):
    try:
        folder = assets.path("lpips")
    except assets.AssetNotCached as error:
        pytest.skip(f"needs the published weights: {error}")
    network, image = LPIPSNetwork.load(net), scene()
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    noisy = [network(image, (image + share * noise).clamp(-1, 1)).item() for share in (0, 0.1, 0.3, 0.9)]
    small = [F.interpolate(image, scale_factor=1 / factor, mode="area") for factor in (2, 4, 8)]
    blurred = [network(image, F.interpolate(s, image.shape[2:], mode="bilinear")).item() for s in small]
    assert noisy[0] == 0
    assert noisy == sorted(noisy)
    assert blurred == sorted(blurred)
    assert blurred[0] > 0.01
    # torchmetrics prints 0.3566 for VGG16 on ten pairs of uniform noise in [0, 1], drawn otherwise.
    if net == "vgg":
        a, b = (pictures(seed, (100, 100)) / 2 + 0.5 for seed in (0, 1))
        assert network(a, b).mean().item() == pytest.approx(0.3566, abs=0.01)
    arrays = read_arrays(folder / FILES[net])
    expected = by_hand(net, arrays, image, image.flip(-1))
    torch.testing.assert_close(network(image, image.flip(-1)).double(), expected, rtol=1e-4, atol=0)
    assert all((head["Conv_0"]["kernel"] >= 0).all() for n, head in arrays.items() if n.startswith("NetLin"))


def test_the_file_of_each_network_is_in_the_asset():
    names = {file.name for file in assets.REGISTRY["lpips"].files}
    assert {stated.file for stated in lpips._NETS.values()} <= names
