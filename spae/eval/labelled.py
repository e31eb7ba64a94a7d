"""What few-shot episodes are drawn from. None of it depends on a tokenizer or a language model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import Dataset

from spae import data
from spae.data.open import parse
from spae.eval.episodes import Labels


@dataclass(frozen=True)
class LabelledSet:
    """Images with a class each.

    shown: the images that examples are drawn from. labels: the classes of the items. names: of each class.
    items: the image that each shown item is about; None means item i is image i.
    asked: the images that queries are drawn from; None where queries are shown items.
    questions: of each item, for visual question answering. kinds: of each class, where a question tells which
    kind its answer is of.
    """

    shown: Dataset[Any]
    labels: Labels
    names: Sequence[str]
    items: Sequence[int] | None = None
    asked: Dataset[Any] | None = None
    questions: Sequence[str] | None = None
    kinds: Sequence[str] | None = None


def digits(size: int) -> LabelledSet:
    """The 500 held-out MNIST digits, named "zero" to "nine"."""
    from spae.data.mnist import WORDS

    held_out = data.load("mnist", "test", size=size)
    return LabelledSet(held_out, Labels(held_out.labels.tolist()), WORDS)


def garments(size: int) -> LabelledSet:
    """Fashion-MNIST's test articles, up to `MOST` of a class."""
    from spae.data.fashion import CLASSES

    held_out = data.load("fashion", "test", size=size)
    return LabelledSet(held_out, Labels(_first(held_out.labels.tolist())), CLASSES)


def emoji(size: int) -> LabelledSet:
    """The 100 held-out concepts: three vendors' pictures are shown, the held-out vendor's is asked."""
    shown, asked = (data.load("emoji", split, size=size) for split in ("new_concept", "new_both"))
    numbers = {concept: number for number, concept in enumerate(asked.concepts)}
    labels = Labels([numbers[concept] for concept in shown.concepts], range(len(asked)))
    return LabelledSet(shown, labels, asked.captions, asked=asked)


# Unicode's subcategories with at least three of the 100 held-out concepts, as a person would call a member.
GROUPS = {
    "animal-mammal": "mammal",
    "animal-bird": "bird",
    "animal-marine": "sea animal",
    "animal-bug": "bug",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "food-prepared": "dish",
    "place-building": "building",
    "transport-ground": "vehicle",
    "sky-weather": "weather",
    "sport": "sport",
    "clothing": "clothing",
    "household": "household item",
    "tool": "tool",
}


def emoji_groups(size: int) -> LabelledSet:
    """The held-out concepts' subcategories, `GROUPS`: what is asked is the held-out vendor's picture of a
    concept that the episode does not show, so that the likeness of two drawings of one thing does not help.

    A class has 6 to 27 pictures besides the query's concept.
    """
    shown, asked = (data.load("emoji", split, size=size) for split in ("new_concept", "new_both"))
    numbers = {subcategory: number for number, subcategory in enumerate(GROUPS)}
    classes, query_classes = ([numbers.get(s, -1) for s in split.subcategories] for split in (shown, asked))
    labels = Labels(classes, query_classes, shown.concepts, asked.concepts)
    return LabelledSet(shown, labels, tuple(GROUPS.values()), asked=asked)


def easy_vqa(size: int) -> LabelledSet:
    """Questions about easy-VQA's first test pictures; the classes are the 13 answers."""
    return _questions(size, KINDS)


def easy_vqa_colors(size: int) -> LabelledSet:
    """Only the questions for a colour, so that none of the classes is ruled out by the question."""
    return _questions(size, ("color",))


NUM_PICTURES = 300
KINDS = ("color", "shape", "yes or no")


def _questions(size: int, kinds: Sequence[str]) -> LabelledSet:
    pictures = data.load("easy-vqa", "test", size=size)
    names = [answer for answer in pictures.answers if _kind(answer) in kinds]
    rows = [
        (image, question, names.index(answer))
        for image, asked in enumerate(pictures.questions[:NUM_PICTURES])
        for question, answer in asked
        if answer in names
    ]
    images, questions, classes = zip(*rows, strict=True)
    # An episode shows no picture that it asks about.
    return LabelledSet(
        pictures,
        Labels(classes, groups=images),
        names,
        items=images,
        questions=questions,
        kinds=[_kind(name) for name in names],
    )


