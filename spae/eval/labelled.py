"""What few-shot episodes are drawn from. None of it depends on a tokenizer or a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from spae import data
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


DATA: dict[str, Callable[[int], LabelledSet]] = {
    "digits": digits,
    "emoji": emoji,
    "emoji-groups": emoji_groups,
    "easy-vqa": easy_vqa,
    "easy-vqa-colors": easy_vqa_colors,
}
