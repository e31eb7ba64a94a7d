"""Named pictures of many sources: split by concept over all of them at once, none leaks."""

import io
from collections import Counter

import numpy as np
import pytest
import torch

from spae import assets
from spae.data import emoji, things
from spae.data.emoji import content_words
from spae.data.things import SOURCES, Sides, Things, readable

VENDORS = emoji.VENDORS
# Thirty-two concepts, of which an eighth, four, are held out and two more are for development.
CONCEPTS = [
    {"name": f"{first}{second}", "subcategory": "animal", "hexcode": f"{i:x}"}
    for i, (first, second) in enumerate((a, b) for a in "bdfgklmn" for b in ("ax", "ex", "ix", "ox"))
]
TEST = sorted(CONCEPTS[i]["name"] for i in emoji.held_out_concepts(CONCEPTS))
DEV = sorted(CONCEPTS[i]["name"] for i in emoji.development_concepts(CONCEPTS))


class Fake:
    """A prepared source: pictures of one grey each, the row's number."""

    def __init__(self, table):
        self.table = table

    def image(self, row):
        return torch.full((3, 8, 8), row / 100)


OTHERS = [f"two {TEST[0]}s", f"{DEV[0]} and {TEST[1]}", f"a {DEV[1]}", "tree", "hat"]


@pytest.fixture
def sources(monkeypatch):
    pictures = {
        "emoji": {"concepts": CONCEPTS, "vendors": VENDORS},
        "emoji-more": {"pictures": [(c["name"], "emoji/other") for c in CONCEPTS]},
        "gcompris": {"pictures": [(name, "gcompris") for name in OTHERS]},
        "openclipart": {"pictures": [(name.title(), "openclipart") for name in OTHERS]},
        "pysiogame": {"pictures": [(name.upper(), "pysiogame") for name in OTHERS]},
        "stamps": {
            "stamps": [{"file": f"{i}.png", "captions": {"en": f"A {n}."}} for i, n in enumerate(OTHERS)]
        },
    }
    monkeypatch.setattr(things, "_OPENERS", {name: lambda size, t=t: Fake(t) for name, t in pictures.items()})
    monkeypatch.setattr(emoji, "prepared", lambda size: Fake(pictures["emoji"]))


def test_no_concept_is_in_training_and_held_out(sources):
    split = {part: Things(part, 8, sources=SOURCES) for part in things.SPLITS}
    keys = Counter(key for part in split.values() for key in part.keys)
    assert set(keys.values()) == {1}, "no picture is in two splits"
    words = {part: [content_words(name) for name in split[part].captions] for part in split}
    held_out = set().union(*map(content_words, (*TEST, *DEV)))
    assert len(TEST) == 4
    assert len(DEV) == 2
    assert all(not (name & held_out) for name in words["train"])
    test_words = set().union(*map(content_words, TEST))
    assert all(name & test_words for name in words["test"])
    assert all(name & held_out and not name & test_words for name in words["dev"])
    total = 32 * 4 + 32 + 4 * len(OTHERS)
    # What is missing are the pictures of the held-out vendor outside the test split.
    assert sum(map(len, split.values())) == total - (32 - 4)
    assert "emoji/twemoji" not in split["train"].sources + split["dev"].sources
    assert split["test"].sources.count("emoji/twemoji") == 4


def test_other_sources_and_vendors(sources):
    only = Things("train", 8, sources=("gcompris",))
    assert only.captions == ["tree", "hat"]
    assert set(only.sources) == {"gcompris"}
    assert only[0][0].max().item() == pytest.approx(0.03)
    assert only[-1][1] == len(only) - 1
    with pytest.raises(IndexError):
        only[len(only)]
    other = Things("train", 8, held_out_vendor="noto")
    assert "emoji/noto" not in other.sources
    assert "emoji/twemoji" in other.sources


def test_sides_go_by_words_in_any_form():
    side = Sides(CONCEPTS)
    assert side.of(f"Three {TEST[2].title()}s") == "test"
    assert side.of(f"{DEV[0]} with {TEST[0]}") == "test"
    assert side.of(DEV[1]) == "dev"
    assert side.of("the face of") == "train"


def test_development_concepts_are_others():
    assert not set(TEST) & set(DEV)


@pytest.mark.parametrize(
    ("stem", "name"),
    [("leaningTowerOfPisa", "leaning tower of pisa"), ("fish16", "fish"), ("baby_rabbit", "baby rabbit"), ("17_lion", "lion")],
)  # fmt: skip
def test_files_are_named_after_what_they_show(stem, name):
    assert readable(stem) == name


