"""LLaMA-2's 32,000 words, V2L's vocabulary, with the vectors of WordLlama: 256 wide, trained from the
model's table."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors.torch import load_file

from spae import assets
from spae.codebook import vocabulary
from spae.codebook.data import CodebookData
from spae.codebook.storage import prepared

_VERSION = 1
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_TABLE, _TOKENIZER = "l2_supercat_256.safetensors", "l2_supercat_tokenizer_config.json"


def load(progress: bool) -> CodebookData:
    """The whole table, in the order of LLaMA-2's ids."""
    entry = f"codebooks/llama2-{assets.REGISTRY['llama2'].files[0].sha256[:12]}-v{_VERSION}"
    return prepared(entry, lambda: read(assets.require("llama2", progress=progress)))


def read(folder: Path) -> CodebookData:
    """The codebook of the asset's two files in a folder.

    Which words read back as their one id is not known: the tokenizer puts a space before every text, so it
    reads "dog" as " dog".
    """
    tokenizer = json.loads((folder / _TOKENIZER).read_text(encoding="utf-8"))
    ids: dict[str, int] = tokenizer["model"]["vocab"]
    tokens = sorted(ids, key=ids.__getitem__)
    control = {token["id"] for token in tokenizer["added_tokens"]}
    spellings = [_spelling(token, ids[token] in control) for token in tokens]
    # A byte that some token writes belongs to that token: bytes are what the tokenizer falls back on.
    order = sorted(range(len(tokens)), key=lambda i: (_BYTE.fullmatch(tokens[i]) is not None, i))
    owners: dict[str, int] = {}
    for i in order:
        if text := vocabulary.decoded(spellings[i]):
            owners.setdefault(text, i)
    table = load_file(folder / _TABLE)["embedding.weight"]
    return CodebookData.of(vocabulary.distinct_words(spellings, owners), table, name="llama2")


def _spelling(token: str, control: bool) -> bytes:
    if byte := _BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return token.encode() if control else vocabulary.spm_bytes(token)