def _kind(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes or no"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "color"


def directions(shape: tuple[int, ...]) -> LabelledSet:
    """400 test clips of a digit, 14 pixels large, that goes left, right, up or down: which way?"""
    from spae.data.moving_mnist import DIRECTIONS, MovingMNIST

    options: dict[str, Any] = {"digits": 1, "motion": "straight", "digit_size": 14, "count": 400}
    clips = MovingMNIST("test", shape[1], frames=shape[0], **options)
    assert clips.directions is not None  # the motion is straight
    return LabelledSet(clips, Labels(_first(clips.directions[:, 0].tolist())), DIRECTIONS)


DATA: dict[str, Callable[[int], LabelledSet]] = {
    "digits": digits,
    "garments": garments,
    "emoji": emoji,
    "emoji-groups": emoji_groups,
    "easy-vqa": easy_vqa,
    "easy-vqa-colors": easy_vqa_colors,
}
CLIPS: dict[str, Callable[[tuple[int, ...]], LabelledSet]] = {"directions": directions}
SPLITS = ("dev", "report")
MOST = 100  # items of a class, of sets with thousands
_DEV = 3  # one in so many is of the development split


def check_data(name: str, known: Iterable[str] = (*DATA, *CLIPS)) -> None:
    """Raises ValueError unless this is a known name or a specification of `spae.data.open_data`."""
    if name in known:
        return
    try:
        parse(name)
    except ValueError as error:
        raise ValueError(
            f"data: expected one of {', '.join(known)}, KIND:PLACE or a path of labelled images, got {name!r}"
        ) from error


def labelled_set(
    name: str, shape: int | tuple[int, ...], *, classes: Sequence[str] = (), split: str | None = None
) -> LabelledSet:
    """What episodes about some data are drawn from: one of `DATA` or `CLIPS`, or the test split of whatever
    `spae.data.open_data` opens, up to `MOST` items of a class.

    shape: of the images, (height, width) or a side; of clips (frames, height, width).
    classes: names of all classes in place of the data's own, or where it has none. split: "dev" is a third
    of the items, which no choice of prompts or options may go beyond, "report" the others; None is all. Of
    sets whose queries are of other pictures of the same concepts the concepts are divided.

    Raises ValueError for classes without names and for others than data with questions can have, for clips
    where images are expected or the reverse, and what `open_data` raises.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split: expected {' or '.join(SPLITS)}, got {split!r}")
    shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
    found = _named(name, shape, classes) if name in (*DATA, *CLIPS) else _opened(name, shape, classes)
    return found if split is None else _part(found, split)


def _named(name: str, shape: tuple[int, ...], classes: Sequence[str]) -> LabelledSet:
    expected = 3 if name in CLIPS else 2
    if len(shape) != expected:
        kinds = {2: f"images, such as {next(iter(DATA))}", 3: f"clips, such as {next(iter(CLIPS))}"}
        raise ValueError(f"data: expected {kinds[len(shape)]}, for a model of {shape}, got {name!r}")
    found = CLIPS[name](shape) if name in CLIPS else DATA[name](shape[0])
    if not classes:
        return found
    if found.questions is not None or len(classes) != len(found.names):
        expected = "none for questions" if found.questions is not None else f"{len(found.names)} names"
        raise ValueError(f"classes: expected {expected} of {name!r}, got {len(classes)}")
    return replace(found, names=tuple(classes))


def _opened(spec: str, shape: tuple[int, ...], classes: Sequence[str]) -> LabelledSet:
    images = data.open_data(spec, "test", image_size=shape)
    assert isinstance(images, data.Images)  # `Views` are of training images
    labels = images.labels.tolist()
    count = max(labels) + 1
    names = [name.replace("_", " ") for name in classes or images.classes]
    if count < 2 or len(names) < count:
        raise ValueError(
            f"classes: expected names of the {count} classes of {spec!r}, at least 2, got {len(names)}"
        )
    return LabelledSet(images, Labels(_first(labels)), names)


def _first(labels: Sequence[int]) -> list[int]:
    """The labels, -1 after the first `MOST` of a class."""
    seen: Counter[int] = Counter()
    kept = []
    for label in labels:
        seen[label] += 1
        kept.append(label if seen[label] <= MOST else -1)
    return kept


def _part(labelled: LabelledSet, split: str) -> LabelledSet:
    labels = labelled.labels
    if labels.asked is None:
        shown, asked = labels.groups or range(len(labels.shown)), None
    else:
        shown, asked = labels.groups or labels.shown, labels.asked_groups or labels.asked
    return replace(
        labelled,
        labels=labels._replace(
            shown=_kept(labels.shown, shown, split),
            asked=None if labels.asked is None or asked is None else _kept(labels.asked, asked, split),
        ),
    )


def _kept(labels: Sequence[int], keys: Sequence[Any], split: str) -> list[int]:
    return [
        label if (_digest(key) % _DEV == 0) == (split == "dev") else -1
        for label, key in zip(labels, keys, strict=True)
    ]


def _digest(key: Any) -> int:
    return int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:8], "big")
