"""Codebooks from transformers models and their tokenizers."""

from __future__ import annotations

import os
from typing import Any

import torch

from spae.assets.hub import offline
from spae.codebook import vocabulary
from spae.codebook.data import CodebookData


def read(model: Any, tokenizer: Any = None, *, name: str | None = None) -> CodebookData:
    """See `Codebook.from_transformers`."""
    if isinstance(model, str | os.PathLike):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        options = {"local_files_only": offline()}
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(model, **options)
        model = AutoModelForCausalLM.from_pretrained(model, **options)
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
    return CodebookData.of(words, table[:count], round_trips=torch.tensor(round_trips), name=name)
