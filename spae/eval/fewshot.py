"""Few-shot classification by a frozen language model, with the figures it must be read beside."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from tqdm.auto import tqdm

from spae.eval.episodes import Episode, FewShotSetting, Shot
from spae.eval.run import recall
from spae.eval.statistics import proportion
from spae.incontext.tasks import classification_task, classify
from spae.incontext.tasks.text import question_about, vqa_task
from spae.llm import FrozenLLM
from spae.llm.journal import Journal

Words = Mapping[int, tuple[int, ...]] | Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class WordImages:
    """Images as the words a language model reads.

    shown, asked: the model's ids of each item that examples and queries are drawn from (`Episode` numbers);
    those that no episode uses may be missing. names: the name of each label. questions: of each item, where
    the name is the answer to a question about the image (asked is then shown). kinds: of each label, where
    the question tells which kind of name is asked for.
    """

    shown: Words
    asked: Words
    names: Sequence[str]
    questions: Sequence[str] | None = None
    kinds: Sequence[str] | None = None

    def chance(self, episode: Episode) -> float:
        """Of one who guesses evenly among the episode's names of the kind that the question asks for."""
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
    seed: int = 0,
    journal: Journal | None = None,
    key: str = "",
) -> dict[str, Any]:
    """Accuracy of a setting with 95% intervals, and what it must be compared with.

    "exact" counts an answer only if every generated token is the label's; "ranked" takes the likeliest of the
    episode's names. "shuffled exact" and "shuffled ranked" are the same with the images dealt out at random
    among the examples: what is left there was not learnt from them. "word overlap" chooses the class whose
    examples share most words with the query, without a language model.

    journal: keeps each episode's record under `key`, which must name all that the answers depend on, so that
    an interrupted run goes on where it stopped.
    """
    records = []
    for number, episode in enumerate(tqdm(episodes, desc=setting.name, disable=None)):
        digest = hashlib.sha256(repr(episode).encode()).hexdigest()[:16]
        generator = random.Random(f"{seed} {number}")
        play = partial(_play, llm, images, setting, episode, generator)
        records.append(recall(journal, f"{key}:{number}:{digest}", play))
    rows = {name: proportion(sum(r[name] for r in records), len(records)) for name in MEASURES}
    return {
        "setting": setting.name,
        "episodes": len(records),
        "chance": fmean(map(images.chance, episodes)),
        **{name: row._asdict() for name, row in rows.items()},
    }


MEASURES = ("exact", "ranked", "shuffled exact", "shuffled ranked", "word overlap")


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


def _play(
    llm: FrozenLLM, images: WordImages, setting: FewShotSetting, episode: Episode, generator: random.Random
) -> dict[str, Any]:
    names = [images.names[label] for label in episode.classes]
    target, query = episode.query.way, images.asked[episode.query.item]
    record: dict[str, Any] = {"word overlap": overlap_guess(images, episode, generator) == target}
    for prefix, played in (("", episode), ("shuffled ", shuffled(episode, generator))):
        words = [images.shown[shot.item] for shot in played.shots]
        ways = [shot.way for shot in episode.shots]
        if images.questions is None:
            shots = list(zip(words, ways, strict=True))
            task, condition = classification_task(shots, names, induction=setting.induction), query
        else:
            asked = [images.questions[shot.item] for shot in episode.shots]
            task = vqa_task(words, asked, [names[way] for way in ways])
            condition = question_about(query, images.questions[episode.query.item])
        verdict = classify(llm, task, names, condition)
        record[f"{prefix}generated"] = verdict.generated
        record[f"{prefix}exact"] = verdict.exact == target
        record[f"{prefix}ranked"] = verdict.ranked == target
    return record
