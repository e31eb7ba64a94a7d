"""Frozen language models: one protocol, a local back end and an HTTP one."""

from spae.llm.loading import load
from spae.llm.protocol import GREEDY, ContextOverflow, FrozenLLM, LLMError, Prefix, Sampling

__all__ = ["GREEDY", "ContextOverflow", "FrozenLLM", "LLMError", "Prefix", "Sampling", "load"]
