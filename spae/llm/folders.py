"""Language models on disk: every source as a folder that transformers loads, converted once."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spae import assets
from spae.assets.hub import is_repository, snapshot
from spae.optional import needs

NAMES = ("smollm2", "gemma3")
_VERSION = 2  # of what a converted folder holds
_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZER = ("*.json", "*.txt", "*.model", "*.jinja")  # and what configures it
_EXPECTED = (
    f"one of {', '.join(NAMES)}, a GGUF file, a folder with config.json, a hub repository or a server's URL"
)


def folder(source: str | os.PathLike[str], *, progress: bool = True) -> tuple[str, str, Path]:
    """(name, identity, folder) of a model: an asset's name, a GGUF file, a folder of transformers or a
    repository of the hub, which is downloaded.

    A GGUF is converted the first time, into the cache: dequantised to float32, as safetensors, with a config
    that names the architecture and no quantization, so that it loads in seconds and can be served.
    The identity changes with the weights.
    """
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source: expected {_EXPECTED}, got {source!r:.80}")
    if source in NAMES:
        file = assets.require(str(source), progress=progress)
        digest = next(f.sha256 for f in assets.REGISTRY[str(source)].files if f.name == file.name)
        return _converted(str(source), digest, file, progress)
    path = Path(source)
    if path.is_file():
        return _converted(path.stem, _of_files([path]), path, progress)
    if is_repository(source):
        path = _downloaded(str(source), [*_TOKENIZER, "*.safetensors"])
    if (path / "config.json").is_file():
        weights = sorted(file for pattern in _WEIGHTS for file in path.glob(pattern))
        if not weights:
            raise ValueError(f"source: expected weights ({', '.join(_WEIGHTS)}) in {path}, got none")
        name = Path(source).name if is_repository(source) else path.resolve().name
        return name, f"{name}-{_of_files([path / 'config.json', *weights])[:12]}", path
    raise ValueError(f"source: expected {_EXPECTED}, got {str(source)!r}")


def tokenizer_folder(source: str | os.PathLike[str]) -> Path:
    """The folder of a model's tokenizer alone: as `folder`, but no weights are asked for."""
    if is_repository(source):
        return _downloaded(str(source), _TOKENIZER)
    if isinstance(source, str | os.PathLike) and source not in NAMES and any(Path(source).glob("tokenizer*")):
        return Path(source)
    return folder(source)[2]


def _downloaded(name: str, patterns: Sequence[str]) -> Path:
    try:
        return snapshot(name, patterns)
    except LookupError as error:
        raise ValueError(
            f"source: expected {_EXPECTED}, got {name!r}, which the hub does not give: {error}"
        ) from error


def _of_files(files: list[Path]) -> str:
    status = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(status).encode()).hexdigest()


def _converted(name: str, digest: str, file: Path, progress: bool) -> tuple[str, str, Path]:
    identity = f"{name}-{digest[:12]}"

    def build(target: Path) -> None:
        if progress:
            print(f"spae: converting {file.name}, once (about 20 s)", file=sys.stderr, flush=True)
        convert(file, target)

    return name, identity, assets.cached(f"llms/{identity}-v{_VERSION}", build)


def convert(file: Path, target: Path) -> None:
    """A GGUF file as a folder that transformers loads and serves."""
    transformers = require_transformers()
    try:
        import gguf  # noqa: F401  # transformers' own message does not name the package
    except ImportError as error:
        raise ImportError(needs("reading a GGUF file", "gguf")) from error
    options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **options)
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    # The loaded model counts as quantized and cannot be saved: its values go into a fresh one.
    config = copy.deepcopy(model.config)
    del config.quantization_config
    config.architectures = [type(model).__name__]
    with torch.device("meta"):
        fresh = type(model)(config)
    fresh.load_state_dict(model.state_dict(), assign=True)
    fresh.tie_weights()
    # Else `transformers serve` ignores a request's temperature; 0 still means greedy.
    fresh.generation_config.do_sample = True
    fresh.save_pretrained(target)
    tokenizer.save_pretrained(target)


def require_transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(needs("a language model on this machine", "transformers")) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers
