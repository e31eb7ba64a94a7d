"""Distances of images as pretrained networks see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Features = Callable[[Tensor], Sequence[Tensor]]


class FeatureDistance(nn.Module):
    """Squared distance of a frozen network's feature maps, each position's channels scaled to unit length.

    That is the form of LPIPS (Zhang et al. 2018) without its learned weights: a distance over other features
    than LPIPS' own must not go by its name, so it bears `name`. The distance sums over channels and maps and
    averages over images and positions. Video counts frame by frame.

    features: images [B, C, H, W] in [-1, 1] to feature maps [B, C_i, H_i, W_i]; not trained here.
    name: of the loss term, e.g. "lite0_features".
    """

    def __init__(self, features: Features, name: str) -> None:
        super().__init__()
        self.features = features.eval().requires_grad_(False) if isinstance(features, nn.Module) else features
        self.name = name

    def train(self, mode: bool = True) -> FeatureDistance:
        """Stays in evaluation mode: the features are frozen, their statistics too."""
        return super().train(False)

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Mean distance of images and reconstruction, both [B, C, *shape] in [-1, 1]; its gradient reaches
        only the reconstruction."""
        with torch.no_grad():
            wanted = self.features(_frames(images.float()))
        found = self.features(_frames(reconstruction.float()))
        parts = [(_unit(a) - _unit(b)).square().sum(1).mean() for a, b in zip(wanted, found, strict=True)]
        return torch.stack(parts).sum()


class LPIPS(nn.Module):
    """LPIPS (Zhang et al. 2018) by its authors' package `lpips`, for those who have the weights.

    net: "vgg", the one usual as a loss, "alex" or "squeeze". The package holds the learned weights; the
    network's own come from torchvision's cache, which downloads them where they are missing.

    Raises ImportError where the package is missing.
    """

    name = "lpips"

    def __init__(self, net: str = "vgg") -> None:
        super().__init__()
        try:
            from lpips import LPIPS as Network
        except ImportError as error:
            raise ImportError(
                'LPIPS needs the lpips package and torchvision: pip install "spae[lpips]"; without its '
                "weights there is the Lite0 feature distance"
            ) from error
        self.network = Network(net=net, verbose=False).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> LPIPS:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Mean LPIPS of images and reconstruction, both [B, 3, *shape] in [-1, 1]."""
        return self.network(_frames(reconstruction.float()), _frames(images.float())).mean()


def _frames(images: Tensor) -> Tensor:
    """Video [B, C, T, H, W] as images [B * T, C, H, W]; images as they are."""
    return images if images.ndim == 4 else images.transpose(1, 2).flatten(0, 1)


def _unit(features: Tensor) -> Tensor:
    return nn.functional.normalize(features, dim=1, eps=1e-6)
