"""Where codebooks come from: by name, GGUF files, transformers models, and tiktoken's cl100k_base."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spae import assets
from spae.codebook import storage, vocabulary
from spae.codebook.storage import prepared
from spae.codebook.table import Codebook
from spae.optional import needs

if TYPE_CHECKING:
    from gguf import GGUFReader

Encode = Callable[[list[str]], Tensor]
"""A text encoder: n texts -> floating-point [n, D]."""

NAMES = ("smollm2", "gemma3-65k", "cl100k")
_VERSION = 1  # of what the derived tables hold: words, escapes, round trips
_GEMMA_SIZE = 65_536
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # GGUF's token types; 5 is "unused"
_PIECES = {"smollm": vocabulary.smollm_piece, "gpt-2": vocabulary.gpt2_piece}


def load(source: str | os.PathLike[str], *, encode: Encode | None = None, progress: bool = True) -> Codebook:
    """`Codebook.load` without its normalisation."""
    if encode is not None and source != "cl100k":
        raise ValueError(f"encode: only 'cl100k' takes a text encoder, {source!r} has vectors of its own")
    if source in NAMES:
        book = _named(str(source), encode, progress)
        # With an encoder of the caller's, the name alone does not make the table again.
        book.source = None if encode else str(source)
        return book
    path = Path(source)
    if path.is_dir():
        return storage.read(path)
    if path.is_file():
        return from_gguf(path)
    raise ValueError(
        f"source: expected one of {', '.join(NAMES)}, a folder or a GGUF file, got {str(source)!r}"
    )


def _named(name: str, encode: Encode | None, progress: bool) -> Codebook:
    if name == "smollm2":
        return prepared(_derived("smollm2", "smollm2"), lambda: _smollm2(progress))
    if name == "gemma3-65k":
        return prepared(_derived("gemma3-65k", "gemma3"), lambda: _gemma(progress))
    from spae.codebook import cl100k

    return cl100k.load(encode, progress=progress)


def from_gguf(
    path: str | os.PathLike[str],
    *,
    ids: Sequence[int] | None = None,
    name: str | None = None,
    cache: bool = True,
) -> Codebook:
    """`Codebook.from_gguf`."""
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


def from_transformers(model: Any, tokenizer: Any = None, *, name: str | None = None) -> Codebook:
    """`Codebook.from_transformers`."""
    if isinstance(model, str | os.PathLike):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = tokenizer or AutoTokenizer.from_pretrained(model)
        model = AutoModelForCausalLM.from_pretrained(model)
    elif tokenizer is None:
        raise TypeError("tokenizer: expected the model's tokenizer, got None (only a folder brings its own)")
    table = model.get_input_embeddings().weight.detach().float().cpu().clone()
    count = min(len(table), len(tokenizer))  # some tables are padded, some tokenizers extended
    ids = list(range(count))
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    texts = [tokenizer.decode([i], **options) for i in ids]
    readings = tokenizer(texts, add_special_tokens=False)["input_ids"]
    round_trips = [list(reading) == [i] for i, reading in zip(ids, readings, strict=True)]
    # A replacement character that does not read back stands for bytes that decode could not show.
    tokens = tokenizer.convert_ids_to_tokens(ids)
    spellings = [
        text.encode("utf-8", "surrogatepass")
        if round_trip or "\ufffd" not in text
        else vocabulary.byte_level_bytes(token) or b""
        for text, token, round_trip in zip(texts, tokens, round_trips, strict=True)
    ]
    owners: dict[str, int] = {}
    for wanted in (True, False):  # the id that a text is read back as owns it, else the first that writes it
        for i, (spelling, round_trip) in enumerate(zip(spellings, round_trips, strict=True)):
            if round_trip == wanted and (text := vocabulary.decoded(spelling)):
                owners.setdefault(text, i)
    words = vocabulary.distinct_words(spellings, owners)
    name = name or str(getattr(model, "name_or_path", "")) or type(model).__name__
    return Codebook(words, table[:count], round_trips=torch.tensor(round_trips), name=name)


def _derived(name: str, asset: str) -> str:
    """The cache entry of a table that is made from an asset's first file."""
    return f"codebooks/{name}-{assets.REGISTRY[asset].files[0].sha256[:12]}-v{_VERSION}"


def _smollm2(progress: bool) -> Codebook:
    return _read_gguf(assets.require("smollm2", progress=progress), None, "smollm2")


def _gemma(progress: bool) -> Codebook:
    file = assets.require("gemma3", progress=progress)
    if progress:
        print("spae: preparing the table gemma3-65k, once (about 20 s)", file=sys.stderr, flush=True)
    reader = _open_gguf(file)
    types = _field(reader, "token_type")
    normal = [i for i, kind in enumerate(types) if kind == _NORMAL][:_GEMMA_SIZE]
    return _from_reader(reader, normal, "gemma3-65k")


def _read_gguf(file: Path, ids: Sequence[int] | None, name: str) -> Codebook:
    try:
        return _from_reader(_open_gguf(file), ids, name)
    except ValueError as error:
        raise ValueError(f"cannot make a codebook from {file}: {error}") from error


def _open_gguf(file: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ImportError(needs("reading a GGUF file", "gguf")) from error
    return GGUFReader(file)


def _field(reader: GGUFReader, key: str, default: Any = ...) -> Any:
    field = reader.get_field(f"tokenizer.ggml.{key}")
    if field is None and default is ...:
        raise ValueError(f"it has no tokenizer.ggml.{key}, so its vocabulary cannot be read")
    return default if field is None else field.contents()


def _from_reader(reader: GGUFReader, ids: Sequence[int] | None, name: str) -> Codebook:
    from gguf.quants import dequantize

    tokens = _field(reader, "tokens")
    llm_ids = list(range(len(tokens))) if ids is None else [int(i) for i in ids]
    if wrong := [i for i in llm_ids if not 0 <= i < len(tokens)]:
        raise ValueError(f"ids: expected 0 to {len(tokens) - 1}, got {wrong[0]}")
    table = next((tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"), None)
    if table is None or len(table.data) < len(tokens):
        rows = "none" if table is None else f"{len(table.data)} rows"
        raise ValueError(f"expected token_embd.weight with {len(tokens)} rows or more, found {rows}")
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
    return Codebook(
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
