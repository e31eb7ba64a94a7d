"""What a frozen image encoder says of a whole image, in a space that it shares with texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spae import assets
from spae.frozen import Frozen
from spae.models.batch_norm import same_dtype
from spae.models.lite0 import EMBED_DIM, NUM_CLASSES, Lite0

_ASSET = "efficientnet-lite0"
_MIN_PIXELS = 128


class GlobalFeatures(nn.Module):
    """Images float [B, 3, H, W] in [-1, 1] -> unit vectors float32 [B, E], by the frozen EfficientNet-Lite0.

    The network is `Frozen`: in no state dict. What takes it to the texts' space is small, and in the state
    dict:

    - "ridge": a linear map of the pooled features, (x - mean) / scale @ weight;
    - "conse": the mean of the `classes`' vectors, weighted by the probabilities of the `top` likeliest
      (Norouzi et al. 2013).

    kind: "ridge" or "conse". tensors: weight [1280, E], mean and scale [1280], or classes [1000, E]; None: a
    state dict is to bring them.
    """

    weight: Tensor
    mean: Tensor
    scale: Tensor
    classes: Tensor

    def __init__(
        self, kind: str, width: int, tensors: Mapping[str, Tensor] | None = None, *, top: int = 10
    ) -> None:
        super().__init__()
        shapes = {
            "ridge": {"weight": (EMBED_DIM, width), "mean": (EMBED_DIM,), "scale": (EMBED_DIM,)},
            "conse": {"classes": (NUM_CLASSES, width)},
        }[kind]
        self.kind, self.top = kind, top
        for name, shape in shapes.items():
            value = torch.zeros(shape) if tensors is None else tensors[name].detach().float().cpu().clone()
            if value.shape != shape:
                raise ValueError(f"{name}: expected {list(shape)}, got {list(value.shape)}")
            self.register_buffer(name, value)
        self._frozen = Frozen(Lite0.load())

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        network = self._frozen.network
        size = _MIN_PIXELS if min(images.shape[2:]) < _MIN_PIXELS else None
        # Not under autocast: the words of an image must not depend on it.
        with torch.autocast(images.device.type, enabled=False):
            pooled = network.embed(images.float(), size=size)
            if self.kind == "ridge":
                found = ((pooled - self.mean) / self.scale) @ self.weight
            else:
                probabilities, classes = network.classifier(pooled).softmax(-1).topk(self.top)
                found = torch.einsum("bt,bte->be", probabilities, self.classes[classes])
        return nn.functional.normalize(found, dim=-1)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint says of it beside its tensors."""
        about = {"name": f"{self.kind}-lite0", "checksum": assets.REGISTRY[_ASSET].files[0].sha256}
        return about | ({"top": self.top} if self.kind == "conse" else {})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GlobalFeatures:
        super()._apply(same_dtype(fn), recurse)  # words do not depend on the precision of a model
        self._frozen.follow(fn)
        return self


class ScoredFeatures:
    """Any `ImageTextScorer`'s `image_features` in the place of `GlobalFeatures`: in no state dict, shared by
    deep copies."""

    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer

    def __call__(self, images: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return self.scorer.image_features(images.float()).to(images.device, torch.float32)

    def identity(self) -> dict[str, Any]:
        return {"name": self.scorer.name, "checksum": self.scorer.checksum}

    def __deepcopy__(self, memo: dict[int, Any]) -> ScoredFeatures:
        return self
