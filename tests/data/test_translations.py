"""A dictionary from parallel names: on things made up here, on small archives, and on the published set."""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from spae import assets
from spae.data import emoji
from spae.data.things import Sides
from spae.data.translations import LANGUAGES, Thing, aligned, translations


def thing(english: str, german: str = "", *, keywords: str = "", german_keywords: str = "") -> Thing:
    return Thing(
        english,
        {"en": [english, *keywords.split()], "de": [*filter(None, [german]), *german_keywords.split()]},
    )


THINGS = [
    thing("dog", "Hund", keywords="pet animal", german_keywords="Haustier Tier"),
    thing("guide dog", "Blindenhund", keywords="animal blind", german_keywords="Hund Tier"),
    thing("cat", "Katze", keywords="pet animal", german_keywords="Haustier Tier"),
    thing("hot beverage", "Heißgetränk", keywords="coffee tea", german_keywords="Kaffee Tee"),
    thing("teacup without handle", "Teetasse ohne Henkel", keywords="tea", german_keywords="Tee"),
    thing("house with garden", "Haus mit Garten"),
    thing("ball", "Ball"),
    thing("ox", "Ox Öl"),
]


def test_a_word_means_what_the_same_things_are_called():
    found = aligned(THINGS, "de", None)
    assert found["hund"] == ("dog",), "dog and guide dog have both"
    assert found["haustier"] == ("pet",)
    assert found["tier"] == ("animal",)
    assert found["tee"] == ("tea",)
    assert found["katze"] == ("cat",)
    assert found["heißgetränk".casefold()] == ("beverage", "coffee", "hot", "hot beverage"), "all that tie"
    assert found["kaffee"] == found["heißgetränk".casefold()]


def test_what_says_little_is_left_out():
    found = aligned(THINGS, "de", None)
    assert not {"ohne", "mit", "haus"} & set(found), "words of a single longer name"
    assert "ball" not in found, "English as well"
    assert not {"ox", "öl"} & set(found), "two letters"
    mixed = [thing("a", "Ding"), thing("b", "Ding"), thing("c", "Ding")]
    assert aligned(mixed, "de", None) == {}, "each agrees by a half"
    assert aligned([*mixed, thing("d")], "fr", None) == {}


@pytest.mark.parametrize(
    ("word", "counts"),
    [
        ("猫", True),
        ("ネコ", True),
        ("개", False),
        ("강아지", True),
        ("कुत्ता", True),
        ("ёж", False),
        ("a1b", False),
    ],
)
def test_scripts_have_words_of_other_lengths(word, counts):
    assert (word in aligned([thing("pet", word)], "de", None)) == counts


class Held(Sides):
    def __init__(self, words: Iterable[str]) -> None:
        self.test, self.dev = set(words), set()


def test_held_out_concepts_are_in_no_meaning():
    things = [*THINGS, thing("kitten", "Kätzchen", keywords="cat", german_keywords="Katze")]
    assert aligned(things, "de", None)["katze"] == ("cat",)
    found = aligned(things, "de", Held(["cat"]))
    assert "katze" not in found or found["katze"] == ("kitten",)
    assert all("cat" not in term.split() for terms in found.values() for term in terms)
    assert "dog" in found["hund"]


@pytest.fixture
def small(tmp_path, monkeypatch, write) -> Any:
    """The two packages, of six emoji, and a WordNet of one word."""
    entries = {
        "en": [("1F415", "dog", ["pet"]), ("1F408", "cat", ["pet"]), ("1F54A", "dove", ["bird", "peace"])],
        "de": [
            ("1F415", "Hund", ["Haustier"]),
            ("1F408", "Katze", ["Haustier"]),
            ("1F54A", "Taube", ["Vogel"]),
        ],
        "nl": [("1F415", "hond", ["huisdier"]), ("1F408", "pet", ["huisdier"]), ("1F54A", "duif", ["vogel"])],
    }
    files: dict[str, Any] = {
        f"package/{language}/data.json": [
            {"hexcode": code, "label": label, "tags": tags, "group": 3, "subgroup": 7, "order": i}
            for i, (code, label, tags) in enumerate(rows)
        ]
        for language, rows in entries.items()
    }
    files["package/meta/groups.json"] = {"groups": {"3": "animals-nature"}, "subgroups": {"7": "animal"}}
    write.tarball(tmp_path / "emojibase-data-1.tgz", {k: json.dumps(v).encode() for k, v in files.items()})
    names = {"1F415": "dog", "1F408": "cat", "1F54A": "dove"}
    wheel = {}
    for language in emoji.LANGUAGES:
        file = "emoji.json" if language == "en" else f"emoji_{language}.json"
        own = {chr(int(code, 16)): f":{name}{language}:" for code, name in names.items()}
        english = {chr(int(code, 16)): {"en": f":{name}:"} for code, name in names.items()}
        wheel[f"emoji/unicode_codes/{file}"] = json.dumps(english if language == "en" else own).encode()
    write.wheel(tmp_path / "emoji-1-py3-none-any.whl", wheel)
    (tmp_path / "index.sense").write_text("katze%1:05:00:: 1 1 0\n", encoding="ascii")
    places = {"emoji": tmp_path, "wordnet-senses": tmp_path / "index.sense"}
    monkeypatch.setattr(assets, "require", places.__getitem__)
    table = SimpleNamespace(
        table={"concepts": [{"name": name, "subcategory": ""} for name in names.values()]}
    )
    monkeypatch.setattr(emoji, "prepared", lambda size: table)
    monkeypatch.setattr(emoji, "held_out_concepts", lambda concepts: {2})
    translations.cache_clear()
    yield
    translations.cache_clear()


def test_the_dictionary_is_of_both_packages(small):
    found = translations(("de", "nl"))
    assert found["hund"] == ("dog",)
    assert found["dogde"] == ("dog",), "of the package emoji"
    assert found["hond"] == ("dog",)
    assert found["haustier"] == found["huisdier"] == ("pet",)
    assert not {"katze", "pet"} & set(found), "English as well"
    assert not {"taube", "duif", "vogel"} & set(found), "a dove is held out"
    everything = translations(("de", "nl"), held_out=True)
    assert everything["taube"] == everything["vogel"] == ("bird", "dove", "peace")


def test_the_first_language_counts(small):
    # In Dutch no thing but the dove is a "vogel".
    assert translations(("nl",), held_out=True)["duif"] == ("bird", "dove", "peace")
    assert "duif" not in translations(("de",), held_out=True)
    assert translations(()) == {}


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match=r"languages: expected .*'zh'.* got \('en',\)"):
        translations(("en",))


def test_the_published_names():
    try:
        for name in ("emoji", "wordnet-senses"):
            assets.path(name)
    except assets.AssetNotCached as error:
        pytest.skip(f"needs the packages: {error}")
    found = translations(("nl", "de"))
    assert "coffee" in found["koffie"]
    assert found["kaffee"] == found["koffie"]
    assert found["hond"] == found["hund"] == ("dog",)
    assert found["vogel"] == ("bird",)
    assert "taube" not in found
    assert translations(("de",), held_out=True)["taube"] == ("dove",)
    assert len(LANGUAGES) == 28
