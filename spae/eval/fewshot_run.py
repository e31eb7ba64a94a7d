"""Few-shot evaluations of a tokenizer and a language model, kept in a folder so that they can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from spae.eval.episodes import FewShotSetting, sample_episodes, save_episodes
from spae.eval.fewshot import MEASURES, WordImages, evaluate_fewshot
from spae.eval.reconstruction import encode_all
from spae.incontext import Lexicon
from spae.llm import FrozenLLM
from spae.llm.journal import Journal
from spae.tokenizers import Tokenizer

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class LabelledWords(NamedTuple):
    """images: as words. labels: of each shown item. query_labels: of each asked one, None where queries are
    drawn from the shown items."""

    images: WordImages
    labels: list[int]
    query_labels: list[int] | None


def digit_words(model: Tokenizer, llm: FrozenLLM, num_layers: int) -> LabelledWords:
    """The 500 held-out MNIST digits in the words of the first layers, named "zero" to "nine"."""
    from spae.data.mnist import MNISTDigits

    digits = MNISTDigits("test")
    words = _words(model, llm, digits.images, num_layers)
    return LabelledWords(WordImages(words, words, DIGIT_NAMES), digits.labels.tolist(), None)


DATA: dict[str, Callable[[Tokenizer, FrozenLLM, int], LabelledWords]] = {"digits": digit_words}


@dataclass(frozen=True)
class FewShotRun:
    """What `run_fewshot` evaluates. layers: how many layers' words an image is shown as."""

    data: str
    layers: tuple[int, ...]
    settings: tuple[FewShotSetting, ...]
    episodes: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise ValueError(f"data: expected one of {sorted(DATA)}, got {self.data!r}")
        if self.episodes < 1:
            raise ValueError(f"episodes: expected at least 1, got {self.episodes}")


def run_fewshot(
    model: Tokenizer, llm: FrozenLLM, run: FewShotRun, out: Path, *, command: str = ""
) -> dict[str, Any]:
    """Evaluate every setting and write `fewshot.json` and `fewshot.md` into `out`.

    `episodes/` there lists the episodes, which depend on the data, the setting and the seed only;
    `records.jsonl` keeps every episode's answers, so that the same call goes on where it stopped.
    """
    journal = Journal(out / "records.jsonl")
    weights = _fingerprint(model)
    rows = []
    for layers in run.layers:
        words = DATA[run.data](model, llm, layers)
        for setting in run.settings:
            episodes = sample_episodes(
                words.labels, setting, run.episodes, query_labels=words.query_labels, seed=run.seed
            )
            slug = setting.name.replace(", ", "-").replace(" ", "-")
            save_episodes(out / "episodes" / f"{slug}.jsonl", setting, episodes)
            key = f"{weights}:{llm.identity}:{run.data}:{run.seed}:{layers}:{slug}"
            row = evaluate_fewshot(
                llm, words.images, setting, episodes, seed=run.seed, journal=journal, key=key
            )
            shown = {"layers": layers, "words": model.pyramid.num_tokens_upto(layers)}
            rows.append({**shown, **asdict(setting), **row})
    report = {"command": command, "llm": llm.name, "data": run.data, "seed": run.seed, "rows": rows}
    (out / "fewshot.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / "fewshot.md").write_text(fewshot_table(report) + "\n", encoding="utf-8")
    return report


def fewshot_table(report: dict[str, Any]) -> str:
    """A report of `run_fewshot` as a Markdown table: each share with its 95% interval."""
    header = ["words", "setting", "episodes", "chance", *MEASURES]
    lines = [header, ["---"] * len(header)]
    for row in report["rows"]:
        shares = [f"{row[m]['value']:.2f} [{row[m]['low']:.2f}, {row[m]['high']:.2f}]" for m in MEASURES]
        lines.append(
            [str(row["words"]), row["setting"], str(row["episodes"]), f"{row['chance']:.2f}", *shares]
        )
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    note = f"{report['data']}, {report['llm']}, seed {report['seed']}; shares with 95% intervals."
    return f"{table}\n\n{note}" + (f"\n\n    {report['command']}" if report["command"] else "")


def _words(model: Tokenizer, llm: FrozenLLM, images, num_layers: int) -> Sequence[tuple[int, ...]]:
    tokens = encode_all(model, images).upto(num_layers)
    return Lexicon(model.codebook, model.pyramid, llm).llm_ids(tokens)


def _fingerprint(model: Tokenizer) -> str:
    """SHA-256 (hex) of all that decides an image's words: the weights, and the codebook that they name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
