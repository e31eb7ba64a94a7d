"""Named features of images and clips, whose distributions are compared: what Inception is to the FID and I3D
to the FVD."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spae.data.images import to_bytes
from spae.eval.statistics import Interval
from spae.metrics import class_score, frechet_distance, kernel_distance
from spae.optional import import_beside_torchvision, needs

_SIZE = 224  # what Lite0 was trained at
_FRAME_SIZE = 128  # of clips, whose frames are many
_FRAMES = 64  # at once
_Z95 = 1.96


@dataclass(frozen=True)
class ImageFeatures:
    """A network that sees images, or clips.

    name: stands beside every figure, for no two networks' figures compare. of: images [B, 3, H, W] in
    [-1, 1] to features [B, E] and the log-probabilities of its classes [B, classes].
    """

    name: str
    of: Callable[[Tensor], tuple[Tensor, Tensor]]

    @classmethod
    def lite0(cls, size: int = _SIZE) -> ImageFeatures:
        """EfficientNet-Lite0 at `size` x `size`: the 1,280 features before its 1,000 classes of ImageNet.

        Raises AssetNotCached or AssetError where the weights cannot be had.
        """
        from spae.models.lite0 import Lite0

        model = Lite0.load()

        def of(images: Tensor) -> tuple[Tensor, Tensor]:
            features = model.embed(images, size=size)
            return features, model.classifier(features).log_softmax(1)

        return cls("Lite0", of)

    @classmethod
    def inception(cls, weights: str | Path) -> ImageFeatures:
        """Inception-v3 of the FID, KID and Inception score, by torch-fidelity: 2,048 features, 1,008 classes.

        weights: the file `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity's first release, which
        is not fetched here. Pixels are rounded to 0..255, as those of files are.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file of something else than tensors by name, or of another network.
            ImportError: torch-fidelity or torchvision is missing.
        """
        missing = needs("Inception", "torch-fidelity", "torchvision")
        fidelity = import_beside_torchvision("torch_fidelity.feature_extractor_inceptionv3", missing)
        if not Path(weights).is_file():
            raise FileNotFoundError(f"weights: expected a file of Inception's weights, got {str(weights)!r}")
        try:
            # torch-fidelity would execute what a pickle asks for.
            torch.load(weights, map_location="cpu", weights_only=True)
            network = fidelity.FeatureExtractorInceptionV3(
                "Inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
            )
        except (pickle.UnpicklingError, RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"weights: expected Inception's, got {str(weights)!r} ({reason})") from error

        def of(images: Tensor) -> tuple[Tensor, Tensor]:
            features, logits = network(torch.from_numpy(to_bytes(images)).movedim(-1, 1).contiguous())
            return features, logits.log_softmax(1)

        return cls("Inception", of)

    @classmethod
    def lite0_over_time(cls) -> ImageFeatures:
        """`over_time` of `lite0` at 128 x 128, which raises the same."""
        return cls.lite0(_FRAME_SIZE).over_time()

    def over_time(self) -> ImageFeatures:
        """Of clips [B, 3, T, H, W], T of at least 2: the mean of the frames' features beside the mean
        absolute change from each to the next, [B, 2 E], and the log of the frames' mean probabilities."""

        def of(clips: Tensor) -> tuple[Tensor, Tensor]:
            frames = clips.transpose(1, 2)
            parts = [self.of(batch) for batch in frames.flatten(0, 1).split(_FRAMES)]
            features, classes = (
                torch.cat(part).float().unflatten(0, frames.shape[:2]) for part in zip(*parts, strict=True)
            )
            seen = torch.cat([features.mean(1), features.diff(dim=1).abs().mean(1)], 1)
            return seen, classes.exp().mean(1).log()

        return ImageFeatures(f"{self.name} over time", of)

    @torch.no_grad()
    def all_of(self, images: Tensor, *, batch_size: int = 64) -> tuple[Tensor, Tensor]:
        """Of images [N, 3, H, W] or clips, in batches: float32 [N, E], [N, classes]."""
        parts = [self.of(batch) for batch in images.split(batch_size)]
        features, classes = (torch.cat(part).float().cpu() for part in zip(*parts, strict=True))
        return features, classes


def compare(reference: Tensor, features: Tensor, classes: Tensor) -> dict[str, Any]:
    """What reconstructions' features and classes say beside their originals' features [N, E].

    "frechet", "kernel" with its 95% interval (`Interval._asdict()`), "class_score": see `spae.metrics`.
    """
    value, error = kernel_distance(reference, features)
    interval = Interval(value, value - _Z95 * error, value + _Z95 * error)
    return {
        "frechet": frechet_distance(reference, features),
        "kernel": interval._asdict(),
        "class_score": class_score(classes),
    }
