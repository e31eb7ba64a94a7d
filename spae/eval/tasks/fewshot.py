"""Few-shot classification of images' words by a frozen language model (SPAE Tab. 1)."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, dataclass
from typing import Any

from spae.eval.centroids import lite0_features, pixels
from spae.eval.episode_pictures import EpisodePictures
from spae.eval.episodes import Episode, FewShotSetting, paper_settings, sample_episodes, save_episodes
from spae.eval.fewshot import ANSWERS, V2L, Reading, WordImages, evaluate_fewshot, export_fewshot
from spae.eval.images import encode_items, words_of
from spae.eval.labelled import SPLITS, LabelledSet, check_data, labelled_set
from spae.eval.public import FORMATS
from spae.eval.published import Published, published_rows
from spae.eval.run import Measured, Run, check_layers
from spae.eval.table import markdown, shown
from spae.incontext.tasks.classification import FORMS

ABOUT = "Few-shot classification of images' words by a frozen language model."
USES_LLM = True
_SHOTS, _REPEATS = (
    sorted({getattr(setting, name) for setting in paper_settings(2)}) for name in ("inner_shots", "repeats")
)


@dataclass(frozen=True)
class FewShot:
    """What is asked about one data set; a run's settings are a tuple of these.

    data, classes, split: see `spae.eval.labelled.labelled_set`. layers: how many layers' words an image is
    shown as. lite0: compare with the features of a network trained on ImageNet. export: write the prompts.
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
    export: bool = False

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
        "emoji-groups: their kinds, such as bird and tool; directions: which way a digit goes in a clip; or "
        "any labelled data as for training: a folder of class folders, shards, cifar10:ARCHIVE, ..",
    )
    parser.add_argument(
        "--classes", nargs="+", default=[], help="names of all classes, in place of the data's own"
    )
    parser.add_argument("--ways", type=int, nargs="+", default=[2, 5], help="classes (default: 2 5)")
    parser.add_argument(
        "--shots", type=int, nargs="+", default=_SHOTS, help="inner shots of the settings (default: 1 3 5)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        nargs="+",
        default=_REPEATS,
        help="of the settings, how often each example stands in the prompt again (default: 0 1 3 5)",
    )
    parser.set_defaults(default_of=parser.get_default)
    add_reading(parser, "per setting (default: 200); or a file of published ones, with --format")
    parser.add_argument("--format", choices=tuple(FORMATS), help="of the file --episodes")
    parser.add_argument("--images", help="of the file --episodes: where its paths begin (default: beside it)")
    parser.add_argument("--names", help="of v2l's file: a JSON object, names of its classes by WordNet id")
    parser.add_argument(
        "--form",
        choices=tuple(FORMS),
        default=Reading.form,
        help=f"how an example is written (default: {Reading.form})",
    )


def add_reading(parser: argparse.ArgumentParser, episodes: str = "per setting (default: 200)") -> None:
    """The options that questions have too. episodes: what is said of that one."""
    parser.add_argument("--layers", type=int, nargs="+", default=[2], help="layers shown (default: 2)")
    parser.add_argument("--episodes", default=200, help=episodes)
    parser.add_argument(
        "--export", action="store_true", help="write the prompts into OUT/prompts, for other harnesses"
    )
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
        "episodes": _count(arguments.episodes),
        "export": arguments.export,
        "seed": arguments.seed,
        "split": arguments.split,
        "reading": Reading(calibrate=arguments.calibrate, per_token=arguments.per_token, **reading),
        "lite0": not arguments.no_lite0,
    }


def _count(episodes: str | int) -> int:
    try:
        return int(episodes)
    except ValueError as error:
        raise ValueError(f"episodes: expected a number, got {episodes!r}") from error


