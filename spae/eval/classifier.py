"""What a picture of a digit reads as."""

from __future__ import annotations

import torch
from torch import Tensor

from spae.data.mnist import MNISTDigits
from spae.optional import needs


class DigitClassifier:
    """A support vector machine fitted to the 4,500 original training digits.

    Radial basis functions, C = 10 and gamma = 0.03, the best of a few by threefold cross-validation on them.
    """

    def __init__(self) -> None:
        try:
            from sklearn.svm import SVC
        except ImportError as error:
            raise ImportError(needs("the digit classifier", "scikit-learn")) from error
        train = MNISTDigits("train")
        machine = SVC(C=10.0, gamma=0.03)  # pyright: ignore[reportArgumentType]  # unannotated there
        self._machine = machine.fit(_rows(train.images), train.labels.numpy())

    def predict(self, images: Tensor) -> Tensor:
        """The digit that each image [N, 3, 32, 32] in [-1, 1] is read as, int64 [N]."""
        return torch.from_numpy(self._machine.predict(_rows(images)))

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of images [N, 3, 32, 32] in [-1, 1] read as their label."""
        return (self.predict(images) == labels).double().mean().item()


def _rows(images: Tensor):
    return ((images[:, 0] + 1) / 2).flatten(1).numpy()
