"""SPAE, the Semantic Pyramid AutoEncoder: images as pyramids of a frozen language model's own words."""

from spae.codebook import Codebook
from spae.processing import ImageProcessor
from spae.tokenizers import SPAE, PyramidTokens, SPAEConfig, SPAEOutput, bundled_models
from spae_ops import Pyramid
from spae_ops._version import __version__

__all__ = [
    "SPAE",
    "Codebook",
    "ImageProcessor",
    "Pyramid",
    "PyramidTokens",
    "SPAEConfig",
    "SPAEOutput",
    "__version__",
    "bundled_models",
]
