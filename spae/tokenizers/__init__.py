"""Image tokenizers, all with the face of `Tokenizer`."""

from spae.tokenizers.base import SPAEOutput, Tokenizer, bundled_models
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.spae import SPAE
from spae.tokenizers.tokens import PyramidTokens

__all__ = ["SPAE", "PyramidTokens", "SPAEConfig", "SPAEOutput", "Tokenizer", "bundled_models"]
