"""Low-rank adapters (LoRA; Hu et al. 2021) of language models, in peft's own files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spae.checksum import checksum
from spae.configs import read_object
from spae.optional import needs

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an adapter."""
    return (Path(path) / CONFIG).is_file()


def base_of(folder: str | os.PathLike[str]) -> str:
    """The language model that an adapter was trained for, as `spae.llm.load` names it.

    Raises ValueError where the adapter does not say.
    """
    name = read_object(Path(folder) / CONFIG, "an adapter").get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{Path(folder) / CONFIG}: expected base_model_name_or_path, got {name!r}")
    return name


def identity_of(folder: str | os.PathLike[str]) -> str:
    """Changes with the adapter's configuration and weights."""
    return checksum([(Path(folder) / name).read_bytes().hex() for name in (CONFIG, WEIGHTS)])[:12]


def merged(model: Any, folder: str | os.PathLike[str]) -> Any:
    """A transformers model with an adapter's weights added to its own: reading costs what it did before."""
    return require_peft().PeftModel.from_pretrained(model, str(folder)).merge_and_unload()


@contextmanager
def adapted(model: Any, name: str, **options: Any) -> Iterator[Any]:
    """A transformers model with a new adapter, whose weights alone train, as a `PeftModel`; behind the
    context the model is as it was. name: of the model, for `base_of`. options: of peft's `LoraConfig`."""
    peft = require_peft()
    config = peft.LoraConfig(task_type="CAUSAL_LM", **options)
    wrapped = peft.get_peft_model(model, config)
    # peft takes the model's own name, which is a folder of the cache.
    config.base_model_name_or_path = name
    try:
        yield wrapped
    finally:
        wrapped.unload()


def save(wrapped: Any, folder: str | os.PathLike[str]) -> None:
    """Write the adapter of a `PeftModel` by peft, without a model card."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the base model's folder is not on the hub
        wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    (Path(folder) / "README.md").unlink(missing_ok=True)


def require_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError(needs("LoRA", "peft")) from error
    return peft
