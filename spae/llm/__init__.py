"""Frozen language models: one protocol, and back ends for models on this machine, behind HTTP servers, or of
your own (`backend`)."""

from spae.llm.loading import backend, load
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
    "backend",
    "load",
    "text_of",
]
