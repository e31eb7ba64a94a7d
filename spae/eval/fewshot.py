"""Few-shot classification by a frozen language model, with the figures it must be read beside."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm.auto import tqdm

from spae.eval.centroids import Features, Words, centroid_guess, histograms
from spae.eval.episodes import Episode, FewShotSetting, Shot
from spae.eval.export import prompt_line, save_prompts
from spae.eval.run import recall
from spae.eval.similarity import says, similarity
from spae.eval.statistics import difference, proportion
from spae.incontext import Task
from spae.incontext.prompts import Content
from spae.incontext.tasks import classification_task, classify
from spae.incontext.tasks.classification import FORMS
from spae.incontext.tasks.text import check_stop, question_about, vqa_task
from spae.llm import FrozenLLM
from spae.llm.journal import Journal


@dataclass(frozen=True)
class Reading:
    """How the model is asked. form, calibrate, per_token, stop, max_tokens: see
    `spae.incontext.tasks.classification`. With `max_tokens` the model writes what it likes until a stop: that
    is right if it is the name, and it is scored by its likeness to the name too."""

    form: str = "v2l"
    calibrate: bool = False
    per_token: bool = False
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.stop:
            check_stop(self.stop)
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens: expected at least 1, got {self.max_tokens}")
        if self.form not in FORMS:
            raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {self.form!r}")

    def __str__(self) -> str:
        kinds = {"calibrated": self.calibrate, "by the mean of a name's tokens": self.per_token}
        ranked = ", ".join(kind for kind, chosen in kinds.items() if chosen)
        free = "" if self.max_tokens is None else f", up to {self.max_tokens} tokens written"
        return f"form {self.form}{free}" + (f", ranked {ranked}" if ranked else "")


V2L = Reading()
_ASKING = ("calibrate", "per_token", "stop", "max_tokens")  # of `classify`


@dataclass(frozen=True)
class WordImages:
    """Images as the words a language model reads.

    shown, asked: the model's ids of each item that examples and queries are drawn from (`Episode` numbers);
    those that no episode uses may be missing. names: the name of each label. questions: of each item, where
    the name is the answer to a question about the image (asked is then shown). kinds: of each label, where
    the question tells which kind of name is asked for. features: by name, other vectors of the same items.
    """

    shown: Words
    asked: Words
    names: Sequence[str]
    questions: Sequence[str] | None = None
    kinds: Sequence[str] | None = None
    features: Mapping[str, Features] = field(default_factory=dict)

    def chance(self, episode: Episode) -> float:
        """Chance: a uniform guess among the episode's names of the kind that the question asks for."""
        if self.kinds is None:
            return 1 / len(episode.classes)
        kinds = [self.kinds[label] for label in episode.classes]
        return 1 / kinds.count(kinds[episode.query.way])


def evaluate_fewshot(
    llm: FrozenLLM,
    images: WordImages,
    setting: FewShotSetting,
    episodes: Sequence[Episode],
    *,
    reading: Reading = V2L,
    seed: int = 0,
    journal: Journal | None = None,
    key: str = "",
) -> dict[str, Any]:
    """Accuracy of a setting with 95% intervals, and what it must be compared with.

    "exact" counts an answer only if every generated token is the label's (its text, where the model writes
    freely); "ranked" takes the likeliest of the episode's names. "shuffled ..." are the same with the images
    dealt out at random among the examples: what is left there was not learnt from them. "similarity" is that
    of what was freely written to the label, by MiniLM (of two episodes or more, as differences). Without a
    language model: "word overlap" chooses the class whose examples share most words with the query; "centroid
    on words" the one whose examples' mean histogram of words is nearest, and "centroid on .." the same with
    each of `images.features`. "exact over .." and "ranked over .." are differences of two shares of the same
    episodes.

    journal: keeps each episode's record under `key`, which must name all that the answers depend on but the
    reading and the seed, so that an interrupted run goes on where it stopped.
    """
    vectors = {"words": histograms(images.shown, images.asked), **images.features}
    guesses = {name: partial(centroid_guess, features) for name, features in vectors.items()}
    measures = [*ANSWERS, "word overlap", *(f"centroid on {name}" for name in guesses)]
    right: dict[str, list[bool]] = {name: [] for name in measures}
    records = []
    for number, episode in enumerate(tqdm(episodes, desc=setting.name, disable=None)):
        digest = hashlib.sha256(repr(episode).encode()).hexdigest()[:16]
        generator = random.Random(f"{seed} {number}")
        play = partial(_play, llm, images, setting, reading, episode, generator)
        record = recall(journal, f"{key}:{reading!r}:{seed}:{number}:{digest}", play)
        records.append(record)
        for name in ANSWERS:
            right[name].append(record[name])
        generator, way = random.Random(f"{seed} {number} guess"), episode.query.way
        right["word overlap"].append(overlap_guess(images, episode, generator) == way)
        for name, guess in guesses.items():
            right[f"centroid on {name}"].append(guess(episode, generator) == way)
    figures = {name: proportion(sum(hits), len(episodes)) for name, hits in right.items()}
    if len(episodes) > 1:
        for kind in ("exact", "ranked"):
            for other in (f"shuffled {kind}", "word overlap"):
                figures[f"{kind} over {other}"] = difference(right[kind], right[other])
    if reading.max_tokens is not None and len(episodes) > 1:
        names = [images.names[episode.classes[episode.query.way]] for episode in episodes]
        for kind in ("", "shuffled "):
            figures[f"{kind}similarity"] = similarity([r[f"{kind}generated"] for r in records], names)
    return {
        "setting": setting.name,
        "episodes": len(episodes),
        "chance": fmean(map(images.chance, episodes)),
        **{name: figure._asdict() for name, figure in figures.items()},
    }


