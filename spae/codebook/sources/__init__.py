"""Where codebooks come from: names, folders, GGUF files, transformers models, tiktoken's cl100k_base."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from spae.codebook import storage
from spae.codebook.data import CodebookData
from spae.codebook.sources import cl100k, gguf, llama2

Encode = Callable[[list[str]], Tensor]
"""A text encoder: n texts -> floating-point [n, D]."""

_MODELS = {"smollm2": gguf.smollm2, "gemma3-65k": gguf.gemma3_65k, "llama2": llama2.load}
NAMES = (*_MODELS, "cl100k")
_EXPECTED = f"one of {', '.join(NAMES)}, a folder or a GGUF file"


def load(
    source: str | os.PathLike[str], *, encode: Encode | None = None, progress: bool = True
) -> CodebookData:
    """The whole table of a source, as it is; see `Codebook.load`."""
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source: expected {_EXPECTED}, got {source!r:.80}")
    if encode is not None and source != "cl100k":
        raise ValueError(f"encode: expected None but for 'cl100k', got a text encoder for {source!r:.80}")
    if source == "cl100k":
        # With an encoder of the caller's, the name alone does not make the table again.
        return cl100k.load(encode, progress=progress).from_source(None if encode else "cl100k")
    if source in _MODELS:
        return _MODELS[str(source)](progress).from_source(str(source))
    path = Path(source)
    if path.is_dir():
        return storage.read(path)
    if path.is_file():
        return gguf.read(path)
    raise ValueError(f"source: expected {_EXPECTED}, got {str(source)!r}")
