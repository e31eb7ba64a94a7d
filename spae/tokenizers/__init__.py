"""Image tokenizers, all with the face of `Tokenizer`."""

from spae.tokenizers.base import SPAEOutput, Tokenizer, bundled_models
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.lqae import LQAE, LQAEConfig
from spae.tokenizers.spae import SPAE
from spae.tokenizers.tokens import PyramidTokens
from spae.tokenizers.vqgan import VQGAN, VQGANConfig

__all__ = [
    "LQAE",
    "SPAE",
    "VQGAN",
    "LQAEConfig",
    "PyramidTokens",
    "SPAEConfig",
    "SPAEOutput",
    "Tokenizer",
    "VQGANConfig",
    "bundled_models",
]
