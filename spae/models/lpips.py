"""LPIPS (Zhang et al. 2018): how different two images look to a network trained to tell things apart."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spae import assets
from spae.assets.pickles import read_arrays
from spae.configs import checked

Net = Literal["vgg", "alex"]
_ASSET = "lpips"
_EPSILON = 1e-10
# The mean and deviation of ImageNet's pixels, for images in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class _Stage(NamedTuple):
    """A maximum over windows of `pool` pixels, two apart (0: none), then convolutions, each with a ReLU."""

    pool: int
    channels: tuple[int, ...]
    kernel: int = 3
    stride: int = 1
    padding: int = 1


class _Published(NamedTuple):
    """stages: the network up to the last map that counts. file, prefix: where its weights are. least: pixels
    a side below which no cell is left."""

    stages: tuple[_Stage, ...]
    file: str
    prefix: str
    least: int


_NETS: dict[str, _Published] = {
    "vgg": _Published(
        (
            _Stage(0, (64, 64)),
            _Stage(2, (128, 128)),
            _Stage(2, (256, 256, 256)),
            _Stage(2, (512, 512, 512)),
            _Stage(2, (512, 512, 512)),
        ),
        "vgg16.ckpt",
        "VGG16_0",
        16,
    ),
    "alex": _Published(
        (
            _Stage(0, (64,), kernel=11, stride=4, padding=2),
            _Stage(3, (192,), kernel=5, padding=2),
            _Stage(3, (384,)),
            _Stage(0, (256,)),
            _Stage(0, (256,)),
        ),
        "alexnet.ckpt",
        "AlexNet_0",
        31,
    ),
}


class LPIPSNetwork(nn.Module):
    """LPIPS 0.1 over VGG16 or AlexNet: images and others [B, 3, H, W] in [-1, 1] -> distances float32 [B].

    Each of five maps is scaled to unit length in every cell; the squares of the differences are weighed by
    what people found different, one weight a channel, summed over channels, averaged over cells, and summed
    over the maps. Images that are the same have distance 0.

    net: "vgg", the one usual as a loss, or "alex", the authors' for comparison. The two differ in scale.

    `LPIPSNetwork(net)` has random weights; `LPIPSNetwork.load(net)` the published ones.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net = "vgg") -> None:
        super().__init__()
        checked("net", net, Net)
        self.net: Net = net
        self.stages = convolutions(net)
        self.weights = nn.ParameterList(torch.rand(stage.channels[-1]) for stage in _NETS[net].stages)
        for name, values in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    @classmethod
    def load(cls, net: Net = "vgg", *, progress: bool = True) -> LPIPSNetwork:
        """The published weights, frozen: in eval mode, no parameter requires a gradient.

        They are fetched into the cache if they are missing there (asset "lpips").

        Raises:
            AssetNotCached, AssetError: they are not cached and could not be fetched.
        """
        network = cls(net)
        found, state = published_weights(net, network.stages, progress=progress)
        for number in range(len(network.stages)):
            kernel = torch.from_numpy(found[f"NetLinLayer_{number}"]["Conv_0"]["kernel"])
            state[f"weights.{number}"] = kernel[0, 0, :, 0]
        network.load_state_dict(state)
        network.eval().requires_grad_(False)
        return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Raises ValueError for images of another shape, or too small for the network (16 pixels a side for
        VGG16, 31 for AlexNet)."""
        return self.distance(self.features(images), self.features(others))

    def features(self, images: Tensor) -> list[Tensor]:
        """The five maps float32 [B, C_i, H_i, W_i], every cell of unit length."""
        check_pictures(self.net, images)
        x = ((images.float() - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)
        maps = []
        for stage, convolutions in zip(_NETS[self.net].stages, self.stages, strict=True):
            x = F.max_pool2d(x, stage.pool, 2) if stage.pool else x
            for convolve in convolutions:  # pyright: ignore[reportGeneralTypeIssues]
                x = F.relu(convolve(x))
            maps.append(unit(x))
        return maps

    def distance(self, maps: list[Tensor], others: list[Tensor]) -> Tensor:
        """Of `features` of images and of others: float32 [B]."""
        total = maps[0].new_zeros(len(maps[0]))
        for a, b, weight in zip(maps, others, self.weights, strict=True):
            total = total + torch.einsum("bchw,c->bhw", (a - b).square(), weight.float()).mean((1, 2))
        return total


def unit(features: Tensor) -> Tensor:
    """Maps [B, C, H, W] with every cell's channels scaled to unit length, float32; cells of zeros stay zeros.

    As in the authors' package, the norm is enlarged by 1e-10. A cell of zeros has gradient 0 here, where
    theirs has none.
    """
    norm = torch.linalg.vector_norm(features.float(), dim=1, keepdim=True)
    return features.float() / (norm + _EPSILON)


def check_pictures(net: Net, images: Tensor) -> None:
    """Raises ValueError for others than float [B, 3, H, W] of a size that leaves the last map a cell."""
    least = _NETS[net].least
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"images: expected float [B, 3, H, W], got {images.dtype} {list(images.shape)}")
    if min(images.shape[2:]) < least:
        got = list(images.shape[2:])
        raise ValueError(f"images: expected at least {least} x {least} pixels for {net}, got {got}")


def convolutions(net: Net) -> nn.ModuleList:
    """The network's stages up to the last map that counts, lists of convolutions, with random weights."""
    stages = nn.ModuleList()
    width = 3
    for stage in _NETS[net].stages:
        pairs = pairwise((width, *stage.channels))
        sizes = stage.kernel, stage.stride, stage.padding
        stages.append(nn.ModuleList(nn.Conv2d(*pair, *sizes) for pair in pairs))
        width = stage.channels[-1]
    return stages


def published_weights(
    net: Net, stages: nn.ModuleList, *, progress: bool = True
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All arrays of the published file, and those of `convolutions` as a state dict below "stages"."""
    published = _NETS[net]
    found = read_arrays(assets.require(_ASSET, progress=progress) / published.file)
    layers = [f"stages.{i}.{j}" for i, stage in enumerate(stages) for j in range(len(stage))]  # pyright: ignore[reportArgumentType]
    state = {}
    for number, layer in enumerate(layers):
        convolution = found[published.prefix][f"Conv_{number}"]
        # [height, width, in, out] there
        state[f"{layer}.weight"] = torch.from_numpy(convolution["kernel"]).permute(3, 2, 0, 1)
        state[f"{layer}.bias"] = torch.from_numpy(convolution["bias"])
    return found, state