@pytest.mark.parametrize(
    ("title", "name"),
    [("Red Hat_02", "red hat"), (" Clipart by Nicu Buculei - cheese ", "cheese"), ("Cone (4 scoop) (B and W)", "cone"),
     ("Bed &amp; sail illustration", "bed sail")],
)  # fmt: skip
def test_clip_art_is_named_by_its_title(title, name):
    assert things.title_of(f"<svg><dc:title>{title}</dc:title></svg>") == name
    assert things.title_of("<svg/>") == ""


def test_only_clip_art_of_things_is_taken(monkeypatch, tmp_path):
    svg = "<svg><dc:title>{}</dc:title></svg>"
    files = {
        "animals/mammals/cat.svg": svg.format("Cat 1"),
        "animals/dog_architetto_01.svg": svg.format("Cane"),
        "recreation/games/cards/ace.svg": svg.format("card"),
        "computer/icons/disk.svg": svg.format("Disk"),
        "tools/broken.svg": svg.format("Saw"),
        "tools/big.svg": svg.format("Axe") + " " * things._MOST_CLIP_ART,
        **{f"food/{i}.svg": svg.format("Food Clipart") for i in range(things._MOST_OF_A_TITLE + 1)},
        "food/nameless.svg": "<svg/>",
    }

    def contents(archive, wanted):
        paths = [f"usr/share/openclipart/svg/{name}" for name in files]
        return [(path, files[path.split("svg/", 1)[1]].encode()) for path in paths if wanted(path)]

    def draw(text):
        if "Saw" in text:
            raise ValueError("no SVG")
        return text

    monkeypatch.setattr(things, "contents", contents)
    monkeypatch.setattr(emoji, "svg_drawer", lambda size: draw)
    (tmp_path / "x.deb").touch()
    assert list(things._openclipart(tmp_path, 8)) == [
        ("cat", "openclipart", files["animals/mammals/cat.svg"])
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "new_both"}, "split: expected one of 'train', 'dev', 'test', got 'new_both'"),
        ({"sources": ("cats",)}, "sources: expected one of 'emoji', .*, got 'cats'"),
        ({"sources": "emoji"}, "sources: expected some of emoji, .*, got 'emoji'"),
        ({"sources": ()}, r"sources: expected some of .*, got \(\)"),
        ({"sources": ("emoji", "emoji")}, "sources: expected some of"),
        ({"held_out_vendor": "apple"}, "held_out_vendor: expected one of"),
        ({"size": 2}, "size: expected a whole number from 8"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Things(**{"size": 8, **options})


def test_sources_are_read_from_their_packages(tmp_path, monkeypatch, write, write_rcc):
    """gcompris and pySioGame, out of small packages in their form."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))

    def picture(kind):
        buffer = io.BytesIO()
        image.new("RGB", (12, 9), (200, 30, 40)).save(buffer, kind)
        return buffer.getvalue()

    activity = {"resource": {"images": {"tools": {"sawBlade2.webp": picture("webp"), "x.svg": b"<svg/>"}}}}
    rcc = write_rcc({"gcompris": {"src": {"activities": {"categorization": activity}}}})
    (tmp_path / "gcompris").mkdir()
    write.deb(tmp_path / "gcompris/a.deb", {"usr/share/gcompris-qt/rcc/categorization.rcc": rcc})
    (tmp_path / "pysiogame").mkdir()
    files = {f"{things._PYSIOGAME}animals/baby_rabbit.jpg": picture("jpeg"), "usr/share/doc/x.jpg": b""}
    write.deb(tmp_path / "pysiogame/a.deb", files)
    monkeypatch.setattr(assets, "require", lambda name: tmp_path / name)
    for name, caption in (("gcompris", "saw blade"), ("pysiogame", "baby rabbit")):
        opened = things._OPENERS[name](8)
        assert opened.table["pictures"] == [[caption, name]]
        middle = opened.image(0)[:, 4, 4]
        assert np.allclose((middle + 1) * 127.5, [200, 30, 40], atol=4)
        assert opened.image(0)[1, 0].min() > middle[1] + 0.5, "on white"


def test_the_published_sources_do_not_leak():
    names = ("emoji", "emoji-more", "gcompris", "pysiogame")
    try:
        for name in names:
            assets.path(name)
    except assets.AssetNotCached as error:
        pytest.skip(f"needs the sources: {error}")
    size = 64
    split = {part: Things(part, size, sources=names) for part in things.SPLITS}
    assert {part: len(dataset) for part, dataset in split.items()} == {"train": 5032, "dev": 331, "test": 715}
    concepts = emoji.prepared(size).table["concepts"]
    held_out = emoji.held_out_concepts(concepts) | emoji.development_concepts(concepts)
    words = set().union(*(content_words(concepts[number]["name"]) for number in held_out))
    assert len(held_out) == 150
    assert not any(content_words(name) & words for name in split["train"].captions)
    train = {name.casefold() for name in split["train"].captions}
    assert not train & {name.casefold() for part in ("dev", "test") for name in split[part].captions}
