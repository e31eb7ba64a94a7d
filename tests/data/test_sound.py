"""WAV files, and recordings as log-mel spectrograms and back."""

from __future__ import annotations

import math
import wave

import numpy as np
import pytest
import torch

from spae.data.sound import SoundProcessor, read_wav, resample, write_wav
from spae.processing import load_processor

MEL = SoundProcessor()


def write(path, frames: bytes, *, rate=8000, width=2, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(frames)
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_reads_as_what_was_written(tmp_path, width):
    values = [0, 1 << (8 * width - 2), -(1 << (8 * width - 1)), -1]
    raw = b"".join(
        (v + 128).to_bytes(1, "little") if width == 1 else v.to_bytes(width, "little", signed=True)
        for v in values
    )
    samples, rate = read_wav(write(tmp_path / "a.wav", raw, rate=11025, width=width))
    assert rate == 11025
    assert samples.dtype == np.float32
    assert samples.tolist() == [0.0, 0.5, -1.0, np.float32(-(0.5 ** (8 * width - 1)))]


def test_channels_are_averaged_and_bytes_are_a_file_too(tmp_path):
    path = write(tmp_path / "a.wav", np.array([[8192, 24576], [-8192, 8192]], "<i2").tobytes(), channels=2)
    for source in (path, path.read_bytes()):
        assert read_wav(source)[0].tolist() == [0.5, 0.0]


def test_what_is_written_is_read_again(tmp_path):
    samples = torch.tensor([0.0, 1.0, -1.0, 0.25, 2.0])
    write_wav(samples, tmp_path / "a.wav", 8000)
    again, rate = read_wav(tmp_path / "a.wav")
    assert rate == 8000
    assert np.abs(again - samples.clamp(-1, 1).numpy()).max() < 1e-4


def test_another_rate_keeps_a_tone():
    def tone(rate):
        return np.sin(2 * np.pi * 400 * np.arange(rate // 10) / rate).astype(np.float32)

    for rate, wanted in ((16000, 8000), (8000, 16000), (44100, 8000)):
        assert np.abs(resample(tone(rate), rate, wanted) - tone(wanted)).max() < 1e-6
    high = np.sin(2 * np.pi * 5000 * np.arange(1600) / 16000).astype(np.float32)
    assert np.abs(resample(high, 16000, 8000)).max() < 1e-6  # above half the new rate: gone, not folded back


def test_filters_are_triangles_that_sum_to_one():
    filters = MEL.filters()
    assert filters.shape == (32, 257)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 34) / 2595) - 1)
    frequencies = np.linspace(0, 4000, 257)
    for band in (0, 7, 31):
        expected = np.interp(frequencies, edges[band : band + 3], [0, 1, 0])
        assert np.abs(filters[band].numpy() - expected).max() < 1e-12
    inside = (frequencies >= edges[1]) & (frequencies <= edges[-2])
    assert np.abs(filters.sum(0).numpy()[inside] - 1).max() < 1e-12


def test_an_impulse_has_every_band_as_loud_as_its_window_says():
    sound = torch.zeros(MEL.samples)
    place = 10 * MEL.hop
    sound[place] = 0.3
    image = MEL.spectrogram(sound)
    for frame in range(32):
        offset = place - frame * MEL.hop + MEL.window // 2
        weight = 0.5 - 0.5 * math.cos(2 * math.pi * offset / MEL.window) if 0 < offset < MEL.window else 0.0
        expected = max(-1.0, 2 * 20 * math.log10(max(weight, 1e-9)) / 60 + 1)
        assert (image[0, :, frame] - expected).abs().max() < 1e-6


def test_a_tone_is_where_its_frequency_is_and_how_loud_it_is_is_lost():
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(MEL.samples) / MEL.rate)
    image = MEL.spectrogram(tone)
    band = int(MEL.filters()[:, 64].argmax())  # 64 of 512 frequencies of 8 kHz: 1000 Hz
    assert (image[0, :, 5:25].argmax(0) == 31 - band).all()
    assert torch.equal(image, MEL.spectrogram(tone * 0.25))
    quiet = SoundProcessor(floor=30.0).spectrogram(tone)
    assert (quiet - (2 * image - 1).clamp(min=-1)).abs().max() < 1e-5


def test_silence_is_dark_and_comes_back_as_silence():
    image = MEL.spectrogram(torch.zeros(100))
    assert (image == -1).all()
    assert torch.equal(MEL.waveform(image), torch.zeros(MEL.samples))


