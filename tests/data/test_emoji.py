"""The emoji set, on a small one drawn here, and on the published one where it is cached."""

from __future__ import annotations

import io
import json
import pickle

import pytest
import torch

from spae import assets
from spae.data import emoji
from spae.data.emoji import Emoji

pytest.importorskip("resvg_py", reason="needs resvg-py (the extra data)")
Image = pytest.importorskip("PIL.Image", reason="needs Pillow (the extra data)")

NAMES = ["guide dog", "dog", "cat", "cats of two", "fox", "owl", "bee", "ant", "pear", "fig", "sea", "hut"]
NAMES += ["car", "jet", "key", "axe"]
CODES = [0x1F300 + i for i in range(len(NAMES))]
COLOURS = {"noto": "#ff0000", "twemoji": "#00ff00", "openmoji": "#0000ff", "fluent": "#ff00ff"}


def iconify(vendor: str) -> dict[str, bytes]:
    body = f'<rect x="2" y="2" width="12" height="12" fill="{COLOURS[vendor]}"/>'
    icons = {f"icon-{code:x}": {"body": body} for code in CODES[1:]}
    icons["parent"] = {"body": body}
    aliases = {f"icon-{CODES[0]:x}": {"parent": "parent"}}
    chars = {f"{code:x}": f"icon-{code:x}" for code in CODES} | {"1f6a7": "no such icon"}
    icon_set = {"icons": icons, "aliases": aliases, "width": 16, "height": 16}
    return {
        "package/icons.json": json.dumps(icon_set).encode(),
        "package/chars.json": json.dumps(chars).encode(),
    }


@pytest.fixture(scope="module")
def archives(tmp_path_factory, write):
    folder = tmp_path_factory.mktemp("emoji")
    for vendor in ("noto", "twemoji", "openmoji"):
        write.tarball(folder / f"iconify-json-{vendor}-1.tgz", iconify(vendor))
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), COLOURS["fluent"]).save(picture, "webp", lossless=True)
    # One concept has no picture by Fluent, so it is not in the set.
    files = {f"package/assets/{code:x}-fe0f.webp": picture.getvalue() for code in CODES[:-1]}
    write.tarball(folder / "lobehub-fluent-emoji-3d-1.tgz", files)
    entries = [
        {"hexcode": f"{code:X}-FE0F", "label": name, "group": 3, "subgroup": 7, "order": -i}
        for i, (code, name) in enumerate(zip(CODES, NAMES, strict=True))
    ]
    entries.append({"hexcode": "1F600", "label": "grinning face", "group": 0, "subgroup": 0, "order": 1})
    groups = {"groups": {"0": "smileys-emotion", "3": "animals-nature"}, "subgroups": {"7": "animal-mammal"}}
    files = {"package/en/data.json": entries, "package/meta/groups.json": groups}
    encoded = {name: json.dumps(value).encode() for name, value in files.items()}
    write.tarball(folder / "emojibase-data-1.tgz", encoded)
    wheel = {}
    for language in emoji.LANGUAGES:
        names = {
            chr(code): f":{name.replace(' ', '_')}_{language}:"
            for code, name in zip(CODES, NAMES, strict=True)
        }
        file = "emoji.json" if language == "en" else f"emoji_{language}.json"
        values = {key: {"en": name} for key, name in names.items()} if language == "en" else names
        wheel[f"emoji/unicode_codes/{file}"] = json.dumps(values).encode()
    write.wheel(folder / "emoji-1-py3-none-any.whl", wheel)
    return folder


@pytest.fixture
def small(archives, tmp_path, monkeypatch):
    """The packages of a set of 15 concepts, and an empty cache."""
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path))
    monkeypatch.setattr(assets, "require", lambda name: archives)
    return archives


def test_items_are_images_and_indices(small):
    dataset = Emoji("train", size=16)
    assert len(dataset) == 14 * 3
    image, index = dataset[2]
    assert image.shape == (3, 16, 16)
    assert image.dtype == torch.float32
    assert index == 2
    assert dataset.captions[2] == "key"  # the first by `order` of those that all draw
    assert dataset.vendors[:4] == ["noto", "openmoji", "fluent", "noto"]
    assert dataset.names("de")[2] == "key de"
    assert set(dataset.subcategories) == {"animal-mammal"}
    assert image[:, 8, 8].tolist() == [1.0, -1.0, 1.0]
    red = dataset[0][0]
    assert red[:, 8, 8].tolist() == [1.0, -1.0, -1.0]
    assert red[:, 0, 0].tolist() == [1.0, 1.0, 1.0]


def test_splits_share_neither_picture_nor_held_out_word(small):
    splits = {split: Emoji(split, size=16) for split in emoji.SPLITS}  # pyright: ignore
    rows = [row for dataset in splits.values() for row in dataset.rows]
    assert sorted(rows) == list(range(15 * 4))
    assert set(splits["new_vendor"].vendors) == set(splits["new_both"].vendors) == {"twemoji"}
    assert "twemoji" not in splits["train"].vendors + splits["new_concept"].vendors
    assert set(splits["train"].concepts) == set(splits["new_vendor"].concepts)
    assert set(splits["new_concept"].concepts) == set(splits["new_both"].concepts)
    held_out = set(splits["new_concept"].captions)
    assert len(held_out) == 1
    assert not held_out & {"dog", "guide dog", "cat", "cats of two"}
    other = Emoji("new_both", size=16, held_out_vendor="openmoji")
    assert (set(other.vendors), set(other.captions)) == ({"openmoji"}, held_out)


def test_the_set_is_drawn_once_and_read_from_the_cache(small, monkeypatch, capsys):
    first = Emoji("train", size=16)
    assert "preparing emoji 16" in capsys.readouterr().err
    monkeypatch.setattr(assets, "require", lambda name: pytest.fail("it is cached"))
    again = Emoji("train", size=16)
    assert torch.equal(first[3][0], again[3][0])
    assert capsys.readouterr().err == ""


def test_a_worker_opens_the_file_itself(small):
    dataset = Emoji("train", size=16)
    image = dataset[5][0]
    packed = pickle.dumps(dataset)
    assert len(packed) < 20_000 < len(dataset) * 3 * 16 * 16
    assert torch.equal(pickle.loads(packed)[5][0], image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split: expected one of 'train', 'new_vendor'.*got 'test'"),
        ({"size": 4}, "size: expected a whole number from 8 to 1024, got 4"),
        ({"size": 64.0}, "size: .*got 64.0"),
        ({"held_out_vendor": "apple"}, "held_out_vendor: expected one of 'noto'"),
    ],
)
def test_other_arguments_are_refused(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        Emoji(**arguments)


def test_an_unknown_language_is_refused(small):
    with pytest.raises(ValueError, match="language: expected one of 'ar'"):
        Emoji(size=16).names("xx")


def test_the_published_set():
    try:
        assets.path("emoji")
    except assets.AssetNotCached as error:
        pytest.skip(f"needs the packages: {error}")
    splits = {split: Emoji(split, size=32) for split in emoji.SPLITS}  # pyright: ignore
    assert {split: len(dataset) for split, dataset in splits.items()} == {
        "train": 2247,
        "new_vendor": 749,
        "new_concept": 300,
        "new_both": 100,
    }
    assert len(emoji.subcategories_of_at_least(splits["train"])) == 29
    train = splits["train"]
    assert train.names("fr")[train.captions.index("fire engine")] == "camion de pompier"
    pixels = torch.stack([train[i][0] for i in range(0, len(train), 50)])
    assert (pixels.flatten(1).std(1) > 0.05).all()  # nothing came out blank
