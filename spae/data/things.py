"""Pictures of named things from many sources, split by what they show over all sources at once."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spae import assets
from spae.assets.archives import contents
from spae.data import emoji, stamps
from spae.data.packaged import Prepared, check_choice, check_size, open_pixels, prepare, square
from spae.data.rcc import resources
from spae.optional import needs

SOURCES = ("emoji", "emoji-more", "gcompris", "pysiogame", "stamps")
SPLITS = ("train", "dev", "test")

_PYSIOGAME = "usr/share/games/pysiogame/res/images/art4apps/"
_GCOMPRIS = re.compile(
    r"gcompris/src/activities/(categorization/resource/images|explore_monuments/resource"
    r"|explore_(farm|world)_animals/resource|lang/resource)/[^/]+/[^/]+\.webp"
)
_ACTIVITIES = (
    "categorization",
    "explore_farm_animals",
    "explore_monuments",
    "explore_world_animals",
    "lang",
)


class Things(Dataset[tuple[Tensor, int]]):
    """Named pictures as (image float32 [3, size, size] in [-1, 1] on white, index).

    No concept that is held out is in training, in whatever source: a picture is of the test split if its name
    shares a content word with one of the 100 held-out concepts of `Emoji`, else of the development split if
    it shares one with 50 others, else of the training split. (Words count as they are spelt: a hound is not
    known to be a dog.) The emoji of the held-out vendor are in the test split alone.

    Args:
        split: "train", "dev" or "test".
        size: pixels a side; each source is drawn once at each size, and cached.
        sources: some of `SOURCES`: "emoji", the 849 concepts of `Emoji` by four vendors; "emoji-more", those
            of them that four more vendors draw; "gcompris", photographs and drawings; "pysiogame", drawings
            of things and actions; "stamps", of Tux Paint, a package of 161 MB.
        held_out_vendor: one of `emoji.VENDORS`.

    Attributes:
        captions: N names. sources: N of `SOURCES`, with the vendor for emoji, as in "emoji/noto".
        keys: N names of the pictures, unique.

    Raises:
        ValueError: an unknown split, source or vendor, or a size out of range.
        ImportError: a package that draws is missing (only when a source is drawn for the first time).
        AssetNotCached, AssetError: an asset, of the source's name, is not cached and could not be fetched.
    """

    def __init__(
        self,
        split: Literal["train", "dev", "test"] = "train",
        size: int = 64,
        *,
        sources: Sequence[str] = ("emoji", "emoji-more", "gcompris", "pysiogame"),
        held_out_vendor: str = "twemoji",
    ):
        check_choice("split", split, SPLITS)
        check_choice("held_out_vendor", held_out_vendor, emoji.VENDORS)
        check_size(size)
        if isinstance(sources, str) or not sources or len(set(sources)) < len(sources):
            raise ValueError(f"sources: expected some of {', '.join(SOURCES)}, got {sources!r}")
        for source in sources:
            check_choice("sources", source, SOURCES)
        self.split, self.size = split, size
        # The concepts that are held out are the emoji's, whether those are among the sources or not.
        concepts = emoji.prepared(size).table["concepts"]
        side = Sides(concepts)
        self._items: list[tuple[Prepared, int]] = []
        self.captions, self.sources, self.keys = [], [], []
        for source in sources:
            prepared = _OPENERS[source](size)
            for row, (name, origin) in enumerate(_named(source, prepared)):
                vendor = origin == f"emoji/{held_out_vendor}"
                part = side.of(name)
                if part == split and (split == "test" or not vendor):
                    self._items.append((prepared, row))
                    self.captions.append(name)
                    self.sources.append(origin)
                    self.keys.append(f"{source}/{row}")

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        prepared, row = self._items[index]
        return prepared.image(row), range(len(self))[index]


class Sides:
    """On which side of the split a name is. concepts: of the emoji's table."""

    def __init__(self, concepts: list[dict[str, Any]]) -> None:
        def words(numbers: set[int]) -> set[str]:
            return set().union(*(emoji.content_words(concepts[number]["name"]) for number in numbers))

        self.test = words(emoji.held_out_concepts(concepts))
        self.dev = words(emoji.development_concepts(concepts))

    def of(self, name: str) -> str:
        """ "train", "dev" or "test"."""
        words = emoji.content_words(name)
        if words & self.test:
            return "test"
        return "dev" if words & self.dev else "train"


