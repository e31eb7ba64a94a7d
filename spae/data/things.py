"""Pictures of named things from many sources, split by what they show over all sources at once."""

from __future__ import annotations

import html
import io
import json
import re
from collections import Counter
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

SOURCES = ("emoji", "emoji-more", "gcompris", "openclipart", "pysiogame", "stamps")
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
_OPENCLIPART = "usr/share/openclipart/svg/"
_CLIP_ART = re.compile(
    r"(animals|buildings|containers|decorations|education|electronics|food|office|plants|recreation(?!/games/)"
    r"|science|tools|transportation(?!/(aiga-symbols|roadsigns))|people/(bodypart|clothing))/.+\.svg"
)
_TITLE = re.compile(r"<dc:title>\s*([^<]*?)\s*<")
_COLLECTION = re.compile(r"^clipart by [^-]*- |\(.*?\)|\b(illustration|clipart|clip art|bw|b and w)\b", re.I)
_MOST_CLIP_ART = 300_000  # bytes: a few drawings take longer than all others
_MOST_OF_A_TITLE = 8  # "Road Signs": that is a collection's, not a picture's


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
            of them that four more vendors draw; "gcompris", photographs and drawings; "openclipart", drawings
            of things under their titles, a few of them in Italian; "pysiogame", drawings of things and
            actions; "stamps", of Tux Paint, a package of 161 MB.
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


def _openclipart(folder: Path, size: int) -> Iterator[tuple[str, str, NDArray]]:
    draw = emoji.svg_drawer(size)
    (archive,) = folder.glob("*.deb")
    files = {
        path: text.decode("utf-8", "replace")
        for path, text in contents(archive, lambda name: _is_clip_art(name.removeprefix(_OPENCLIPART)))
        if len(text) <= _MOST_CLIP_ART
    }
    titles = {path: title_of(svg) for path, svg in files.items()}
    uses = Counter(titles.values())
    for path, title in sorted(titles.items()):
        if title and uses[title] <= _MOST_OF_A_TITLE:
            try:
                yield title, "openclipart", draw(files[path])
            except ValueError:  # what no SVG is, of which the collection has some
                continue


def _is_clip_art(path: str) -> bool:
    # One painter's titles are Italian; his name is in his files'.
    return _CLIP_ART.fullmatch(path) is not None and "archi" not in path


def title_of(svg: str) -> str:
    """What a drawing of Open Clip Art shows, from its metadata; "" for none.

    >>> title_of("<dc:title>Clipart by Nicu Buculei - Hat_02 (B and W)</dc:title>")
    'hat'
    """
    found = _TITLE.search(svg)
    return "" if found is None else readable(_COLLECTION.sub(" ", html.unescape(found[1])))


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
    "openclipart": lambda size: _prepare("openclipart", size, _openclipart),
    "pysiogame": lambda size: _prepare("pysiogame", size, _pysiogame),
    "stamps": stamps.prepared,
}
