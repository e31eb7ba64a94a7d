"""Few-shot classification of images' words by a frozen language model (SPAE Tab. 1)."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from spae.eval.episodes import Episode, FewShotSetting, paper_settings, sample_episodes, save_episodes
from spae.eval.fewshot import MEASURES, WordImages, evaluate_fewshot
from spae.eval.images import encode_items, words_of
from spae.eval.labelled import DATA, LabelledSet
from spae.eval.run import Measured, Run, check_layers
from spae.eval.table import markdown, shown
from spae.tokenizers import Tokenizer

ABOUT = "Few-shot classification of images' words by a frozen language model."
USES_LLM = True


@dataclass(frozen=True)
class FewShot:
    """What is asked about one data set; a run's settings are a tuple of these.

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
        check_layers(self.layers)
        if self.episodes < 1:
            raise ValueError(f"episodes: expected at least 1, got {self.episodes}")
        if not self.settings:
            raise ValueError("settings: expected at least one, got none")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        default="digits",
        help="digits (default); emoji: held-out concepts by a held-out vendor, at most 3 shots; "
        "emoji-groups: their kinds, such as bird and tool",
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[3], help="layers shown (default: 3)")
    parser.add_argument("--ways", type=int, nargs="+", default=[2, 5], help="classes (default: 2 5)")
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[1, 3, 5], help="inner shots of the settings (default: 1 3 5)"
    )
    parser.add_argument("--episodes", type=int, default=200, help="per setting (default: 200)")


def settings(arguments: argparse.Namespace) -> tuple[FewShot, ...]:
    chosen = tuple(
        setting
        for ways in arguments.ways
        for setting in paper_settings(ways)
        if setting.inner_shots in arguments.shots
    )
    return (FewShot(arguments.data, tuple(arguments.layers), chosen, arguments.episodes, arguments.seed),)


def measure(run: Run) -> Measured:
    """Every setting of every data set.

    `episodes/` lists the episodes, which depend on the data, the setting and the seed only. Raises
    ValueError before anything is asked if the data has too few items for a setting.
    """
    parts: tuple[FewShot, ...] = run.settings
    sets = [DATA[part.data](run.size) for part in parts]
    played = [
        [
            (setting, sample_episodes(labelled.labels, setting, part.episodes, seed=part.seed))
            for setting in part.settings
        ]
        for part, labelled in zip(parts, sets, strict=True)
    ]
    rows = []
    for part, labelled, episodes in zip(parts, sets, played, strict=True):
        rows += _rows(run, part, labelled, episodes)
    return Measured({"rows": rows})


def table(report: dict[str, Any]) -> str:
    """Each share with its 95% interval."""
    header = ["data", "words", "setting", "episodes", "chance", *MEASURES]
    rows = [
        [row["data"], str(row["words"]), row["setting"], str(row["episodes"]), f"{row['chance']:.2f}"]
        + [shown(row[measure]) for measure in MEASURES]
        for row in report["rows"]
    ]
    seeds = ", ".join(sorted({str(row["seed"]) for row in report["rows"]}))
    return markdown(header, rows, f"{report['llm']}, seed {seeds}; shares with 95% intervals.")


def _rows(
    run: Run, part: FewShot, labelled: LabelledSet, played: list[tuple[FewShotSetting, list[Episode]]]
) -> list[dict[str, Any]]:
    model, llm, rows = run.model, run.asked, []
    shown_tokens, asked_tokens = _tokens(model, labelled, [e for _, episodes in played for e in episodes])
    for layers in part.layers:
        words = words_of(model, llm, shown_tokens, layers)
        asked = words if asked_tokens is None else words_of(model, llm, asked_tokens, layers)
        images = _images(labelled, words, asked)
        for setting, episodes in played:
            slug = f"{part.data}-{setting.name}".replace(", ", "-").replace(" ", "-")
            save_episodes(run.folder / "episodes" / f"{slug}.jsonl", setting, episodes)
            key = f"{run.key}:{part.seed}:{layers}:{slug}"
            row = evaluate_fewshot(
                llm, images, setting, episodes, seed=part.seed, journal=run.journal, key=key
            )
            num_words = model.pyramid.num_tokens_upto(layers)
            facts = {"data": part.data, "seed": part.seed, "layers": layers, "words": num_words}
            rows.append({**facts, **asdict(setting), **row})
    return rows


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
