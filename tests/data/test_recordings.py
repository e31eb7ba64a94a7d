"""Folders of WAV files and spoken digits through the one door."""

from __future__ import annotations

import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from spae.data import Views, open_data
from spae.data.sound import SoundProcessor, write_wav

SHARED = Path(__file__).parents[3] / "shared" / "data" / "free-spoken-digits.tar.gz"


def tone(frequency: float) -> torch.Tensor:
    return torch.sin(2 * math.pi * frequency * torch.arange(2400) / 8000)


@pytest.fixture
def digits(tmp_path):
    """Two digits by two speakers, seven recordings each, as a folder."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for digit in (3, 7):
        for number, speaker in enumerate(("ann", "bo")):
            for index in range(7):
                name = f"{digit}_{speaker}_{index}.wav"
                write_wav(tone(200 * digit + 50 * number + index), folder / name, 8000)
    (folder / "notes.wav").write_bytes((folder / "3_ann_0.wav").read_bytes())
    return folder


def test_spoken_digits_from_folder_and_archive(digits, tmp_path):
    archive = tmp_path / "digits.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(digits, "free-spoken-digit-dataset/recordings")
    for place in (digits, archive):
        train, test = (open_data(f"spoken-digits:{place}", split) for split in ("train", "test"))
        assert test.keys == [f"{d}_{s}_{i}.wav" for d in (3, 7) for s in ("ann", "bo") for i in range(5)]
        assert train.keys == [f"{d}_{s}_{i}.wav" for d in (3, 7) for s in ("ann", "bo") for i in (5, 6)]
        assert test.captions == ["three"] * 10 + ["seven"] * 10
        assert train.labels.tolist() == [3, 3, 3, 3, 7, 7, 7, 7]
        assert test.classes[7] == "seven"
        assert test.source.speakers[4:6] == ["ann", "bo"]
        assert test.processor == SoundProcessor()
        assert torch.equal(train[6].image, SoundProcessor().preprocess(digits / "7_bo_5.wav")[0])
    assert open_data(f"spoken-digits:{digits}", "test", image_size=(16, 24))[0].image.shape == (1, 16, 24)
    views = open_data({"spoken-digits": str(digits), "views": {"count": 3, "mirror": False}}, "train")
    assert isinstance(views, Views)
    assert len(views) == 24


def test_a_folder_of_wav_has_classes_splits_and_captions_as_images_have(tmp_path):
    for split in ("train", "test"):
        for name, frequency in (("high", 2000), ("very_low", 100)):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                write_wav(tone(frequency + number), tmp_path / split / name / f"{number}.wav", 8000)
    (tmp_path / "test" / "high" / "1.txt").write_text("a whistle")
    (tmp_path / "test" / "high" / "cover.png").write_bytes(b"not looked at")
    test = open_data(f"wav:{tmp_path}", "test")
    assert test.captions == ["high", "a whistle", "very low", "very low"]
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert test.keys[1] == "high/1.wav"
    assert test[0].image.shape == (1, 32, 32)
    high, low = (test[i].image[0].mean(1).argmax().item() for i in (0, 2))
    assert high < low  # low frequencies at the bottom
    assert test.processor == SoundProcessor()


def test_a_folder_without_splits_is_split_by_keys(tmp_path):
    for number in range(30):
        write_wav(tone(300), tmp_path / f"{number}.wav", 8000)
    train, dev, test = (open_data(f"wav:{tmp_path}", split).keys for split in ("train", "dev", "test"))
    every = sorted(f"{n}.wav" for n in range(30))
    assert sorted(train + dev + test) == every
    assert open_data(f"wav:{tmp_path}", None).keys == every


@pytest.mark.parametrize(
    ("spec", "split", "size", "error", "message"),
    [
        ("spoken-digits:{}", "dev", None, ValueError, "split: expected one of 'train', 'test', got 'dev'"),
        ("spoken-digits:{}", None, None, ValueError, "split: expected one of those that spoken-digits has"),
        ("spoken-digits:{}", "test", (4, 32, 32), ValueError, r"size: expected \(bands, frames\)"),
        ("spoken-digits:{}/none", "test", None, FileNotFoundError, "path: expected an archive or a folder"),
        ("spoken-digits:{}/notes.wav", "test", None, ValueError, "path: expected a tar archive"),
        ("wav:{}/none", "test", None, FileNotFoundError, "root: expected a folder of WAV files"),
    ],
)
def test_errors(digits, spec, split, size, error, message):
    with pytest.raises(error, match=message):
        open_data(spec.format(digits), split, image_size=size)


def test_a_damaged_recording_is_named(digits):
    (digits / "3_ann_2.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"path: 3_ann_2.wav: expected a WAV file of PCM"):
        open_data(f"spoken-digits:{digits}", "test")
    empty = digits / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"path: expected DIGIT_SPEAKER_INDEX.wav, got none of test"):
        open_data(f"spoken-digits:{empty}", "test")


@pytest.mark.skipif(not SHARED.is_file(), reason="needs the Free Spoken Digit Dataset")
def test_the_real_ones():
    test = open_data(f"spoken-digits:{SHARED}", "test")
    assert len(test) == 300
    assert np.bincount(test.labels).tolist() == [30] * 10
    assert len(set(test.source.speakers)) == 6