def settings(arguments: argparse.Namespace) -> tuple[FewShot | Published, ...]:
    _check_source(arguments)
    if arguments.format is not None:
        options = chosen(argparse.Namespace(**{**vars(arguments), "episodes": 1}), form=arguments.form)
        options = {name: options[name] for name in ("layers", "seed", "reading", "lite0", "export")}
        places = {"images": arguments.images, "names": arguments.names}
        return (Published(arguments.episodes, arguments.format, **places, **options),)
    played = tuple(
        setting
        for ways in arguments.ways
        for setting in paper_settings(ways)
        if setting.inner_shots in arguments.shots and setting.repeats in arguments.repeats
    )
    options = chosen(arguments, form=arguments.form)
    return (FewShot(arguments.data, settings=played, classes=tuple(arguments.classes), **options),)


def _check_source(arguments: argparse.Namespace) -> None:
    """Raises ValueError for options that nothing would read: of our own episodes beside a file of published
    ones, or of such a file without one."""
    for name, known in (("shots", _SHOTS), ("repeats", _REPEATS)):
        if unknown := sorted(set(getattr(arguments, name)) - set(known)):
            raise ValueError(f"{name}: expected some of {', '.join(map(str, known))}, got {unknown[0]}")
    given, why = ("images", "names"), "only a file of episodes, with --format, has it"
    if arguments.format is not None:
        given, why = ("data", "classes", "ways", "shots", "repeats", "split"), "the file says what is shown"
    for name in given:
        value, default = getattr(arguments, name), arguments.default_of(name)
        if value != default:
            raise ValueError(f"{name}: expected the default, {default}, for {why}, got {value}")


def measure(run: Run) -> Measured:
    """Every setting of every data set.

    `episodes/` lists the episodes, which depend on the data, the setting, the split and the seed only. Raises
    ValueError before anything is asked if the data has too few items for a setting.
    """
    published = [part for part in run.settings if isinstance(part, Published)]
    parts: list[FewShot] = [part for part in run.settings if not isinstance(part, Published)]
    shape = run.model.config.image_size
    sets = [labelled_set(part.data, shape, classes=part.classes, split=part.split) for part in parts]
    played = [
        [
            (setting, sample_episodes(labelled.labels, setting, part.episodes, seed=part.seed))
            for setting in part.settings
        ]
        for part, labelled in zip(parts, sets, strict=True)
    ]
    rows = [row for part in published for row in published_rows(run, part)]
    for part, labelled, episodes in zip(parts, sets, played, strict=True):
        rows += _rows(run, part, labelled, episodes)
    return Measured({"rows": rows})


def table(report: dict[str, Any]) -> str:
    """Each share with its 95% interval."""
    # What a language model did comes first; not every row, nor earlier reports, have all measures.
    found = {name for row in report["rows"] for name, value in row.items() if isinstance(value, dict)}
    names = (*ANSWERS, *(name for row in report["rows"] for name in row))
    measures = [name for name in dict.fromkeys(names) if name in found]
    header = ["data", "words", "setting", "episodes", "chance", *measures]
    rows = [
        [row["data"], str(row["words"]), row["setting"], str(row["episodes"]), f"{row['chance']:.2f}"]
        + [shown(row[measure]) if measure in row else "" for measure in measures]
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
    called = f":{part.classes}" if part.classes else ""
    pictures = EpisodePictures(labelled, [e for _, episodes in played for e in episodes])
    tokens = [encode_items(model, of) for of in pictures.each]
    features = {"pixels": pictures.features(pixels)}
    if part.lite0 and len(model.config.image_size) == 2:
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
        num_words = model.pyramid.num_tokens_upto(layers)
        for setting, episodes in played:
            slug = re.sub(r"[^\w.-]+", "-", f"{part.data}-{setting.name}")
            save_episodes(run.folder / "episodes" / f"{slug}.jsonl", setting, episodes)
            if part.export:
                file = run.folder / "prompts" / f"{slug}-{num_words}-words.jsonl"
                export_fewshot(file, llm, images, setting, episodes, part.reading)
            row = evaluate_fewshot(
                llm,
                images,
                setting,
                episodes,
                reading=part.reading,
                seed=part.seed,
                journal=run.journal,
                key=f"{run.key}:{layers}:{slug}{called}",
            )
            facts = {name: getattr(part, name) for name in ("data", "seed", "split")}
            facts |= {"reading": str(part.reading), "layers": layers, "words": num_words}
            rows.append({**facts, **asdict(setting), **row})
    return rows
