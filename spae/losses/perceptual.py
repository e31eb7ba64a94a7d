"""Distances of images as pretrained networks see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spae.models.dists import DISTSNetwork
from spae.models.lpips import LPIPSNetwork
from spae.optional import needs

Maps = Sequence[Tensor] | Mapping[Any, Tensor]


class FeatureDistance(nn.Module):
    """Squared distance of a frozen network's feature maps, each position's channels scaled to unit length.

    That is the form of LPIPS (Zhang et al. 2018) without its learned weights: a distance over other features
    than LPIPS' own must not go by its name, so it bears `name`. The distance sums over channels and maps and
    averages over images and positions. Video counts frame by frame.

    network: images [B, C, H, W] in [-1, 1] to feature maps [B, C_i, H_i, W_i], as a sequence or a mapping:
        any callable, or a module whose method `features` does it. It does not train.
    name: of the loss term, e.g. "lite0_features".
    """

    def __init__(self, network: Callable[[Tensor], Maps] | nn.Module, name: str) -> None:
        super().__init__()
        self.network = network.requires_grad_(False) if isinstance(network, nn.Module) else network
        self.name = name
        self.eval()

    def train(self, mode: bool = True) -> FeatureDistance:
        """Stays in evaluation mode: the features are frozen, their statistics too."""
        return super().train(False)

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Mean distance of images and reconstruction, both [B, C, *shape] in [-1, 1]; its gradient reaches
        only the reconstruction."""
        with torch.no_grad():
            wanted = self._maps(images)
        pairs = zip(wanted, self._maps(reconstruction), strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).sum()

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps = getattr(self.network, "features", self.network)(_frames(images.float()))
        if isinstance(maps, Tensor):
            raise TypeError("network: expected several feature maps, got one tensor")
        values = maps.values() if isinstance(maps, Mapping) else maps
        return [nn.functional.normalize(features, dim=1, eps=1e-6) for features in values]


class _Published(nn.Module):
    """A published distance as a term of the loss: a frozen network in evaluation mode, and stays so."""

    name: str

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def train(self, mode: bool = True) -> _Published:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Mean distance of images and reconstruction, both [B, 3, *shape] in [-1, 1]; video counts frame by
        frame. The gradient reaches only the reconstruction."""
        images, reconstruction = _frames(images.float()), _frames(reconstruction.float())
        if not isinstance(self.network, LPIPSNetwork | DISTSNetwork):
            return self.network(reconstruction, images.detach()).mean()
        with torch.no_grad():
            wanted = self.network.features(images)
        return self.network.distance(self.network.features(reconstruction), wanted).mean()


class LPIPS(_Published):
    """LPIPS (Zhang et al. 2018), version 0.1.

    net: "vgg", the one usual as a loss, or "alex": from the asset "lpips" (`LPIPSNetwork`), fetched where it
        is missing. "squeeze": by the authors' package `lpips`, which holds the learned weights; the network's
        own come from torchvision's cache, which downloads them where they are missing.

    Raises AssetNotCached or AssetError where the asset cannot be had, ImportError where the package is
    missing.
    """

    name = "lpips"

    def __init__(self, net: Literal["vgg", "alex", "squeeze"] = "vgg") -> None:
        super().__init__(_squeeze() if net == "squeeze" else LPIPSNetwork.load(net))


class DISTS(_Published):
    """DISTS (Ding et al. 2020): from the assets "dists" and "lpips" (`DISTSNetwork`), fetched where missing.

    Raises AssetNotCached or AssetError where they cannot be had.
    """

    name = "dists"

    def __init__(self) -> None:
        super().__init__(DISTSNetwork.load())


def _squeeze() -> nn.Module:
    try:
        from lpips import LPIPS as Network
    except ImportError as error:
        raise ImportError(
            f"{needs('LPIPS over SqueezeNet', 'lpips', 'torchvision')}; without them there are 'vgg' and "
            "'alex'"
        ) from error
    return Network(net="squeeze", verbose=False).eval().requires_grad_(False)


def _frames(images: Tensor) -> Tensor:
    """Video [B, C, T, H, W] as images [B * T, C, H, W]; images as they are."""
    return images if images.ndim == 4 else images.transpose(1, 2).flatten(0, 1)