ANSWERS = ("exact", "ranked", "shuffled exact", "shuffled ranked")


def overlap_guess(images: WordImages, episode: Episode, generator: random.Random) -> int:
    """The way whose examples share most words with the query on average; `generator` breaks ties.

    Words are counted as often as they occur in both.
    """
    query = Counter(images.asked[episode.query.item])
    shared: dict[int, list[int]] = {}
    for shot in episode.shots:
        common = query & Counter(images.shown[shot.item])
        shared.setdefault(shot.way, []).append(common.total())
    means = {way: sum(counts) / len(counts) for way, counts in shared.items()}
    best = max(means.values())
    return generator.choice(sorted(way for way, value in means.items() if value == best))


def shuffled(episode: Episode, generator: random.Random) -> Episode:
    """The same episode with its images dealt out at random among the examples, labels left in place."""
    items = [shot.item for shot in episode.shots]
    generator.shuffle(items)
    shots = tuple(Shot(item, shot.way) for item, shot in zip(items, episode.shots, strict=True))
    return Episode(episode.classes, shots, episode.query)


def posed(
    images: WordImages,
    setting: FewShotSetting,
    reading: Reading,
    episode: Episode,
    dealt: Episode | None = None,
) -> tuple[Task, Content]:
    """An episode as the examples of a prompt, and what is asked after them. dealt: whose images stand in the
    place of the episode's own."""
    names = [images.names[label] for label in episode.classes]
    words = [images.shown[shot.item] for shot in (dealt or episode).shots]
    ways, query = [shot.way for shot in episode.shots], images.asked[episode.query.item]
    if images.questions is None:
        shots = list(zip(words, ways, strict=True))
        return classification_task(shots, names, induction=setting.induction, form=reading.form), query
    asked = [images.questions[shot.item] for shot in episode.shots]
    task = vqa_task(words, asked, [names[way] for way in ways])
    return task, question_about(query, images.questions[episode.query.item])


def export_fewshot(
    path: Path,
    llm: FrozenLLM,
    images: WordImages,
    setting: FewShotSetting,
    episodes: Sequence[Episode],
    reading: Reading,
) -> None:
    """Write the prompts of some episodes as JSON lines (`spae.eval.export.prompt_line`)."""
    lines = []
    for number, episode in enumerate(episodes):
        names = [images.names[label] for label in episode.classes]
        shown = [*(images.shown[shot.item] for shot in episode.shots), images.asked[episode.query.item]]
        task, condition = posed(images, setting, reading, episode)
        answer = names[episode.query.way]
        lines.append(prompt_line(llm, f"{path.stem}-{number}", task, condition, shown, names, answer))
    save_prompts(path, lines)


def _play(
    llm: FrozenLLM,
    images: WordImages,
    setting: FewShotSetting,
    reading: Reading,
    episode: Episode,
    generator: random.Random,
) -> dict[str, Any]:
    names = [images.names[label] for label in episode.classes]
    record: dict[str, Any] = {}
    for prefix, dealt in (("", episode), ("shuffled ", shuffled(episode, generator))):
        task, condition = posed(images, setting, reading, episode, dealt)
        verdict = classify(llm, task, names, condition, **{name: getattr(reading, name) for name in _ASKING})
        right = verdict.exact == episode.query.way
        if reading.max_tokens is not None:
            right = says(verdict.generated, names[episode.query.way])
        record[f"{prefix}generated"] = verdict.generated
        record[f"{prefix}exact"] = right
        record[f"{prefix}ranked"] = verdict.ranked == episode.query.way
    return record
