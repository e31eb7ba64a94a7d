"""Emoji: the same concepts drawn by four vendors, with names in 14 languages and Unicode's subcategories."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spae.assets.archives import contents
from spae.data.packaged import (
    PackagedDataset,
    Prepared,
    check_choice,
    check_size,
    open_pixels,
    prepare,
    square,
)
from spae.optional import needs

VENDORS = ("noto", "twemoji", "openmoji", "fluent")
HELD_OUT_CONCEPTS = 100
LANGUAGES = ("ar", "de", "en", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")
SPLITS = ("train", "new_vendor", "new_concept", "new_both")

_VERSION = 1
_SPLIT_SEED = 20230630
_OBJECT_GROUPS = ("animals-nature", "food-drink", "travel-places", "activities", "objects")
_COMMON_WORDS = frozenset(
    (
        "and",
        "face",
        "for",
        "from",
        "hand",
        "in",
        "of",
        "off",
        "on",
        "out",
        "over",
        "the",
        "to",
        "with",
        "without",
    )
)


class Emoji(PackagedDataset):
    """Emoji of things: items are (image float32 [3, size, size] in [-1, 1] on white, index).

    Concepts are Unicode's emoji of animals and nature, food and drink, travel and places, activities and
    objects that all four vendors draw: 849, in Unicode's order. The splits never share a picture:

    - "train": 749 concepts by three vendors;
    - "new_vendor": the same concepts by the held-out vendor;
    - "new_concept": 100 other concepts by the training vendors;
    - "new_both": those 100 by the held-out vendor.

    The held-out concepts are drawn by a fixed seed, in proportion to the subcategories, among those whose
    name shares no word with any other concept's name: "dog" could be guessed from "guide dog", and the 24
    clock faces from one another.

    Args:
        split: one of the above.
        size: pixels a side; the set is drawn once at each size, and cached.
        held_out_vendor: one of `VENDORS`. Twemoji is neither the nearest to the others nor the farthest.
            OpenMoji, in black outlines, is the farthest, and the only one under a share-alike licence.

    Attributes:
        captions: N English names, e.g. "fire engine".
        concepts: N numbers from 0 to 848, the same in every split. labels: int64 [N], the same numbers.
        subcategories: N Unicode subgroups, e.g. "transport-ground".
        vendors: N of `VENDORS`.

    Raises:
        ValueError: an unknown split or vendor, or a size out of range.
        ImportError: a package that draws is missing (only when a size is drawn for the first time).
        AssetNotCached, AssetError: the asset "emoji" is not cached and could not be fetched.
    """

    def __init__(
        self,
        split: Literal["train", "new_vendor", "new_concept", "new_both"] = "train",
        size: int = 64,
        *,
        held_out_vendor: Literal["noto", "twemoji", "openmoji", "fluent"] = "twemoji",
    ):
        check_choice("split", split, SPLITS)
        check_choice("held_out_vendor", held_out_vendor, VENDORS)
        check_size(size)
        opened = prepared(size)
        held_out = held_out_concepts(opened.table["concepts"])
        new_concept, new_vendor = split in ("new_concept", "new_both"), split in ("new_vendor", "new_both")
        rows = [
            concept * len(VENDORS) + column
            for concept in range(len(opened.table["concepts"]))
            for column, vendor in enumerate(VENDORS)
            if (concept in held_out) == new_concept and (vendor == held_out_vendor) == new_vendor
        ]
        super().__init__(opened, np.array(rows, np.int64))
        self.split, self.size = split, size
        self.concepts = [row // len(VENDORS) for row in rows]
        self.labels = np.array(self.concepts, np.int64)
        self.vendors = [VENDORS[row % len(VENDORS)] for row in rows]
        self.captions = self._of_concepts("name")
        self.subcategories = self._of_concepts("subcategory")

    def names(self, language: str) -> list[str]:
        """N names in one of `LANGUAGES`."""
        check_choice("language", language, LANGUAGES)
        return [names[language] for names in self._of_concepts("names")]

    def _of_concepts(self, key: str) -> list[Any]:
        table = self._prepared.table["concepts"]
        return [table[concept][key] for concept in self.concepts]


def prepared(size: int) -> Prepared:
    """All concepts by all vendors at a size: row `concept * len(VENDORS) + vendor`; in the table, "concepts"
    has what is known of each."""
    return prepare("emoji", str(size), _VERSION, lambda folder, into: _build(folder, into, size))


def icon_names(folder: Path) -> dict[str, str]:
    """What Noto's icons are called, aliases included -> code points. folder: of the asset "emoji"."""
    (named,) = (json.loads(f) for _, f in contents(archive_of(folder, "noto"), "package/chars.json".__eq__))
    return {name: code_points(hexcode) for hexcode, name in named.items()}


