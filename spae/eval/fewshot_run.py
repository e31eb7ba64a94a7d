"""Few-shot evaluations of a tokenizer and a language model, kept in a folder so that they can go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spae.eval.episodes import Episode, FewShotSetting, sample_episodes, save_episodes
from spae.eval.fewshot import MEASURES, WordImages, evaluate_fewshot
from spae.eval.labelled import DATA, LabelledSet
from spae.eval.runs import encode_items, fingerprint, markdown, shown, words_of, write_report
from spae.llm import FrozenLLM
from spae.llm.journal import Journal
from spae.tokenizers import Tokenizer


@dataclass(frozen=True)
class FewShotRun:
    """What `run_fewshot` evaluates.

    data: one of `spae.eval.labelled.DATA`. layers: how many layers' words an image is shown as.
    """

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
        if not self.settings:
            raise ValueError("settings: expected at least one, got none")


def run_fewshot(
    model: Tokenizer,
    llm: FrozenLLM,
    runs: Sequence[FewShotRun],
    out: Path,
    *,
    command: str = "",
    name: str = "fewshot",
) -> dict[str, Any]:
    """Evaluate every setting and write `name`.json and `name`.md into `out`.

    `episodes/` there lists the episodes, which depend on the data, the setting and the seed only;
    `records.jsonl` keeps every episode's answers, so that the same call goes on where it stopped. Raises
    ValueError before anything is asked if the data has too few items for a setting.
    """
    sets = [DATA[run.data](model.config.image_size[0]) for run in runs]
    played = [
        [
            (setting, sample_episodes(labelled.labels, setting, run.episodes, seed=run.seed))
            for setting in run.settings
        ]
        for run, labelled in zip(runs, sets, strict=True)
    ]
    journal = Journal(out / "records.jsonl")
    key = f"{fingerprint(model)}:{llm.identity}"
    rows = []
    for run, labelled, settings in zip(runs, sets, played, strict=True):
        shown_tokens, asked_tokens = _tokens(model, labelled, [e for _, part in settings for e in part])
        for layers in run.layers:
            words = words_of(model, llm, shown_tokens, layers)
            asked = words if asked_tokens is None else words_of(model, llm, asked_tokens, layers)
            images = _images(labelled, words, asked)
            for setting, episodes in settings:
                slug = f"{run.data}-{setting.name}".replace(", ", "-").replace(" ", "-")
                save_episodes(out / "episodes" / f"{slug}.jsonl", setting, episodes)
                row = evaluate_fewshot(
                    llm,
                    images,
                    setting,
                    episodes,
                    seed=run.seed,
                    journal=journal,
                    key=f"{key}:{run.seed}:{layers}:{slug}",
                )
                num_words = model.pyramid.num_tokens_upto(layers)
                facts = {"data": run.data, "seed": run.seed, "layers": layers, "words": num_words}
                rows.append({**facts, **asdict(setting), **row})
    report = {"command": command, "llm": llm.name, "rows": rows}
    write_report(out, name, report, fewshot_table(report))
    return report


def fewshot_table(report: dict[str, Any]) -> str:
    """A report of `run_fewshot` as a Markdown table: each share with its 95% interval."""
    header = ["data", "words", "setting", "episodes", "chance", *MEASURES]
    rows = [
        [row["data"], str(row["words"]), row["setting"], str(row["episodes"]), f"{row['chance']:.2f}"]
        + [shown(row[measure]) for measure in MEASURES]
        for row in report["rows"]
    ]
    seeds = ", ".join(sorted({str(row["seed"]) for row in report["rows"]}))
    note = f"{report['llm']}, seed {seeds}; shares with 95% intervals."
    return markdown(header, rows, note, command=report["command"])


def _tokens(model: Tokenizer, labelled: LabelledSet, episodes: list[Episode]):
    """The tokens of the images that episodes show, and of those that they ask about if these are others."""
    of_item = labelled.items or range(len(labelled.labels.shown))
    used = {of_item[shot.item] for episode in episodes for shot in episode.shots}
    queries = {episode.query.item for episode in episodes}
    if labelled.asked is not None:
        return encode_items(model, labelled.shown, used), encode_items(model, labelled.asked, queries)
    return encode_items(model, labelled.shown, used | {of_item[item] for item in queries}), None


def _images(labelled: LabelledSet, words: dict[int, tuple[int, ...]], asked: dict) -> WordImages:
    if labelled.items is not None:
        words = {item: words[image] for item, image in enumerate(labelled.items) if image in words}
    if labelled.asked is None:
        asked = words
    return WordImages(words, asked, labelled.names, labelled.questions, labelled.kinds)
