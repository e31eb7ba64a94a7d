"""One door to every language model."""

from __future__ import annotations

import os
from typing import Any

from spae.llm.protocol import FrozenLLM


def load(source: str | os.PathLike[str] = "smollm2", **options: Any) -> FrozenLLM:
    """A frozen language model.

    Args:
        source: "smollm2" (SmolLM2-135M-Instruct), "gemma3" (Gemma-3 270M, after `spae fetch gemma3`), a GGUF
            file, a folder that transformers' `AutoModelForCausalLM` loads, or the base URL of an
            OpenAI-compatible server ("http://127.0.0.1:8000/v1").
        options: for a model on this machine the arguments of `spae.llm.local.load` (device, dtype,
            pack_tokens, progress), for a server the fields of `spae.llm.http.Server` (model, tokenizer, ..).

    Raises:
        ValueError: no such name or path.
        spae.assets.AssetNotCached: the model file must be fetched first; the message names the command.
        ImportError: the package that is missing.
    """
    if str(source).startswith(("http://", "https://")):
        from spae.llm.http import HTTPLLM, Server

        return HTTPLLM(Server(str(source), **options))
    from spae.llm import local

    return local.load(source, **options)
