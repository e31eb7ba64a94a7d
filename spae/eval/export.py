"""Prompts as JSON lines, for other harnesses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from spae.codebook import WordIds
from spae.incontext import Example, Task, prompt
from spae.incontext.prompts import Content
from spae.incontext.words import ids_of
from spae.llm import FrozenLLM


def prompt_line(
    llm: FrozenLLM,
    name: str,
    task: Task,
    condition: Content,
    images: Sequence[Sequence[WordIds]],
    choices: Sequence[str],
    answer: str,
) -> dict[str, Any]:
    """One prompt: "id"; "prompt", its text, without what the model's tokenizer puts first by itself;
    "images", the words of each image in it, of which the last is asked about; "choices" and "answer", which
    follow the prompt after a space; and "reads_back", whether the model's tokenizer makes the very same
    tokens of the text.
    """
    whole = prompt(llm, task, Example(condition), 1)
    try:
        text, reads_back = whole.text(llm), True
    except ValueError:
        ids = (
            whole.ids[len(llm.start_ids) :] if whole.ids[: len(llm.start_ids)] == llm.start_ids else whole.ids
        )
        text, reads_back = llm.decode(ids), False
    words = [[llm.decode(ids_of(word)) for word in image] for image in images]
    return {
        "id": name,
        "prompt": text,
        "images": words,
        "choices": list(choices),
        "answer": answer,
        "reads_back": reads_back,
    }


def save_prompts(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write lines of `prompt_line`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