def test_short_recordings_stand_in_the_middle_and_long_ones_keep_their_loudest_stretch():
    noise = torch.randn(1600, generator=torch.Generator().manual_seed(0))
    short = MEL.spectrogram(noise)
    assert (short[..., :9] == -1).all()
    assert (short[..., 23:] == -1).all()
    assert (short[..., 12:20] > -1).all()
    whole = torch.randn(MEL.samples, generator=torch.Generator().manual_seed(1))
    long = torch.cat([1e-4 * torch.ones(3000), whole, 1e-4 * torch.ones(500)])
    assert torch.equal(MEL.spectrogram(long), MEL.spectrogram(whole))


def test_the_power_of_a_flat_image_is_flat():
    power = MEL.power(torch.zeros(1, 32, 32))  # 30 dB below the loudest
    inside = MEL.filters().sum(0) > 1 - 1e-12
    assert inside.sum() > 230
    assert (power[inside] - 1e-3).abs().max() < 1e-12


def test_sounds_made_of_an_image_have_that_image():
    """Of noise that swells and fades; harmonics closer than bands are lost by design."""
    noise = torch.randn(MEL.samples, generator=torch.Generator().manual_seed(0))
    noise = noise * torch.hann_window(MEL.samples)
    image = MEL.preprocess(noise)
    sound = MEL.postprocess(image)
    assert sound.shape == (1, MEL.samples)
    assert sound.abs().max().item() == pytest.approx(0.9, abs=1e-5)
    assert torch.equal(sound, MEL.postprocess(image))
    again = MEL.preprocess(list(sound))
    assert 30 * (again - image).square().mean().sqrt() < 2  # dB
    other = torch.randn(MEL.samples, generator=torch.Generator().manual_seed(1))
    other = other * torch.hann_window(MEL.samples)
    assert 30 * (MEL.preprocess(other) - image).square().mean().sqrt() > 3


def test_processor_takes_files_at_any_rate_and_is_saved(tmp_path):
    tone = np.sin(2 * np.pi * 400 * np.arange(4000) / 16000).astype(np.float32)
    write_wav(torch.from_numpy(tone), tmp_path / "a.wav", 16000)
    path = tmp_path / "a.wav"
    images = MEL.preprocess([path, path.read_bytes(), torch.from_numpy(resample(tone, 16000, 8000))])
    assert images.shape == (3, 1, 32, 32)
    assert torch.equal(images[0], images[1])
    # 16 bits are 98 dB, 60 of which count: but in silence's place stands rounding.
    assert (images[0] - images[2]).abs().max() < 0.1
    other = SoundProcessor((16, 24), rate=16000, hop=200, window=512)
    other.save(tmp_path)
    assert load_processor(tmp_path) == other
    assert other.preprocess([]).shape == (0, 1, 16, 24)


@pytest.mark.parametrize(
    ("kind", "message", "call"),
    [
        (ValueError, r"processor.window: expected two hops, 320, to fft, 512, got 300", lambda p: SoundProcessor(window=300)),
        (ValueError, r"processor.image_size: expected bands that each hold one of 257 .* got 200", lambda p: SoundProcessor((200, 32))),
        (ValueError, r"layout: expected None", lambda p: MEL.preprocess(torch.zeros(9), layout="chw")),
        (ValueError, r"images\[1\]: expected floats \[n\], got torch.int64 \[3\]", lambda p: MEL.preprocess([torch.zeros(9), torch.arange(3)])),
        (ValueError, r"images\[0\]: expected finite", lambda p: MEL.preprocess(torch.tensor([0.0, float("nan")]))),
        (TypeError, r"images\[0\]: expected a recording", lambda p: MEL.preprocess(3)),
        (ValueError, r"images: expected floats \[B, 1, 32, 32\], got \[1, 3, 32, 32\]", lambda p: MEL.postprocess(torch.zeros(1, 3, 32, 32))),
        (ValueError, r"images: expected values in \[-1, 1\], got nan", lambda p: MEL.postprocess(torch.full((1, 1, 32, 32), float("nan")))),
        (ValueError, r"output: expected 'tensor' or 'numpy', got 'pil'", lambda p: MEL.postprocess(torch.zeros(1, 1, 32, 32), "pil")),
        (ValueError, r"a.wav: expected a WAV file of PCM", lambda p: read_wav(text(p))),
        (ValueError, r"expected whole samples, got 0 bytes", lambda p: read_wav(write(p / "a.wav", b""))),
        (FileNotFoundError, r"none.wav", lambda p: MEL.preprocess(p / "none.wav")),
        (ValueError, r"samples: expected floats \[n\]", lambda p: write_wav(torch.zeros(1, 2), p / "a.wav", 8000)),
    ],
)  # fmt: skip
def test_errors(tmp_path, kind, message, call):
    with pytest.raises(kind, match=message):
        call(tmp_path)


def text(folder):
    (folder / "a.wav").write_text("RIFF, but not really")
    return folder / "a.wav"
