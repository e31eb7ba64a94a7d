"""Pictures, or sounds, of ten classes that a language model can be asked for by name, and what reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spae import data
from spae.data.mnist import WORDS
from spae.data.open import parse
from spae.eval.classifier import PixelClassifier
from spae.eval.images import stack

_EXAMPLES = 3_000  # garments that examples are drawn from
_LEARNT = 6_000  # garments that the classifier is fitted to
_HELD_OUT = 500


@dataclass(frozen=True)
class Drawable:
    """images: float32 [N, C, size, size] in [-1, 1], what examples are drawn from. labels: int64 [N]. names:
    of the classes. held_out: images float32 [M, C, size, size] of nobody's context. classifier: says the
    class of each image.

    The sets here raise ValueError for a size other than their own, 32, and ImportError without scikit-learn.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    held_out: Tensor
    classifier: PixelClassifier


def digits(size: int) -> Drawable:
    """Of MNIST: examples and the classifier have all 4,500 training digits."""
    train, test = (data.load("mnist", split, size=size) for split in ("train", "test"))
    classifier = PixelClassifier(train.images, train.labels)
    return Drawable(train.images, train.labels, WORDS, test.images, classifier)


def garments(size: int) -> Drawable:
    """Of Fashion-MNIST; the classifier learns from the first training images, the examples among them."""
    from spae.data.fashion import CLASSES

    train, test = (data.load("fashion", split, size=size) for split in ("train", "test"))
    learnt = stack(train, range(min(_LEARNT, len(train))))
    labels = torch.as_tensor(train.labels[:_LEARNT])
    held_out = stack(test, range(min(_HELD_OUT, len(test))))
    classifier = PixelClassifier(learnt, labels)
    return Drawable(learnt[:_EXAMPLES], labels[:_EXAMPLES], CLASSES, held_out, classifier)


def spoken_digits(size: int, place: str) -> Drawable:
    """The spectrograms of the Free Spoken Digit Dataset at a path: examples and the classifier have all 2,700
    training recordings."""
    from spae.data.recordings import SpokenDigits

    train, test = (SpokenDigits(place, split, size) for split in ("train", "test"))
    labels = torch.as_tensor(train.labels)
    return Drawable(train.images, labels, WORDS, test.images, PixelClassifier(train.images, labels))


DRAWABLE: dict[str, Callable[[int], Drawable]] = {"digits": digits, "garments": garments}
_SPOKEN = "spoken-digits"


def check_drawable(name: str) -> None:
    """Raises ValueError unless this is one of `DRAWABLE`, or "spoken-digits:PATH"."""
    if name not in DRAWABLE and not name.startswith(f"{_SPOKEN}:"):
        raise ValueError(f"data: expected {', '.join(DRAWABLE)} or {_SPOKEN}:PATH, got {name!r}")


def drawable(name: str, size: int) -> Drawable:
    """What a name says that `check_drawable` takes."""
    check_drawable(name)
    return DRAWABLE[name](size) if name in DRAWABLE else spoken_digits(size, parse(name)[1])
