"""Waveforms, of one dimension, through the tokenizers' face, and a spectral distance as a term of the loss."""

from __future__ import annotations

import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.losses import Objective
from spae.metrics import multi_resolution_stft

CONFIG = SPAEConfig(
    image_size=(1024,),
    grids=((1,), (4,), (16,)),
    in_channels=1,
    channels=8,
    multipliers=(1, 2, 2),
    num_res_blocks=1,
    strides=8,
)


def model() -> SPAE:
    torch.manual_seed(0)
    words = Codebook.from_arrays([f" word{i}" for i in range(40)], torch.randn(40, 12) * 0.3)
    return SPAE(CONFIG, words)


def tones() -> torch.Tensor:
    """Float [4, 1, 1024], louder in the middle."""
    time = torch.arange(1024.0)
    swell = torch.exp(-(((time - 512) / 200) ** 2))
    return torch.stack([torch.sin(time * pitch) * swell for pitch in (0.1, 0.2, 0.3, 0.5)])[:, None]


def stft(sound: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    return multi_resolution_stft(sound.flatten(0, 1), reconstruction.flatten(0, 1)).mean()


def test_a_waveform_to_words_and_back():
    spae = model().eval()
    tokens = spae.encode(tones())
    assert spae.pyramid.shape == (16,)
    assert tokens.ids.shape == (4, 1 + 4 + 16)
    assert torch.equal(spae.tokens(spae.words(tokens)).ids, tokens.ids)
    for layers in (1, 2, 3):
        assert spae.decode(tokens.upto(layers)).shape == (4, 1, 1024)


def test_the_spectral_distance_is_a_term_of_the_loss():
    """With it spectra come near in a few steps; by squared errors alone, which phases rule, they do not."""
    left = {}
    for name, measure in (("squares", None), ("spectra", stft)):
        spae, objective = model(), Objective(perceptual=measure)
        adam = torch.optim.Adam(spae.parameters(), lr=3e-3)
        for _ in range(60):
            output = spae(tones())
            loss, terms = objective(output, tones())
            adam.zero_grad()
            loss.backward()
            adam.step()
        assert len(terms) == (2 if measure is None else 3)
        left[name] = stft(tones(), spae(tones()).reconstruction).item()
    assert left["spectra"] < 0.5 * left["squares"]


def test_a_waveform_of_another_length_is_named():
    with pytest.raises(ValueError, match=r"1024.* got .*1000"):
        model().encode(tones()[..., :1000])
