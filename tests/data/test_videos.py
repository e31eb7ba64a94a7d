"""Video files, made here."""

from __future__ import annotations

import sys
import wave

import pytest
import torch

from spae.data import open_data


def test_without_pyav_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ImportError, match=r"reading videos needs av and pillow: pip install av pillow"):
        open_data(f"videos:{tmp_path}", None, image_size=(2, 8, 8))
    with pytest.raises(ValueError, match=r"image_size: expected \(frames, height, width\) .*, got \(8, 8\)"):
        open_data(f"videos:{tmp_path}", None, image_size=8)


@pytest.fixture
def film():
    """Writes a losslessly coded video of grey frames: film(path, brightness)."""
    av = pytest.importorskip("av", reason="needs PyAV (the extra video)")

    def write(path, brightness):
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.width, stream.height, stream.pix_fmt = 24, 16, "bgr0"
            for value in brightness:
                pixels = torch.full((16, 24, 3), value, dtype=torch.uint8)
                pixels[:, :4] = 255  # cut away where the middle is kept
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels.numpy(), "rgb24")))
            container.mux(stream.encode())

    return write


def seen(video: torch.Tensor) -> list[int]:
    assert (video == video[:1, :, :1, :1]).all()
    return ((video[0, :, 0, 0] + 1) * 127.5).round().int().tolist()


def test_frames_are_taken_evenly_and_files_are_as_images_are(film, tmp_path):
    film(tmp_path / "walking" / "a.mkv", range(0, 120, 10))
    film(tmp_path / "run_fast" / "b.avi", (5, 6, 7, 8, 9))
    (tmp_path / "run_fast" / "b.txt").write_text("a man runs")
    clips = open_data(f"videos:{tmp_path}", None, image_size=(5, 16, 16))
    assert (clips.keys, clips.captions) == (["run_fast/b.avi", "walking/a.mkv"], ["a man runs", "walking"])
    assert clips[1].image.shape == (3, 5, 16, 16)
    assert (clips[1].label, seen(clips[1].image)) == (1, [0, 30, 60, 80, 110])
    assert seen(clips[0].image) == [5, 6, 7, 8, 9]
    film(tmp_path / "split" / "train" / "c.mkv", (1, 2))
    film(tmp_path / "split" / "val" / "d.mkv", (3, 4))
    assert seen(open_data(f"videos:{tmp_path / 'split'}", "dev", image_size=(2, 16, 16))[0].image) == [3, 4]


def test_bad_files_are_named(film, tmp_path):
    film(tmp_path / "short.mkv", (1, 2))
    (tmp_path / "text.mp4").write_bytes(b"no video, whatever its name says")
    with wave.open(str(tmp_path / "sound.mov"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        file.writeframes(bytes(1000))
    clips = open_data(f"videos:{tmp_path}", None, image_size=(3, 16, 16))
    assert clips.keys == ["short.mkv", "sound.mov", "text.mp4"]
    for row, message in enumerate(
        ["expected at least 3 frames, got 2", "got a file without pictures", "got what cannot be read as one"]
    ):
        with pytest.raises(ValueError, match=f"{clips.keys[row]}: .*{message}"):
            clips[row]
