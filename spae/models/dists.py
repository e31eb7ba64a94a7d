"""DISTS (Ding et al. 2020): a distance that forgives one texture for another of its kind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spae import assets
from spae.models.lpips import SCALE, SHIFT, check_pictures, convolutions, published_weights

_ASSET = "dists"
_CHANNELS = (3, 64, 128, 256, 512, 512)  # the pixels themselves, then VGG16's five maps
_STABLE = 1e-6  # the paper's c1 and c2


class DISTSNetwork(nn.Module):
    """DISTS over VGG16: images and others [B, 3, H, W] in [-1, 1] -> distances float32 [B].

    Of the pixels and of five maps, channel by channel: how alike are the means (the texture's) and, by
    covariance over variances, the structures (Ding et al. 2020, eqs. 3 to 5). What counts is 1 minus their
    weighed mean: 0 for images that are the same. Maps shrink by a weighed root mean square of 3 x 3 pixels in
    place of a maximum, so that nothing aliases.

    `DISTSNetwork()` has random weights; `DISTSNetwork.load()` the published ones.
    """

    shift: Tensor
    scale: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stages = convolutions("vgg")
        self.alpha = nn.Parameter(torch.rand(sum(_CHANNELS)))
        self.beta = nn.Parameter(torch.rand(sum(_CHANNELS)))
        for name, values in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        hanning = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("window", torch.outer(hanning, hanning), persistent=False)

    @classmethod
    def load(cls, *, progress: bool = True) -> DISTSNetwork:
        """The published weights, frozen: in eval mode, no parameter requires a gradient.

        They are fetched into the cache if they are missing there (assets "dists", and "lpips" for VGG16).

        Raises:
            AssetNotCached, AssetError: they are not cached and could not be fetched.
        """
        network = cls()
        weights = torch.load(assets.require(_ASSET, progress=progress), map_location="cpu", weights_only=True)
        _, state = published_weights("vgg", network.stages, progress=progress)
        network.load_state_dict(state | {name: weights[name].flatten() for name in ("alpha", "beta")})
        network.eval().requires_grad_(False)
        return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Raises ValueError for images of another shape, or of under 16 pixels a side."""
        return self.distance(self.features(images), self.features(others))

    def features(self, images: Tensor) -> list[Tensor]:
        """The pixels in [0, 1] and five maps float32 [B, C_i, H_i, W_i]."""
        check_pictures("vgg", images)
        maps = [(images.float() + 1) / 2]
        x = ((images.float() - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)
        for number, stage in enumerate(self.stages):
            x = self._smaller(x) if number else x
            for convolve in stage:  # pyright: ignore[reportGeneralTypeIssues]
                x = F.relu(convolve(x))
            maps.append(x)
        return maps

    def distance(self, maps: list[Tensor], others: list[Tensor]) -> Tensor:
        """Of `features` of images and of others: float32 [B]."""
        total = self.alpha.sum() + self.beta.sum()
        alike = maps[0].new_zeros(len(maps[0]))
        alphas, betas = ((of / total).split(_CHANNELS) for of in (self.alpha, self.beta))
        for a, b, alpha, beta in zip(maps, others, alphas, betas, strict=True):
            mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
            of_a, of_b = a - mean_a[..., None, None], b - mean_b[..., None, None]
            texture = (2 * mean_a * mean_b + _STABLE) / (mean_a.square() + mean_b.square() + _STABLE)
            covariance = (of_a * of_b).mean((2, 3))
            variances = of_a.square().mean((2, 3)) + of_b.square().mean((2, 3))
            structure = (2 * covariance + _STABLE) / (variances + _STABLE)
            alike = alike + texture @ alpha + structure @ beta
        return 1 - alike

    def _smaller(self, x: Tensor) -> Tensor:
        kernel = self.window.to(x).expand(x.shape[1], 1, 3, 3)
        mean = F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1])
        return (mean + 1e-12).sqrt()
