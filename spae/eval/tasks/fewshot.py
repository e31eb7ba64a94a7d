"""Few-shot classification of images' words by a frozen language model (SPAE Tab. 1)."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from spae.eval.centroids import Features, lite0_features, pixels
from spae.eval.episodes import Episode, FewShotSetting, paper_settings, sample_episodes, save_episodes
from spae.eval.fewshot import ANSWERS, V2L, Reading, WordImages, evaluate_fewshot
from spae.eval.images import encode_items, pictures_of, words_of
from spae.eval.labelled import SPLITS, LabelledSet, check_data, labelled_set
from spae.eval.run import Measured, Run, check_layers
from spae.eval.table import markdown, shown
from spae.incontext.tasks.classification import FORMS

ABOUT = "Few-shot classification of images' words by a frozen language model."
USES_LLM = True


@dataclass(frozen=True)
class FewShot:
    """What is asked about one data set; a run's settings are a tuple of these.

    data, classes, split: see `spae.eval.labelled.labelled_set`. layers: how many layers' words an image is
    shown as. lite0: compare with the features of a network trained on ImageNet.
    """

    data: str
    layers: tuple[int, ...]
    settings: tuple[FewShotSetting, ...]
    episodes: int = 200
    seed: int = 0
    split: str | None = "report"
    classes: tuple[str, ...] = ()
    reading: Reading = V2L
    lite0: bool = True

    def __post_init__(self) -> None:
        check_data(self.data)
        check_layers(self.layers)
        least = 1 if self.reading.max_tokens is None else 2  # the interval of a mean
        if self.episodes < least:
            raise ValueError(f"episodes: expected at least {least}, got {self.episodes}")
        if not self.settings:
            raise ValueError("settings: expected at least one, got none")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        default="digits",
        help="digits (default); garments; emoji: held-out concepts by a held-out vendor, at most 3 shots; "
        "emoji-groups: their kinds, such as bird and tool; or any labelled data as for training: a folder "
        "of class folders, shards, cifar10:ARCHIVE, ..",
    )
    parser.add_argument("--classes", nargs="+", default=[], help="names, where the data has only numbers")
    parser.add_argument("--ways", type=int, nargs="+", default=[2, 5], help="classes (default: 2 5)")
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[1, 3, 5], help="inner shots of the settings (default: 1 3 5)"
    )
    add_reading(parser)
    parser.add_argument(
        "--form",
        choices=tuple(FORMS),
        default=Reading.form,
        help=f"how an example is written (default: {Reading.form})",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options that questions have too."""
    parser.add_argument("--layers", type=int, nargs="+", default=[3], help="layers shown (default: 3)")
    parser.add_argument("--episodes", type=int, default=200, help="per setting (default: 200)")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default=FewShot.split,
        help="dev: a third of the items, to choose options by; report: the others (default)",
    )
    parser.add_argument(
        "--calibrate", action="store_true", help="rank by contextual calibration (Zhao et al. 2021)"
    )
    parser.add_argument(
        "--per-token", action="store_true", help="rank by the mean log-probability of a name's tokens"
    )
    parser.add_argument(
        "--no-lite0", action="store_true", help="do not compare with features of a network of ImageNet"
    )


def chosen(arguments: argparse.Namespace, **reading: Any) -> dict[str, Any]:
    """The fields of `FewShot` that the options of `add_reading` name; reading: other fields of `Reading`."""
    return {
        "layers": tuple(arguments.layers),
        "episodes": arguments.episodes,
        "seed": arguments.seed,
        "split": arguments.split,
        "reading": Reading(calibrate=arguments.calibrate, per_token=arguments.per_token, **reading),
        "lite0": not arguments.no_lite0,
    }


def settings(arguments: argparse.Namespace) -> tuple[FewShot, ...]:
    played = tuple(
        setting
        for ways in arguments.ways
        for setting in paper_settings(ways)
        if setting.inner_shots in arguments.shots
    )
    options = chosen(arguments, form=arguments.form)
    return (FewShot(arguments.data, settings=played, classes=tuple(arguments.classes), **options),)


