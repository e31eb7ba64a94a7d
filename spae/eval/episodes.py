"""Few-shot episodes: which examples stand in a prompt, and what it asks. Seeded, listed in a file, and the
same for every tokenizer."""

from __future__ import annotations

import json
import random
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


def sample_episodes(
    labels: Sequence[int],
    setting: FewShotSetting,
    count: int,
    *,
    query_labels: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Episode]:
    """`count` episodes of a setting over labelled items.

    labels: the class of each item that examples are drawn from. query_labels: the class of each item that
    queries are drawn from, where that is another set; items of the query are then numbers of that set.
    Without it the query is an item that the episode does not show. Queries go through the ways in turn, and
    rounds of shots are shuffled one by one, so that no order tells the answer. Raises ValueError where fewer
    than `ways` classes have items enough.
    """
    spare = query_labels is None
    shown, asked = _by_class(labels), _by_class(labels if query_labels is None else query_labels)
    needed = setting.inner_shots + spare
    classes = [label for label in sorted(shown) if len(shown[label]) >= needed and label in asked]
    if len(classes) < setting.ways:
        raise ValueError(
            f"labels: expected at least {setting.ways} classes with {needed} items and a query, "
            f"got {len(classes)}"
        )
    generator = random.Random(seed)
    return [_episode(shown, asked, classes, setting, number, spare, generator) for number in range(count)]


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


def _episode(
    shown: dict[int, list[int]],
    asked: dict[int, list[int]],
    classes: list[int],
    setting: FewShotSetting,
    number: int,
    spare: bool,
    generator: random.Random,
) -> Episode:
    ways = generator.sample(classes, setting.ways)
    target = number % setting.ways
    drawn = [generator.sample(shown[label], setting.inner_shots + spare) for label in ways]
    query = drawn[target][-1] if spare else generator.choice(asked[ways[target]])
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
        items.setdefault(int(label), []).append(item)
    return items
