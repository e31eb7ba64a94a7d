"""Image tokenizers, all with the face of `Tokenizer`."""

from spae.tokenizers.adapters import Autoencoder
from spae.tokenizers.base import SPAEOutput, Tokenizer
from spae.tokenizers.checkpoints import SavedCodebook, bundled_models
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.learned import LearnedCodebook
from spae.tokenizers.lqae import LQAE, LQAEConfig, bert_codebook
from spae.tokenizers.registry import register
from spae.tokenizers.rq import RQ, RQConfig
from spae.tokenizers.spae import SPAE
from spae.tokenizers.tokens import PyramidTokens
from spae.tokenizers.v2l import V2LConfig, V2LTokenizer
from spae.tokenizers.vqgan import VQGAN, VQGANConfig

__all__ = [
    "LQAE",
    "RQ",
    "SPAE",
    "VQGAN",
    "Autoencoder",
    "LQAEConfig",
    "LearnedCodebook",
    "PyramidTokens",
    "RQConfig",
    "SPAEConfig",
    "SPAEOutput",
    "SavedCodebook",
    "Tokenizer",
    "V2LConfig",
    "V2LTokenizer",
    "VQGANConfig",
    "bert_codebook",
    "bundled_models",
    "register",
]
