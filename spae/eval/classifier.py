"""What a picture reads as."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from spae.data.mnist import MNISTDigits
from spae.eval.centroids import lite0_features
from spae.optional import needs


class Classifier:
    """A support vector machine (radial basis functions) over a vector of each image; a subclass says which.

    images: float32 [N, 3, H, W] in [-1, 1]. labels: int64 [N].

    Raises ImportError without scikit-learn.
    """

    what: ClassVar[str]
    options: ClassVar[dict[str, Any]]

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        try:
            from sklearn.svm import SVC
        except ImportError as error:
            raise ImportError(needs(f"the classifier of {self.what}", "scikit-learn")) from error
        self._machine = SVC(**self.options).fit(self.rows(images), labels.numpy())

    def rows(self, images: Tensor) -> NDArray[Any]:
        """The vector of each image, float32 [N, E]."""
        raise NotImplementedError

    def predict(self, images: Tensor) -> Tensor:
        """The class that each image [N, 3, H, W] in [-1, 1] is read as, int64 [N]."""
        return torch.from_numpy(self._machine.predict(self.rows(images)))

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of images [N, 3, H, W] in [-1, 1] read as their label, int64 [N]."""
        return (self.predict(images) == labels).double().mean().item()


class PixelClassifier(Classifier):
    """Over the pixels of grey images: C = 10 and gamma = 0.03, the best of a few by threefold
    cross-validation on training digits."""

    what, options = "pixels", {"C": 10.0, "gamma": 0.03}

    def rows(self, images: Tensor) -> NDArray[Any]:
        return ((images[:, 0] + 1) / 2).flatten(1).numpy()


class DigitClassifier(PixelClassifier):
    """A `PixelClassifier` of the 4,500 original training digits."""

    def __init__(self) -> None:
        train = MNISTDigits("train")
        super().__init__(train.images, train.labels)


class FeatureClassifier(Classifier):
    """Over Lite0's features, which a network trained on ImageNet makes of any picture: C = 10."""

    what, options = "features", {"C": 10.0}

    def rows(self, images: Tensor) -> NDArray[Any]:
        return torch.stack(list(lite0_features(dict(enumerate(images))).values())).numpy()
