"""Animated emoji, on a small set drawn here, and on the published one where it is cached."""

from __future__ import annotations

import io
import json

import pytest
import torch

from spae import assets
from spae.data import open_data
from spae.data.animated_emoji import AnimatedEmoji

Image = pytest.importorskip("PIL.Image", reason="needs Pillow (the extra data)")

NAMES = [
    "cow",
    "cow face",
    "fox",
    "owl",
    "bee",
    "ant",
    "fig",
    "sea",
    "hut",
    "car",
    "jet",
    "key",
    "axe",
    "man",
    "woman",
    "cup",
]


def webp(colours) -> bytes:
    frames = [Image.new("RGBA", (32, 32), (0, 0, 0, 0)) for _ in colours]
    for frame, colour in zip(frames, colours, strict=True):
        frame.paste((*colour, 255), (8, 8, 24, 24))
    file = io.BytesIO()
    rest = {"save_all": True, "append_images": frames[1:]} if len(frames) > 1 else {}
    frames[0].save(file, "webp", lossless=True, **rest)
    return file.getvalue()


@pytest.fixture
def small(tmp_path, monkeypatch, write):
    """The packages of a set of 16 animations, and an empty cache."""
    codes = [0x1F300 + i for i in range(len(NAMES))]
    colours = [[(10 * time, 0, 10 * number) for time in range(20)] for number in range(len(NAMES))]
    files = {f"package/assets/{code:x}-fe0f.webp": webp(c) for code, c in zip(codes, colours, strict=True)}
    files["package/assets/1f30d-1f3fb.webp"] = webp([(0, 255, 0)] * 2 + [(0, 200, 0)])  # a skin tone
    files["package/assets/1f600.webp"] = webp([(0, 0, 0)])  # a still
    folder = tmp_path / "archives"
    folder.mkdir()
    write.tarball(folder / "lobehub-fluent-emoji-anim-1-1.tgz", files)
    entries = [
        {"hexcode": f"{code:X}-FE0F", "label": name, "group": 3, "subgroup": 7, "order": -code}
        for code, name in zip(codes, NAMES, strict=True)
    ]
    entries.append({"hexcode": "1F600", "label": "grin", "group": 0, "subgroup": 7, "order": 1})
    tables = {
        "package/en/data.json": entries,
        "package/meta/groups.json": {"subgroups": {"7": "animal-mammal"}},
    }
    write.tarball(
        folder / "emojibase-data-1.tgz", {name: json.dumps(value).encode() for name, value in tables.items()}
    )
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "require", lambda name: folder)


def test_animations_with_names_and_no_word_in_both_splits(small):
    train, test = AnimatedEmoji("train", 16, frames=5), AnimatedEmoji("test", 16, frames=5)
    assert (len(train), len(test)) == (14, 2)
    assert sorted(train.captions + test.captions) == sorted(NAMES)
    assert not {"cow", "cow face"} & set(test.captions)
    place = train.captions.index("cow face")
    video, index = train[place]
    assert (video.shape, index) == ((3, 5, 16, 16), place)
    seen = ((video[:, :, 8, 8] + 1) * 127.5).round().T.tolist()
    assert seen == [[0, 0, 10], [50, 0, 10], [100, 0, 10], [140, 0, 10], [190, 0, 10]]
    assert video[:, :, 0, 0].min() == 1  # on white
    assert train.captions[:2] == [NAMES[i] for i in range(15, -1, -1) if NAMES[i] in train.captions][:2]
    item = open_data("emoji-animated", "train", image_size=(5, 16, 16))[place]
    assert (item.caption, item.label) == (
        "cow face",
        14,
    )  # its place in Unicode's order, which is reversed here
    assert torch.equal(item.image, video)


@pytest.mark.parametrize("frames", [1, 29, 4.0])
def test_other_numbers_of_frames_are_refused(frames):
    with pytest.raises(ValueError, match=f"frames: expected a whole number from 2 to 28, got {frames}"):
        AnimatedEmoji(frames=frames)
