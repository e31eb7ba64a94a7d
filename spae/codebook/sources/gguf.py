"""Codebooks from GGUF files: a model's input embeddings and its tokenizer's vocabulary."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spae import assets
from spae.codebook import vocabulary
from spae.codebook.data import CodebookData
from spae.codebook.storage import prepared
from spae.optional import needs

if TYPE_CHECKING:
    from gguf import GGUFReader

_VERSION = 1  # of what the derived tables hold: words, escapes, round trips
_GEMMA_SIZE = 65_536
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # GGUF's token types; 5 is "unused"
_PIECES = {"smollm": vocabulary.smollm_piece, "gpt-2": vocabulary.gpt2_piece}


def read(
    path: str | os.PathLike[str],
    *,
    ids: Sequence[int] | None = None,
    name: str | None = None,
    cache: bool = True,
) -> CodebookData:
    """See `Codebook.from_gguf`."""
    file = Path(path)
    name = name or file.stem
    if not cache:
        return _read_gguf(file, ids, name)
    status = file.stat()
    key = (
        f"{file.resolve()} {status.st_size} {status.st_mtime_ns} {name} {None if ids is None else list(ids)}"
    )
    key = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return prepared(f"codebooks/gguf-{key}-v{_VERSION}", lambda: _read_gguf(file, ids, name))


def _derived(name: str, asset: str) -> str:
    """The cache entry of a table that is made from an asset's first file."""
    return f"codebooks/{name}-{assets.REGISTRY[asset].files[0].sha256[:12]}-v{_VERSION}"


def smollm2(progress: bool) -> CodebookData:
    """SmolLM2's whole vocabulary, 49,152 x 576."""
    return prepared(_derived("smollm2", "smollm2"), lambda: _smollm2(progress))


def gemma3_65k(progress: bool) -> CodebookData:
    """The first 65,536 normal pieces of Gemma-3's vocabulary, x 640."""
    return prepared(_derived("gemma3-65k", "gemma3"), lambda: _gemma(progress))


def _smollm2(progress: bool) -> CodebookData:
    return _read_gguf(assets.require("smollm2", progress=progress), None, "smollm2")


def _gemma(progress: bool) -> CodebookData:
    file = assets.require("gemma3", progress=progress)
    if progress:
        print("spae: preparing the table gemma3-65k, once (about 20 s)", file=sys.stderr, flush=True)
    reader = _open_gguf(file)
    types = _field(reader, "token_type")
    normal = [i for i, kind in enumerate(types) if kind == _NORMAL][:_GEMMA_SIZE]
    return _from_reader(reader, normal, "gemma3-65k")


def _read_gguf(file: Path, ids: Sequence[int] | None, name: str) -> CodebookData:
    try:
        return _from_reader(_open_gguf(file), ids, name)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _open_gguf(file: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ImportError(needs("reading a GGUF file", "gguf")) from error
    return GGUFReader(file)


def _field(reader: GGUFReader, key: str, default: Any = ...) -> Any:
    field = reader.get_field(f"tokenizer.ggml.{key}")
    if field is None and default is ...:
        raise ValueError(f"expected tokenizer.ggml.{key}, from which its vocabulary is read, got none")
    return default if field is None else field.contents()


def _from_reader(reader: GGUFReader, ids: Sequence[int] | None, name: str) -> CodebookData:
    from gguf.quants import dequantize

    tokens = _field(reader, "tokens")
    llm_ids = list(range(len(tokens))) if ids is None else [int(i) for i in ids]
    if wrong := [i for i in llm_ids if not 0 <= i < len(tokens)]:
        raise ValueError(f"ids: expected 0 to {len(tokens) - 1}, got {wrong[0]}")
    table = next((tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"), None)
    if table is None or len(table.data) < len(tokens):
        rows = "none" if table is None else f"{len(table.data)} rows"
        raise ValueError(f"expected token_embd.weight with {len(tokens)} rows or more, got {rows}")
    types = _field(reader, "token_type", [_NORMAL] * len(tokens))
    byte_level = _field(reader, "model") == "gpt2"
    spellings = [_spelling(token, kind, byte_level) for token, kind in zip(tokens, types, strict=True)]
    texts = [vocabulary.decoded(spelling) for spelling in spellings]
    # Of several ids that write one text, the tokenizer reads it as the added token, else as the normal one;
    # bytes are what it falls back on for characters that no token writes.
    added = _owners(texts, types, (_UNKNOWN, _CONTROL, _USER_DEFINED))
    owners = _owners(texts, types, (_BYTE,)) | _owners(texts, types, (_NORMAL,))
    words = vocabulary.distinct_words(spellings, _owners(texts, types, set(types)) | owners | added)
    is_one_token = _merges(reader, types)
    if is_one_token is None:
        round_trips = [False] * len(llm_ids)
    else:
        wanted = [texts[i] for i in llm_ids]
        round_trips = vocabulary.read_back(
            wanted, llm_ids, vocabulary.AddedTokens(added), is_one_token, owners
        )
    return CodebookData.of(
        [words[i] for i in llm_ids],
        torch.from_numpy(dequantize(table.data[llm_ids], table.tensor_type)),
        torch.tensor(llm_ids),
        round_trips=torch.tensor(round_trips),
        name=name,
    )


def _owners(texts: Sequence[str | None], types: Sequence[int], kinds: Collection[int]) -> dict[str, int]:
    """The first id of some kinds that writes each text."""
    owners: dict[str, int] = {}
    for i, (text, kind) in enumerate(zip(texts, types, strict=True)):
        if text and kind in kinds:
            owners.setdefault(text, i)
    return owners


def _spelling(token: str, kind: int, byte_level: bool) -> bytes:
    """The bytes that a GGUF's token writes."""
    if kind == _BYTE:  # written <0x41>
        return bytes([int(token[3:5], 16)])
    if kind in (_UNKNOWN, _CONTROL):
        return token.encode("utf-8", "surrogatepass")
    if not byte_level:
        return vocabulary.spm_bytes(token)
    spelled = vocabulary.byte_level_bytes(token) if kind != _USER_DEFINED else None
    return token.encode("utf-8", "surrogatepass") if spelled is None else spelled


def _merges(reader: GGUFReader, types: Sequence[int]) -> Callable[[str], bool] | None:
    """Whether a text is one token to the file's tokenizer, or None (with a warning) if unknown."""
    model, rule = _field(reader, "model"), _field(reader, "pre", "default")
    if model == "gpt2" and rule in _PIECES:
        return vocabulary.ByteLevelMerges(_field(reader, "merges"), _PIECES[rule]).is_one_token
    if model == "llama" and not _field(reader, "add_space_prefix", True):
        scores = zip(_field(reader, "tokens"), _field(reader, "scores"), types, strict=True)
        return vocabulary.ScoredMerges(
            {token: score for token, score, kind in scores if kind == _NORMAL}
        ).is_one_token
    warnings.warn(
        f"which words read back as one token is not known for tokenizer model {model!r}, "
        f"pre-tokenizer {rule!r}: round_trips is False everywhere "
        "(Codebook.from_transformers asks the tokenizer itself)",
        stacklevel=2,
    )
    return None
