"""Pictures of ten classes that a language model can be asked to draw by name, and what reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spae.data.mnist import WORDS, MNISTDigits
from spae.eval.classifier import DigitClassifier, PixelClassifier
from spae.eval.images import stack

Data = Literal["digits", "garments"]
_EXAMPLES = 3_000  # garments that examples are drawn from
_LEARNT = 6_000  # garments that the classifier is fitted to
_HELD_OUT = 500


@dataclass(frozen=True)
class Drawable:
    """images: float32 [N, 3, 32, 32], what examples are drawn from. labels: int64 [N]. names: of the classes.
    held_out: images [M, 3, 32, 32] of nobody's context. classifier: says the class of each image."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    held_out: Tensor
    classifier: PixelClassifier


def digits() -> Drawable:
    train = MNISTDigits("train")
    held_out = MNISTDigits("test").images
    return Drawable(train.images, train.labels, tuple(WORDS), held_out, DigitClassifier())


def garments() -> Drawable:
    """Of Fashion-MNIST; the classifier learns from the first training images, the examples among them."""
    from spae.data.fashion import CLASSES, Fashion

    train, test = Fashion("train"), Fashion("test")
    learnt = stack(train, range(_LEARNT))
    labels = torch.as_tensor(train.labels[:_LEARNT])
    classifier = PixelClassifier(learnt, labels)
    held_out = stack(test, range(_HELD_OUT))
    return Drawable(learnt[:_EXAMPLES], labels[:_EXAMPLES], CLASSES, held_out, classifier)


DRAWABLE: dict[str, Callable[[], Drawable]] = {"digits": digits, "garments": garments}