def subcategories_of_at_least(dataset: Emoji, concepts: int = 10) -> list[str]:
    """The subcategories with this many concepts in a split, in Unicode's order."""
    pairs = dict.fromkeys(zip(dataset.concepts, dataset.subcategories, strict=True))
    counts = Counter(subcategory for _, subcategory in pairs)
    return [subcategory for subcategory, count in counts.items() if count >= concepts]


def held_out_concepts(concepts: list[dict[str, Any]]) -> set[int]:
    """The numbers of the held-out concepts, from the set's table."""
    return set(_drawn(concepts)[: min(HELD_OUT_CONCEPTS, len(concepts) // 8)])


def development_concepts(concepts: list[dict[str, Any]]) -> set[int]:
    """The numbers of half as many others, drawn next in the same way, to stop training by. They are among the
    training concepts of `Emoji`; `Things` leaves them out there, too."""
    held_out = min(HELD_OUT_CONCEPTS, len(concepts) // 8)
    return set(_drawn(concepts)[held_out : held_out + held_out // 2])


def _drawn(concepts: list[dict[str, Any]]) -> list[int]:
    """Concepts whose names share no word with any other's, in the order in which they are held out."""
    words = [content_words(concept["name"]) for concept in concepts]
    uses = Counter(word for name in words for word in name)
    distinct: dict[str, list[int]] = {}
    for number, name in enumerate(words):
        if name and all(uses[word] == 1 for word in name):
            distinct.setdefault(concepts[number]["subcategory"], []).append(number)
    # RandomState's stream, unlike Generator's, is guaranteed never to change between NumPy versions.
    random = np.random.RandomState(_SPLIT_SEED)
    # Every subcategory's k-th concept of n comes at (k + 1/2) / n: a prefix takes from each in proportion.
    places = []
    for subcategory, numbers in sorted(distinct.items()):
        for k, index in enumerate(random.permutation(len(numbers))):
            places.append(((k + 0.5) / len(numbers), subcategory, numbers[index]))
    return [number for _, _, number in sorted(places)]


def content_words(name: str) -> set[str]:
    """The words of a name, in the singular, without those that say little."""
    found = set(re.findall(r"[^\W\d_]+", name.casefold())) - _COMMON_WORDS
    return {word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] != "s" else word for word in found}


def _build(folder: Path, into: Path, size: int) -> dict[str, Any]:
    draw = svg_drawer(size)
    from PIL import Image

    def decode(file: bytes) -> NDArray[np.uint8]:
        return square(Image.open(io.BytesIO(file)), size)

    pictures: dict[str, dict[str, Callable[[], NDArray[np.uint8]]]] = {}
    for vendor in ("noto", "twemoji", "openmoji"):
        pictures[vendor] = {key: _later(draw, svg) for key, svg in _iconify(archive_of(folder, vendor))}
    pictures["fluent"] = {
        code_points(Path(name).stem): _later(decode, file)
        for name, file in contents(archive_of(folder, "fluent-emoji-3d"), lambda name: name.endswith(".webp"))
    }
    concepts = [
        concept
        for concept in concepts_of(folder)
        if all(concept["hexcode"] in pictures[vendor] for vendor in VENDORS)
    ]
    pixels = open_pixels(into, (len(concepts) * len(VENDORS), 3, size, size))
    for number, concept in enumerate(concepts):
        for column, vendor in enumerate(VENDORS):
            pixels[number * len(VENDORS) + column] = pictures[vendor][concept["hexcode"]]()
    return {"vendors": VENDORS, "concepts": concepts}


def svg_drawer(size: int) -> Callable[[str], NDArray[np.uint8]]:
    """SVG -> uint8 [3, size, size] on white. Raises ImportError where a package is missing that draws."""
    try:
        from PIL import Image
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise ImportError(needs("drawing emoji", "resvg-py", "pillow")) from error

    def draw(svg: str) -> NDArray[np.uint8]:
        drawn = Image.open(io.BytesIO(bytes(svg_to_bytes(svg_string=svg, width=size, height=size))))
        return square(drawn, size)

    return draw


def _later(function: Callable[[Any], NDArray[np.uint8]], argument: Any) -> Callable[[], NDArray[np.uint8]]:
    return lambda: function(argument)


def archive_of(folder: Path, part: str) -> Path:
    """The file of an asset whose name has this part."""
    return next(file for file in sorted(folder.iterdir()) if part in file.name)


def code_points(hexcode: str) -> str:
    """Code points in lower-case hex without the variation selector, which vendors use differently."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def _iconify(archive: Path) -> Iterator[tuple[str, str]]:
    """(code points, SVG) of every emoji in an Iconify package."""
    wanted = ("package/icons.json", "package/chars.json")
    files = {name: json.loads(file) for name, file in contents(archive, wanted.__contains__)}
    for hexcode, name in files[wanted[1]].items():
        svg = icon_svg(files[wanted[0]], name)
        if svg is not None:
            yield code_points(hexcode), svg


def icon_svg(icons: dict[str, Any], name: str) -> str | None:
    """An icon of an Iconify set as SVG. None for an alias of an alias, or one that is turned: none of the
    concepts here."""
    icon = icons["icons"].get(icons.get("aliases", {}).get(name, {}).get("parent", name))
    if icon is None:
        return None
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {namespaces} viewBox="{box}" width="{width}" height="{height}">{icon["body"]}</svg>'


def concepts_of(folder: Path) -> Iterator[dict[str, Any]]:
    """The emoji of things in Unicode's order, with their names in every language."""
    wanted = ("package/en/data.json", "package/meta/groups.json")
    files = {
        name: json.loads(file)
        for name, file in contents(archive_of(folder, "emojibase-data"), wanted.__contains__)
    }
    groups, subgroups = files[wanted[1]]["groups"], files[wanted[1]]["subgroups"]
    names = _names(archive_of(folder, ".whl"))
    for entry in sorted(files[wanted[0]], key=lambda entry: entry.get("order", 0)):
        group = groups.get(str(entry.get("group")))
        key = code_points(entry["hexcode"])
        if group in _OBJECT_GROUPS and key in names:
            yield {
                "hexcode": key,
                "name": entry["label"],
                "group": group,
                "subcategory": subgroups[str(entry["subgroup"])],
                "names": names[key],
            }


def _names(wheel: Path) -> dict[str, dict[str, str]]:
    """Code points -> language -> name, for the emoji that have one in every language."""
    pattern = re.compile(r"emoji/unicode_codes/emoji(?:_([a-z]{2}))?\.json")
    found: dict[str, dict[str, str]] = {}
    for file, text in contents(wheel, lambda name: pattern.fullmatch(name) is not None):
        match = pattern.fullmatch(file)
        assert match is not None
        for emoji, value in json.loads(text).items():
            name = value if isinstance(value, str) else value["en"]
            key = "-".join(f"{ord(character):x}" for character in emoji if character != "\ufe0f")
            found.setdefault(key, {})[match[1] or "en"] = name.strip(":").replace("_", " ")
    return {key: names for key, names in found.items() if set(names) == set(LANGUAGES)}
