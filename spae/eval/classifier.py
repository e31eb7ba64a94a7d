"""What a picture reads as."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spae.data.mnist import MNISTDigits
from spae.eval.centroids import lite0_features
from spae.optional import needs


class PixelClassifier:
    """A support vector machine over the pixels of labelled grey images.

    Radial basis functions, C = 10 and gamma = 0.03, the best of a few by threefold cross-validation on
    training digits.

    images: [N, 3, H, W] in [-1, 1]. labels: int64 [N].
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        machine = _svc("the classifier of pixels", C=10.0, gamma=0.03)
        self._machine = machine.fit(_rows(images), labels.numpy())

    def predict(self, images: Tensor) -> Tensor:
        """The class that each image [N, 3, H, W] in [-1, 1] is read as, int64 [N]."""
        return torch.from_numpy(self._machine.predict(_rows(images)))

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of images [N, 3, H, W] in [-1, 1] read as their label."""
        return (self.predict(images) == labels).double().mean().item()


class DigitClassifier(PixelClassifier):
    """A `PixelClassifier` of the 4,500 original training digits."""

    def __init__(self) -> None:
        train = MNISTDigits("train")
        super().__init__(train.images, train.labels)


class FeatureClassifier:
    """A support vector machine (radial basis functions, C = 10) over Lite0's features of labelled images,
    which a network trained on ImageNet makes of any picture.

    images: [N, 3, H, W] in [-1, 1]. labels: int64 [N].
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        machine = _svc("the classifier of features", C=10.0)
        self._machine = machine.fit(_features(images), labels.numpy())

    def predict(self, images: Tensor) -> Tensor:
        """The class that each image [N, 3, H, W] in [-1, 1] is read as, int64 [N]."""
        return torch.from_numpy(self._machine.predict(_features(images)))


def _svc(what: str, **options: Any) -> Any:
    try:
        from sklearn.svm import SVC
    except ImportError as error:
        raise ImportError(needs(what, "scikit-learn")) from error
    return SVC(**options)


def _features(images: Tensor):
    rows = lite0_features(dict(enumerate(images)))
    return torch.stack(list(rows.values())).numpy()


def _rows(images: Tensor):
    return ((images[:, 0] + 1) / 2).flatten(1).numpy()
