"""Clips as folders of image files, through the one door."""

from __future__ import annotations

import pytest
import torch

from spae.data import open_data
from spae.data.frames import FrameFolders

Image = pytest.importorskip("PIL.Image", reason="needs Pillow (the extra data)")


def clip(folder, brightness, name="frame{}.png"):
    folder.mkdir(parents=True)
    for number, value in enumerate(brightness, 1):
        Image.new("RGB", (12, 8), (value,) * 3).save(folder / name.format(number))


def seen(video: torch.Tensor) -> list[int]:
    assert (video == video[:1, :, :1, :1]).all()
    return ((video[0, :, 0, 0] + 1) * 127.5).round().int().tolist()


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    clip(tmp_path / "walking" / "a", range(0, 120, 10))  # frame2 before frame10
    clip(tmp_path / "walking" / ".hidden", range(3))
    clip(tmp_path / "run_fast" / "b", (5, 6, 7, 8, 9), "{}.jpg")
    (tmp_path / "walking" / "a" / "notes.txt").write_text("no frame")
    (tmp_path / "run_fast" / "b.txt").write_text("a  man\nruns")
    clips = FrameFolders(tmp_path, (5, 8, 8))
    assert clips.keys == ["run_fast/b", "walking/a"]
    assert clips.classes == ["run_fast", "walking"]
    assert clips.captions == ["a man runs", "walking"]
    assert [len(frames) for frames in clips.frames] == [5, 12]
    video, label = clips[1]
    assert video.shape == (3, 5, 8, 8)
    assert label == 1
    assert seen(video) == [0, 30, 60, 80, 110]  # evenly from the first to the last
    assert FrameFolders(tmp_path / "walking", (12, 8, 8)).labels.tolist() == [0]
    assert seen(FrameFolders(tmp_path / "walking", (12, 8, 8))[0][0]) == list(range(0, 120, 10))


def test_through_the_one_door(tmp_path):
    for number in range(20):
        clip(tmp_path / "flat" / f"clip{number}", (number, number + 100))
    every = open_data(f"frames:{tmp_path / 'flat'}", None, image_size=(2, 8, 8))
    assert len(every) == 20
    parts = [
        open_data({"frames": str(tmp_path / "flat")}, s, image_size=(2, 8, 8)) for s in ("train", "test")
    ]
    keys = [set(part.keys) for part in parts]
    assert keys[0]
    assert keys[1]
    assert not keys[0] & keys[1]
    item = every[3]
    assert (item.image.shape, item.key) == ((3, 2, 8, 8), every.source.keys[3])
    clip(tmp_path / "split" / "train" / "up" / "a", (1, 2))
    clip(tmp_path / "split" / "val" / "down" / "b", (3, 4))
    train, dev = (
        open_data({"frames": str(tmp_path / "split")}, s, image_size=(2, 8, 8)) for s in ("train", "dev")
    )
    assert train.classes == dev.classes == ("down", "up")
    assert (train[0].label, train[0].caption, dev[0].label, dev[0].caption) == (1, "up", 0, "down")
    assert seen(dev[0].image) == [3, 4]


def test_errors_name_what_came_and_what_was_expected(tmp_path):
    clip(tmp_path / "a", (1, 2))
    with pytest.raises(ValueError, match=r"a: expected at least 3 frames, got 2"):
        open_data(f"frames:{tmp_path}", None, image_size=(3, 8, 8))
    with pytest.raises(ValueError, match=r"image_size: expected \(frames, height, width\) .*, got \(8, 8\)"):
        open_data(f"frames:{tmp_path}", None, image_size=8)
    with pytest.raises(ValueError, match=r"size: expected \(frames, height, width\) .*, got 8"):
        FrameFolders(tmp_path, 8)
    with pytest.raises(
        ValueError, match="root: expected folders of image files, each a clip, got none under"
    ):
        FrameFolders(tmp_path / "a", (1, 8, 8))
    with pytest.raises(FileNotFoundError, match="root: expected a folder of clips, got"):
        FrameFolders(tmp_path / "b", (1, 8, 8))
    (tmp_path / "a" / "frame2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"frame2\.png: expected an image, got what cannot be read"):
        FrameFolders(tmp_path, (2, 8, 8))[0]
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected a folder .*test'.*\{\"frames\": "):
        open_data(f"frames:{tmp_path}", "test", image_size=(2, 8, 8))
