"""Pretrained image features beside the encoder: a departure from the paper, for training on few images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spae import assets
from spae.frozen import Frozen
from spae.models.batch_norm import BatchNorm
from spae.models.blocks import convolution
from spae.models.lite0 import CHANNELS, EMBED_DIM, Lite0
from spae_ops import Pyramid

_ASSET = "efficientnet-lite0"
_STRIDES = (16, 32)
_INITIAL_GAIN = 0.3


class FrozenFeatures(nn.Module):
    """What a module has that reads the frozen EfficientNet-Lite0.

    The network is `Frozen`: in no state dict, and shared by deep copies. State dicts hold its name and
    checksum; loading them beside another network raises ValueError.

    size: images below so many pixels a side are enlarged to it for the network.
    """

    last_stride = _STRIDES[-1]
    after_norm = False  # where in `latents_of` the module comes

    def __init__(self, size: int = 128) -> None:
        super().__init__()
        self._frozen = Frozen(Lite0.load())
        self._size = size

    @property
    def network(self) -> Lite0:
        return self._frozen.network

    @torch.no_grad()
    def maps(self, images: Tensor) -> dict[int, Tensor]:
        """`Lite0.features` of images float [B, 3, H, W] in [-1, 1]."""
        small = min(images.shape[2:]) < self._size
        return self.network.features(images.float(), size=self._size if small else None)

    def identity(self) -> dict[str, str]:
        """What a checkpoint holds of the network: its name and its file's SHA-256."""
        return {"name": _ASSET, "checksum": assets.REGISTRY[_ASSET].files[0].sha256}

    def get_extra_state(self) -> Tensor:
        return torch.tensor(list(json.dumps(self.identity()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        saved = json.loads(bytes(state.tolist()).decode())
        if saved != self.identity():
            raise ValueError(
                f"semantic_features: expected the checkpoint's, {saved}, got {self.identity()}; "
                "its weights fit no other features"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenFeatures:
        super()._apply(fn, recurse)
        self._frozen.follow(fn)
        return self


class SemanticFeatures(FrozenFeatures):
    """Joins features of the frozen EfficientNet-Lite0 to the latents, at the positions of the first layers.

    Latents float [B, D, h, w] and their images float [B, 3, H, W] in [-1, 1] -> latents float [B, D, h, w].

    The network's maps of strides 16 and 32 and its pooled vector of 1,280 are brought to zero mean and unit
    variance, thinned by dropout, taken to the latents' width by 1x1 convolutions, resized to the latent grid
    and added to the latents, which a learned gain for each position scales before: at first 1, and less where
    features are added. All positions but those of the first `layers` layers keep the encoder's latents alone:
    a convolutional encoder does not know which positions stand for the whole image.

    Args:
        latent_dim: D.
        pyramid: of two axes.
        layers: how many; from 1 to the pyramid's.
        dropout: probability that a feature channel is left out in training.
        rank: of the projections, which are then two convolutions, to so many channels and on; None: full.
        frozen: the projections do not train, only the gains do.
        size: see `FrozenFeatures`.

    Raises:
        spae.assets.AssetNotCached: the weights are not cached and may not be fetched.
    """

    mask: Tensor

    def __init__(
        self,
        latent_dim: int,
        pyramid: Pyramid,
        layers: int,
        *,
        dropout: float = 0.0,
        rank: int | None = None,
        frozen: bool = False,
        size: int = 128,
    ) -> None:
        super().__init__(size)
        self.grid = pyramid.shape
        mask = torch.zeros(self.grid)
        for layer in range(layers):
            mask[pyramid.positions(layer).unbind(1)] = 1
        self.register_buffer("mask", mask, persistent=False)
        self.gain = nn.Parameter(1 - (1 - _INITIAL_GAIN) * mask)
        widths = [CHANNELS[stride] for stride in _STRIDES] + [EMBED_DIM]
        self.project = nn.ModuleList(
            nn.Sequential(
                BatchNorm(width, affine=False),
                nn.Dropout2d(dropout),
                *_projection(width, latent_dim, rank),
            )
            for width in widths
        )
        self.project.requires_grad_(not frozen)

    def forward(self, latents: Tensor, images: Tensor, *, inference: bool = False) -> Tensor:
        """inference: as in evaluation mode, whatever the mode: running statistics and no dropout."""
        joined = self.gain * latents.float()
        for project, features in zip(self.project, self._features(images), strict=True):
            # Projected first and resized then: the same as the other way round, on fewer cells.
            norm, dropout, *convolutions = project  # pyright: ignore[reportGeneralTypeIssues]
            features = norm(features, inference=inference)
            projected = features if inference else dropout(features)
            for convolve in convolutions:
                projected = convolve(projected.to(convolve.weight.dtype))
            projected = projected.float()
            if tuple(projected.shape[2:]) != (1, 1):
                projected = F.interpolate(projected, self.grid, mode="bilinear", antialias=True)
            joined = joined + self.mask * projected
        return joined.float()

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]], *, ridge: float = 0.5) -> None:
        """Start the projection of the pooled vector from a ridge regression, and that of the maps from zero.

        batches: of images float [B, 3, H, W] and targets float [B, D], each image's wanted latent, in order;
            at least two images in all. ridge: weight of the penalty for each image's square, in units of the
            standardised features' variance.

        The projected vectors get unit variance in every channel, as the latents have before the matched norm.
        Also sets the statistics that evaluation mode takes for the features.
        """
        moments = [Moments() for _ in self.project]
        for images, targets in batches:
            features = self._features(images)
            for moment, feature in zip(moments, features, strict=True):
                moment.add(feature, targets if feature is features[-1] else None)
        for project, moment in zip(self.project, moments, strict=True):
            norm, *_, last = project  # pyright: ignore[reportGeneralTypeIssues]
            norm.running_mean.copy_(moment.mean)
            norm.running_var.copy_(moment.variance)
            last.weight.zero_()
            last.bias.zero_()
        weight, variance = moments[-1].ridge(ridge)
        # A channel that the features cannot tell has nothing to be scaled up.
        weight = weight / variance.clamp_min(1e-12).sqrt()
        _, _, *convolutions = self.project[-1]  # pyright: ignore[reportGeneralTypeIssues]
        if len(convolutions) == 1:
            convolutions[0].weight.copy_(weight.T[:, :, None, None])
            return
        # The nearest matrix of the rank (Eckart and Young 1936), its scale shared by both factors.
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        rank, root = convolutions[0].weight.shape[0], s.sqrt()
        for convolve, factor in zip(convolutions, ((u * root).T[:rank], (v.T * root)[:, :rank]), strict=True):
            convolve.weight.copy_(factor[:, :, None, None])

    @torch.no_grad()
    def _features(self, images: Tensor) -> list[Tensor]:
        maps = self.maps(images)
        pooled = self.network.head(maps[_STRIDES[-1]]).mean((2, 3), keepdim=True)
        return [*(maps[stride] for stride in _STRIDES), pooled]


def _projection(width: int, latent_dim: int, rank: int | None) -> list[nn.Module]:
    if rank is None:
        return [convolution(width, latent_dim, 1, ndim=2)]
    rank = min(rank, width, latent_dim)
    down = nn.Conv2d(width, rank, 1, bias=False)
    return [down, convolution(rank, latent_dim, 1, ndim=2)]


class Moments:
    """Sums over images, in float64: enough for statistics and a regression, whatever the number of images."""

    def __init__(self) -> None:
        self.cells = 0
        self.total = self.squares = self.products = self.crossed = self.target = torch.zeros(())

    def add(self, features: Tensor, targets: Tensor | None) -> None:
        """features: [B, C, h, w]. targets: [B, D], for features of one cell; None: no regression."""
        cells = features.double().movedim(1, -1).flatten(0, -2)
        self.cells += len(cells)
        self.total = self.total + cells.sum(0)
        self.squares = self.squares + cells.square().sum(0)
        if targets is not None:
            wanted = targets.to(cells)
            self.products = self.products + cells.T @ cells
            self.crossed = self.crossed + cells.T @ wanted
            self.target = self.target + wanted.sum(0)

    @property
    def mean(self) -> Tensor:
        return self.total / self.cells

    @property
    def variance(self) -> Tensor:
        return (self.squares / self.cells - self.mean.square()).clamp_min(0)

    @property
    def deviation(self) -> Tensor:
        return (self.variance + 1e-5).sqrt()  # the batch norm's epsilon

    def ridge(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Weights [C, D] from standardised features to centred targets, and the variance [D] of what they
        give."""
        deviation = self.deviation
        covariance = self.products / self.cells - torch.outer(self.mean, self.mean)
        correlation = covariance / torch.outer(deviation, deviation)
        crossed = self.crossed / self.cells - torch.outer(self.mean, self.target / self.cells)
        penalised = correlation + penalty * torch.eye(len(correlation), dtype=torch.float64)
        weights = torch.linalg.solve(penalised, crossed / deviation[:, None])
        return weights, (weights * (correlation @ weights)).sum(0)
