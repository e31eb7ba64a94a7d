"""One door to every language model, and the register of the back ends behind it."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from spae.configs import check_entries
from spae.llm.protocol import FrozenLLM

Load = Callable[..., FrozenLLM]

_BACKENDS: dict[str, Load] = {}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def backend(*schemes: str) -> Callable[[Load], Load]:
    """Registers a function that loads the models whose source begins with one of some schemes.

    ``@backend("mine://")`` over ``def load_mine(source: str, **options) -> FrozenLLM`` makes
    ``load("mine://anything", **options)`` call it. A later registration of a scheme replaces an earlier one.

    Raises ValueError for what is no scheme.
    """
    for scheme in schemes:
        if not isinstance(scheme, str) or not _SCHEME.fullmatch(scheme):
            raise ValueError(f'schemes: expected such as "mine://", got {scheme!r}')

    def register(load: Load) -> Load:
        _BACKENDS.update(dict.fromkeys(schemes, load))
        return load

    return register


def load(source: str | os.PathLike[str] = "smollm2", **options: Any) -> FrozenLLM:
    """A frozen language model.

    Args:
        source: "smollm2" (SmolLM2-135M-Instruct), "gemma3" (Gemma-3 270M, after `spae fetch gemma3`), a GGUF
            file, a folder that transformers' `AutoModelForCausalLM` loads, a hub repository ("owner/name")
            with such a model in safetensors, none of whose code is run, a folder that `spae tune` or peft
            saved an adapter in, for a model that has one of these names, the base URL of an OpenAI-compatible
            server ("http://127.0.0.1:8000/v1"), or what a back end is registered for (`spae.llm.backend`).
        options: for a model on this machine the arguments of `spae.llm.local.load` (device, dtype,
            pack_tokens, progress), for a server the fields of `spae.llm.http.Server` (model, tokenizer, ..),
            else what the back end takes.

    Raises:
        ValueError: no such name, path or scheme.
        spae.assets.AssetNotCached: the model file must be fetched first; the message names the command.
        ImportError: the package that is missing.
    """
    if (scheme := _SCHEME.match(str(source))) is None:
        from spae.llm import local

        check_entries("options", options, list(inspect.signature(local.load).parameters)[1:])
        return local.load(source, **options)
    if (found := _BACKENDS.get(scheme[0].lower())) is None:
        raise ValueError(f"source: expected a scheme of {', '.join(_BACKENDS)}, got {scheme[0]!r}")
    return found(str(source), **options)


@backend("http://", "https://")
def _served(url: str, **options: Any) -> FrozenLLM:
    from spae.llm.http import HTTPLLM, Server

    check_entries("options", options, [field.name for field in fields(Server)][1:])
    return HTTPLLM(Server(url, **options))
