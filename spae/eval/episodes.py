"""Few-shot episodes: which examples stand in a prompt, and what it asks. Seeded, listed in a file, and the
same for every tokenizer."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class FewShotSetting:
    """One setting of the open-ended few-shot protocol (Tsimpoukelli et al. 2021; SPAE Tab. 1).

    ways: classes of an episode. inner_shots: different examples of each. repeats: how often each of them is
    shown again. induction: whether a preamble names the possible answers.
    """

    ways: int
    inner_shots: int = 1
    repeats: int = 0
    induction: bool = True

    def __post_init__(self) -> None:
        for name, least in (("ways", 2), ("inner_shots", 1), ("repeats", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        shown = f" x{self.repeats + 1}" if self.repeats else ""
        return f"{self.ways}-way {self.inner_shots}-shot{shown}{'' if self.induction else ', no induction'}"

    @property
    def num_examples(self) -> int:
        """How many examples a prompt shows."""
        return self.ways * self.inner_shots * (self.repeats + 1)

    @property
    def chance(self) -> float:
        return 1 / self.ways


def paper_settings(ways: int) -> tuple[FewShotSetting, ...]:
    """The seven settings that SPAE Tab. 1 reports for 2 and for 5 ways, in its order."""
    shown = ((1, 0), (3, 0), (5, 0), (1, 1), (1, 3), (1, 5))
    return (
        FewShotSetting(ways, induction=False),
        *(FewShotSetting(ways, shots, repeats) for shots, repeats in shown),
    )


class Shot(NamedTuple):
    """item: a number of the dataset. way: which of the episode's classes it is of."""

    item: int
    way: int


@dataclass(frozen=True)
class Episode:
    """classes: the label of each way. shots: the examples in the order shown. query: what is asked."""

    classes: tuple[int, ...]
    shots: tuple[Shot, ...]
    query: Shot


class Labels(NamedTuple):
    """What episodes are drawn from.

    shown: the class of each item that examples are drawn from; items of a negative class are left out.
    asked: the class of each item that queries are drawn from, where that is another set; items of queries are
    then numbers of that set. None: queries are shown items.
    groups, asked_groups: what belongs together, one of each item: an episode shows nothing of its query's
    group. None: nothing, but a query that is a shown item is not shown.
    """

    shown: Sequence[int]
    asked: Sequence[int] | None = None
    groups: Sequence[int] | None = None
    asked_groups: Sequence[int] | None = None


def sample_episodes(
    labels: Labels | Sequence[int], setting: FewShotSetting, count: int, *, seed: int = 0
) -> list[Episode]:
    """`count` episodes of a setting over labelled items.

    labels: a sequence of classes is that of the items that both examples and queries are drawn from.

    Queries go through the ways in turn, and rounds of shots are shuffled one by one, so that no order tells
    the answer. Raises ValueError where fewer than `ways` classes have items enough.
    """
    pool = _Pool(labels if isinstance(labels, Labels) else Labels(labels))
    classes = [label for label in sorted(pool.shown) if pool.room(label) >= setting.inner_shots]
    if len(classes) < setting.ways:
        most = max(map(pool.room, pool.shown), default=0)
        raise ValueError(
            f"labels: expected at least {setting.ways} classes with {setting.inner_shots} items beside a "
            f"query for {setting.name}, got {len(classes)}; the largest class has {most}"
        )
    generator = random.Random(seed)
    return [_episode(pool, classes, setting, number, generator) for number in range(count)]


def save_episodes(path: Path, setting: FewShotSetting, episodes: Sequence[Episode]) -> None:
    """Write episodes as JSON, one a line after the setting's."""
    lines = [json.dumps(asdict(setting)), *(json.dumps(asdict(episode)) for episode in episodes)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_episodes(path: Path) -> tuple[FewShotSetting, list[Episode]]:
    """What `save_episodes` wrote."""
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    return FewShotSetting(**json.loads(first)), [_from_json(json.loads(line)) for line in rest]


def _from_json(row: dict) -> Episode:
    return Episode(tuple(row["classes"]), tuple(Shot(*shot) for shot in row["shots"]), Shot(*row["query"]))


class _Pool:
    """The items of each class, and those that may stand beside a query."""

    def __init__(self, labels: Labels) -> None:
        self.shown = _by_class(labels.shown)
        self.asked = self.shown if labels.asked is None else _by_class(labels.asked)
        groups, asked_groups = labels.groups, labels.asked_groups
        if labels.asked is None:
            groups = asked_groups = groups or range(len(labels.shown))
        if (groups is None) != (asked_groups is None):
            raise ValueError(
                "groups: expected those of shown and of asked items, or neither, got one of them"
            )
        self._groups, self._asked_groups = groups, asked_groups

    def beside(self, label: int, query: int) -> list[int]:
        """The items of a class that an episode with this query may show."""
        if self._groups is None or self._asked_groups is None:
            return self.shown[label]
        return [item for item in self.shown[label] if self._groups[item] != self._asked_groups[query]]

    def room(self, label: int) -> int:
        """How many items of a class there are beside any query; 0 if there is no query of that class."""
        if label not in self.asked:
            return 0
        items = self.shown[label]
        if self._groups is None:
            return len(items)
        return len(items) - max(Counter(self._groups[item] for item in items).values())


def _episode(
    pool: _Pool, classes: list[int], setting: FewShotSetting, number: int, generator: random.Random
) -> Episode:
    ways = generator.sample(classes, setting.ways)
    target = number % setting.ways
    query = generator.choice(pool.asked[ways[target]])
    drawn = [generator.sample(pool.beside(label, query), setting.inner_shots) for label in ways]
    shots: list[Shot] = []
    for _ in range(setting.repeats + 1):
        for shot in range(setting.inner_shots):
            # One of each class at a time, so that no class stands in a row at the end.
            together = [Shot(drawn[way][shot], way) for way in range(setting.ways)]
            shots += generator.sample(together, setting.ways)
    return Episode(tuple(ways), tuple(shots), Shot(query, target))


def _by_class(labels: Sequence[int]) -> dict[int, list[int]]:
    items: dict[int, list[int]] = {}
    for item, label in enumerate(labels):
        if label >= 0:
            items.setdefault(int(label), []).append(item)
    return items
