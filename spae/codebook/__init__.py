"""Frozen codebooks: words, their vectors, and the LLM ids behind them."""

from spae.codebook.code_table import CodeTable
from spae.codebook.sources import NAMES
from spae.codebook.table import Codebook

__all__ = ["NAMES", "CodeTable", "Codebook"]
