"""Sound as pictures and back: WAV files, log-mel spectrograms, and waveforms from these."""

from __future__ import annotations

import io
import math
import os
import wave
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spae.configs import Count, Positive
from spae.data.processor import Processor

Source = str | os.PathLike[str] | bytes
_ITERATIONS, _MOMENTUM = 100, 0.99
_LOUDEST = 0.9  # the peak of what is written


def read_wav(source: Source, name: object = None) -> tuple[NDArray[np.float32], int]:
    """A WAV file of PCM, 8 to 32 bits: the mean of its channels, float32 [n] in [-1, 1], and its rate in Hz.

    name: what errors call it; None: the path, or "sound".

    Raises:
        OSError: the file is missing or may not be read.
        ValueError: no such WAV, a damaged one, or one without a sample.
    """
    if name is None:
        name = "sound" if isinstance(source, bytes) else source
    try:
        with wave.open(io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        reason = error or "it ends early"
        raise ValueError(f"{name}: expected a WAV file of PCM, got what is none ({reason})") from error
    if not content or len(content) % (width * channels) or not rate:
        raise ValueError(f"{name}: expected whole samples, got {len(content)} bytes of {channels} x {width}")
    if width == 1:  # unsigned, alone among the widths
        samples = np.frombuffer(content, np.uint8).astype(np.float64) / 128 - 1
    else:
        # As the high bytes of 32 bits, so that 24 bits keep their sign.
        padded = np.zeros((len(content) // width, 4), np.uint8)
        padded[:, 4 - width :] = np.frombuffer(content, np.uint8).reshape(-1, width)
        samples = padded.view("<i4")[:, 0] / 2.0**31
    return samples.reshape(-1, channels).mean(1).astype(np.float32), rate


def write_wav(samples: Tensor, path: str | os.PathLike[str], rate: int) -> None:
    """Samples float [n] in [-1, 1], clamped there, as a WAV file of one channel and 16 bits."""
    if samples.ndim != 1 or not samples.is_floating_point():
        raise ValueError(f"samples: expected floats [n], got {samples.dtype} {list(samples.shape)}")
    values = (samples.detach().cpu().double().clamp(-1, 1) * 32767).round().numpy().astype("<i2")
    with wave.open(os.fspath(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", "not compressed"))
        file.writeframes(values.tobytes())


def resample(samples: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """Samples [n] at another rate, [round(n * wanted / rate)]: its spectrum cut or filled up with zeros."""
    if rate == wanted:
        return samples
    count = max(1, round(len(samples) * wanted / rate))
    spectrum = np.fft.rfft(samples.astype(np.float64))
    kept = np.zeros(count // 2 + 1, complex)
    # The highest frequency of an even length stands for two; without it both lengths mean the same.
    most = min((len(samples) + 1) // 2, (count + 1) // 2)
    kept[:most] = spectrum[:most]
    return (np.fft.irfft(kept, count) * (count / len(samples))).astype(np.float32)


@dataclass(frozen=True)
class SoundProcessor(Processor):
    """Brings recordings to a tokenizer's images, log-mel spectrograms, and such images back to sound.

    An image is float [1, bands, frames] in [-1, 1], low frequencies at the bottom: 1 is the loudest band of
    the recording, -1 what is `floor` decibels or more below it. So how loud a recording is gets lost, and its
    phases do; `postprocess` finds others that fit.

    image_size: (bands, frames). rate: samples a second; others are resampled. hop: samples from frame to
    frame. window: samples of a frame, under a Hann window. fft: as many are transformed, with zeros around. A
    recording longer than frames * hop samples keeps the stretch with the most energy, a shorter one stands in
    the middle of silence.
    """

    image_size: tuple[Count, Count] = (32, 32)
    rate: Count = 8000
    hop: Count = 160
    window: Count = 400
    fft: Count = 512
    floor: Positive = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 * self.hop <= self.window <= self.fft:
            raise ValueError(
                f"processor.window: expected two hops, {2 * self.hop}, to fft, {self.fft}, got {self.window}"
            )
        if (self.filters().sum(1) == 0).any():
            raise ValueError(
                f"processor.image_size: expected bands that each hold one of {self.fft // 2 + 1} "
                f"frequencies, got {self.image_size[0]} bands"
            )

    @property
    def channels(self) -> int:
        return 1

    @property
    def samples(self) -> int:
        """Of an image."""
        return self.hop * self.image_size[1]

    def filters(self) -> Tensor:
        """Triangles over frequencies f, float64 [bands, fft // 2 + 1]: equally spaced in mel, which is
        2595 log10(1 + f / 700), from 0 Hz to half the rate, each rising from its lower neighbour's centre to
        1 at its own."""
        return _triangles(self.image_size[0], self.fft, self.rate)

    def preprocess(self, images: Any, *, layout: str | None = None) -> Tensor:
        """Recordings to float32 [B, 1, bands, frames] in [-1, 1].

        images: one recording or a list of them: a path or bytes of a WAV file (`read_wav`), or samples float
            [n] at `rate`. layout: none; sound has no other.

        Raises what `read_wav` does, TypeError for no recording.
        """
        if layout is not None:
            raise ValueError(f"layout: expected None, for sound has none, got {layout!r}")
        given = images if isinstance(images, list | tuple) else [images]
        pictures = [self.spectrogram(self._samples(one, f"images[{i}]")) for i, one in enumerate(given)]
        return torch.stack(pictures) if pictures else torch.empty(0, 1, *self.image_size)

    __call__ = preprocess

    def postprocess(self, images: Tensor, output: Literal["pil", "numpy", "tensor"] = "tensor") -> Any:
        """Images float [B, 1, bands, frames] in [-1, 1], clamped there, to samples float32 [B, n] at `rate`,
        their loudest at 0.9; all-silent images to zeros. The same image makes the same sound."""
        if output not in ("numpy", "tensor"):
            raise ValueError(f"output: expected 'tensor' or 'numpy', got {output!r}")
        expected = (1, *self.image_size)
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.shape[1:] != expected:
            got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"images: expected floats [B, {', '.join(map(str, expected))}], got {got}")
        if images.isnan().any():
            raise ValueError("images: expected values in [-1, 1], got nan")
        waves = [self.waveform(image) for image in images]
        sound = torch.stack(waves) if waves else torch.empty(0, self.samples)
        return sound.numpy() if output == "numpy" else sound

    def spectrogram(self, samples: Tensor) -> Tensor:
        """Samples float [n] at `rate` to an image float32 [1, bands, frames]; silence to -1."""
        spectrum = self._stft(self._stretch(samples.double())).abs().square()
        filters = self.filters()
        power = (filters / filters.sum(1, keepdim=True)) @ spectrum
        loudest = power.max()
        if loudest == 0:
            return torch.full((1, *self.image_size), -1.0)
        decibels = 10 * torch.log10((power / loudest).clamp(min=10 ** (-self.floor / 10)))
        return (2 * decibels / self.floor + 1).flip(0)[None].float()

    def power(self, image: Tensor) -> Tensor:
        """The power spectrum that an image [1, bands, frames] stands for, float64 [fft // 2 + 1, frames], its
        loudest band 1 where the image has a 1: between the centres of bands it is interpolated."""
        level = (image[0].double().cpu().clamp(-1, 1).flip(0) - 1) * self.floor / 20
        bands = torch.where(level <= -self.floor / 10, 0.0, 10**level)
        return self.filters().T @ bands  # neighbours' triangles sum to 1

    def waveform(self, image: Tensor) -> Tensor:
        """An image [1, bands, frames] to samples float32 [n] (Griffin and Lim 1984, with the momentum of
        Perraudin et al. 2013): phases that are begun at random, from a fixed seed, are made consistent."""
        magnitude = self.power(image).sqrt()
        if magnitude.max() == 0:
            return torch.zeros(self.samples)
        generator = torch.Generator().manual_seed(0)
        angle = 2 * math.pi * torch.rand(magnitude.shape, generator=generator, dtype=torch.float64)
        phase, before = torch.polar(torch.ones_like(angle), angle), torch.zeros_like(magnitude)
        for _ in range(_ITERATIONS):
            now = self._stft(self._istft(magnitude * phase))
            phase = now + _MOMENTUM * (now - before)
            phase, before = phase / phase.abs().clamp(min=1e-12), now
        sound = self._istft(magnitude * phase)
        return (sound * (_LOUDEST / sound.abs().max())).float()

    def _samples(self, recording: Any, name: str) -> Tensor:
        if isinstance(recording, str | os.PathLike | bytes):
            samples, rate = read_wav(recording, name if isinstance(recording, bytes) else None)
            return torch.from_numpy(resample(samples, rate, self.rate))
        if not isinstance(recording, np.ndarray | Tensor):
            kind = type(recording).__name__
            raise TypeError(f"{name}: expected a recording (path, bytes or samples [n]), got {kind}")
        samples = torch.as_tensor(recording)
        if samples.ndim != 1 or not samples.is_floating_point() or not len(samples):
            raise ValueError(f"{name}: expected floats [n], got {samples.dtype} {list(samples.shape)}")
        if not samples.isfinite().all():
            raise ValueError(f"{name}: expected finite samples, got others")
        return samples

    def _stretch(self, samples: Tensor) -> Tensor:
        """As many samples as an image has."""
        excess = len(samples) - self.samples
        if excess > 0:
            energy = torch.cat([torch.zeros(1, dtype=torch.float64), samples.square().cumsum(0)])
            start = int((energy[self.samples :] - energy[: excess + 1]).argmax())
            return samples[start : start + self.samples]
        before = -excess // 2
        return torch.nn.functional.pad(samples, (before, -excess - before))

    def _stft(self, samples: Tensor) -> Tensor:
        """Complex [fft // 2 + 1, frames]: frame t is centred at sample t * hop."""
        window = torch.hann_window(self.window, dtype=torch.float64)
        spectrum = torch.stft(
            samples, self.fft, self.hop, self.window, window, pad_mode="constant", return_complex=True
        )
        return spectrum[:, :-1]  # the last is centred at the end

    def _istft(self, spectrum: Tensor) -> Tensor:
        """The samples float64 [n] whose `_stft` is nearest."""
        window = torch.hann_window(self.window, dtype=torch.float64)
        padded = torch.nn.functional.pad(spectrum, (0, 1))
        return torch.istft(padded, self.fft, self.hop, self.window, window, length=self.samples)


@cache
def _triangles(bands: int, fft: int, rate: int) -> Tensor:
    most = 2595 * math.log10(1 + rate / 2 / 700)
    mels = torch.linspace(0, most, bands + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, fft // 2 + 1, dtype=torch.float64)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0)