def measure(run: Run) -> Measured:
    """Every setting of every data set.

    `episodes/` lists the episodes, which depend on the data, the setting, the split and the seed only. Raises
    ValueError before anything is asked if the data has too few items for a setting.
    """
    parts: tuple[FewShot, ...] = run.settings
    sets = [labelled_set(part.data, run.size, classes=part.classes, split=part.split) for part in parts]
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
    first = report["rows"][0] if report["rows"] else {}
    # What a language model did comes first; earlier reports have fewer baselines.
    measures = [name for name in (*ANSWERS, *first) if isinstance(first.get(name), dict)]
    measures = list(dict.fromkeys(measures))
    header = ["data", "words", "setting", "episodes", "chance", *measures]
    rows = [
        [row["data"], str(row["words"]), row["setting"], str(row["episodes"]), f"{row['chance']:.2f}"]
        + [shown(row[measure]) for measure in measures]
        for row in report["rows"]
    ]
    said = {name: sorted({str(row[name]) for row in report["rows"] if name in row}) for name in _SAID}
    note = ", ".join(f"{before}{', '.join(said[name])}" for name, before in _SAID.items() if said[name])
    return markdown(header, rows, f"{report['llm']}, {note}; shares with 95% intervals.")


_SAID = {"seed": "seed ", "split": "split ", "reading": ""}


def _rows(
    run: Run, part: FewShot, labelled: LabelledSet, played: list[tuple[FewShotSetting, list[Episode]]]
) -> list[dict[str, Any]]:
    model, llm, rows = run.model, run.asked, []
    pictures = _Pictures(labelled, [e for _, episodes in played for e in episodes])
    tokens = [encode_items(model, of) for of in pictures.each]
    features = {"pixels": pictures.features(pixels)}
    if part.lite0:
        features["Lite0"] = pictures.features(lite0_features)
    for layers in part.layers:
        words = [words_of(model, llm, of, layers) for of in tokens]
        images = WordImages(
            pictures.by_item(words[0]),
            words[-1] if labelled.asked is not None else pictures.by_item(words[0]),
            labelled.names,
            labelled.questions,
            labelled.kinds,
            features,
        )
        for setting, episodes in played:
            slug = f"{part.data}-{setting.name}".replace(", ", "-").replace(" ", "-").replace("/", "-")
            save_episodes(run.folder / "episodes" / f"{slug}.jsonl", setting, episodes)
            row = evaluate_fewshot(
                llm,
                images,
                setting,
                episodes,
                reading=part.reading,
                seed=part.seed,
                journal=run.journal,
                key=f"{run.key}:{layers}:{slug}",
            )
            facts = {name: getattr(part, name) for name in ("data", "seed", "split")}
            num_words = model.pyramid.num_tokens_upto(layers)
            facts |= {"reading": str(part.reading), "layers": layers, "words": num_words}
            rows.append({**facts, **asdict(setting), **row})
    return rows


class _Pictures:
    """The images that episodes show and ask about: `each` of one or two data sets, by number."""

    def __init__(self, labelled: LabelledSet, episodes: list[Episode]) -> None:
        self._of_item = labelled.items or range(len(labelled.labels.shown))
        self._two = labelled.asked is not None
        used = {self._of_item[shot.item] for episode in episodes for shot in episode.shots}
        queries = {episode.query.item for episode in episodes}
        if labelled.asked is None:
            self.each = [pictures_of(labelled.shown, used | {self._of_item[item] for item in queries})]
        else:
            self.each = [pictures_of(labelled.shown, used), pictures_of(labelled.asked, queries)]

    def by_item(self, values: dict[int, Any]) -> dict[int, Any]:
        """Values of shown images as those of the items that are about them."""
        return {item: values[image] for item, image in enumerate(self._of_item) if image in values}

    def features(self, of: Callable[[dict[int, Tensor]], dict[int, Tensor]]) -> Features:
        found = [of(pictures) for pictures in self.each]
        shown = self.by_item(found[0])
        return Features(shown, found[1] if self._two else shown)
