"""SPAE, the Semantic Pyramid AutoEncoder: images as pyramids of a frozen language model's own words."""

from __future__ import annotations

from spae.codebook import Codebook, CodeTable
from spae.processing import ImageProcessor
from spae.tokenizers import (
    LQAE,
    RQ,
    SPAE,
    VQGAN,
    LearnedCodebook,
    LQAEConfig,
    PyramidTokens,
    RQConfig,
    SPAEConfig,
    SPAEOutput,
    Tokenizer,
    V2LConfig,
    V2LTokenizer,
    VQGANConfig,
    bundled_models,
)
from spae_ops import Pyramid
from spae_ops._version import __version__

__all__ = [
    "LQAE",
    "RQ",
    "SPAE",
    "VQGAN",
    "CodeTable",
    "Codebook",
    "ImageProcessor",
    "LQAEConfig",
    "LearnedCodebook",
    "Pyramid",
    "PyramidTokens",
    "RQConfig",
    "SPAEConfig",
    "SPAEOutput",
    "Tokenizer",
    "V2LConfig",
    "V2LTokenizer",
    "VQGANConfig",
    "__version__",
    "bundled_models",
    "load",
]

load = Tokenizer.from_pretrained