def _named(source: str, prepared: Prepared) -> Iterator[tuple[str, str]]:
    """(name, origin) of every row of a source."""
    table = prepared.table
    if source == "emoji":
        for concept in table["concepts"]:
            yield from ((concept["name"], f"emoji/{vendor}") for vendor in table["vendors"])
    elif source == "stamps":
        yield from ((stamp["captions"]["en"], source) for stamp in table["stamps"])
    else:
        yield from ((name, origin) for name, origin in table["pictures"])


def readable(stem: str) -> str:
    """A file's name as words.

    >>> readable("leaningTowerOfPisa"), readable("fish16"), readable("baby_rabbit")
    ('leaning tower of pisa', 'fish', 'baby rabbit')
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\W\d]+", " ", stem)
    return " ".join(words.lower().split())


def _prepare(
    asset: str, size: int, pictures: Callable[[Path, int], Iterator[tuple[str, str, NDArray]]]
) -> Prepared:
    """A source whose table lists (name, origin) of its pictures."""

    def build(folder: Path, into: Path) -> dict[str, Any]:
        found = list(pictures(folder, size))
        pixels = open_pixels(into, (len(found), 3, size, size))
        for row, (_, _, picture) in enumerate(found):
            pixels[row] = picture
        return {"pictures": [(name, origin) for name, origin, _ in found]}

    return prepare(asset, f"things-{size}", 1, build)


def _more_emoji(folder: Path, size: int) -> Iterator[tuple[str, str, NDArray]]:
    """What more vendors draw of the emoji's concepts, in their order; they call icons by names, not by code
    points."""
    draw = emoji.svg_drawer(size)
    concepts = {concept["hexcode"]: concept["name"] for concept in emoji.prepared(size).table["concepts"]}
    known = emoji.icon_names(assets.require("emoji"))
    names = {_plain(icon): concepts[key] for icon, key in known.items() if key in concepts}
    names |= {_plain(name): name for name in concepts.values()}
    for archive in sorted(folder.glob("*.tgz")):
        vendor = archive.name.removeprefix("iconify-json-").rsplit("-", 1)[0]
        (icons,) = (json.loads(file) for _, file in contents(archive, "package/icons.json".__eq__))
        seen: set[str] = set()
        for icon in [*icons["icons"], *icons.get("aliases", {})]:
            name = names.get(_plain(icon))
            svg = None if name is None or name in seen else emoji.icon_svg(icons, icon)
            if name is not None and svg is not None:
                seen.add(name)
                yield name, f"emoji/{vendor}", draw(svg)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _gcompris(folder: Path, size: int) -> Iterator[tuple[str, str, NDArray]]:
    decode = _decoder(size)
    (archive,) = folder.glob("*.deb")
    wanted = {f"usr/share/gcompris-qt/rcc/{activity}.rcc" for activity in _ACTIVITIES}
    for _, packed in sorted(contents(archive, wanted.__contains__)):
        for path, file in sorted(resources(packed)):
            name = readable(PurePosixPath(path).stem)
            if _GCOMPRIS.fullmatch(path) and name:
                yield name, "gcompris", decode(file)


def _pysiogame(folder: Path, size: int) -> Iterator[tuple[str, str, NDArray]]:
    decode = _decoder(size)
    (archive,) = folder.glob("*.deb")
    files = contents(archive, lambda name: name.startswith(_PYSIOGAME) and name.endswith(".jpg"))
    for path, file in sorted(files):
        yield readable(PurePosixPath(path).stem), "pysiogame", decode(file)


def _decoder(size: int) -> Callable[[bytes], NDArray]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(needs("preparing pictures", "pillow")) from error
    return lambda file: square(Image.open(io.BytesIO(file)), size)


_OPENERS: dict[str, Callable[[int], Prepared]] = {
    "emoji": emoji.prepared,
    "emoji-more": lambda size: _prepare("emoji-more", size, _more_emoji),
    "gcompris": lambda size: _prepare("gcompris", size, _gcompris),
    "pysiogame": lambda size: _prepare("pysiogame", size, _pysiogame),
    "stamps": stamps.prepared,
}
