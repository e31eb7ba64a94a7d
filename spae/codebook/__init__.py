"""Frozen codebooks: words, their vectors, and the LLM ids behind them."""

from spae.codebook.choice import WordChoice
from spae.codebook.code_table import CodeTable, VectorTable, WordIds, spellings
from spae.codebook.codebook import Codebook
from spae.codebook.data import CodebookData
from spae.codebook.sources import NAMES

__all__ = [
    "NAMES",
    "CodeTable",
    "Codebook",
    "CodebookData",
    "VectorTable",
    "WordChoice",
    "WordIds",
    "spellings",
]
