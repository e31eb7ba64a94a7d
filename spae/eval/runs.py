"""What the evaluations of a tokenizer with a language model share: words, keys, tables, files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from spae.eval.reconstruction import encode_all
from spae.incontext import Lexicon
from spae.llm import FrozenLLM
from spae.tokenizers import PyramidTokens, Tokenizer


def fingerprint(model: Tokenizer) -> str:
    """SHA-256 (hex) of all that decides an image's words: the weights, and the codebook that they name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def stack(dataset: Dataset[Any], items: Sequence[int]) -> Tensor:
    """The images of some items, float32 [N, C, H, W]."""
    return torch.stack([dataset[item][0] for item in items])


def encode_items(model: Tokenizer, dataset: Dataset[Any], items: Iterable[int]) -> dict[int, PyramidTokens]:
    """The tokens of those items of a data set that an evaluation shows, each one image's."""
    wanted = sorted(set(items))
    tokens = encode_all(model, stack(dataset, wanted))
    return {item: tokens[i : i + 1] for i, item in enumerate(wanted)}


def words_of(
    model: Tokenizer, llm: FrozenLLM, tokens: dict[int, PyramidTokens], num_layers: int
) -> dict[int, tuple[int, ...]]:
    """Each item's words of the first layers, as ids of the language model."""
    lexicon = Lexicon(model.codebook, model.pyramid, llm)
    return {item: lexicon.llm_ids(one.upto(num_layers))[0] for item, one in tokens.items()}


def shown(row: dict[str, Any], digits: int = 2) -> str:
    """A figure with its 95% interval, from `Interval._asdict()`."""
    return f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], note: str, command: str = "") -> str:
    """A Markdown table, a note below it, and the command that made it."""
    lines = [list(header), ["---"] * len(header), *rows]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{table}\n\n{note}" + (f"\n\n    {command}" if command else "")


def write_report(out: Path, name: str, report: dict[str, Any], table: str) -> None:
    """`name`.json and `name`.md in the folder of a run."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(table + "\n", encoding="utf-8")
