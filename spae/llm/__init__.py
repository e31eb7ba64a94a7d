"""Frozen language models: one protocol, a local back end and an HTTP one."""

from spae.llm.loading import load
from spae.llm.protocol import GREEDY, ContextOverflow, Cost, FrozenLLM, LLMError, Prefix, Sampling
from spae.llm.tokens import text_of

__all__ = [
    "GREEDY",
    "ContextOverflow",
    "Cost",
    "FrozenLLM",
    "LLMError",
    "Prefix",
    "Sampling",
    "load",
    "text_of",
]
