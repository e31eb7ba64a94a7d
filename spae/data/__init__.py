"""Datasets that come without a download."""

from spae.data.mnist import MNISTDigits

__all__ = ["MNISTDigits"]
