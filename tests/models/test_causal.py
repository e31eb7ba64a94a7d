"""Video in the causal backbone: what a frame may see, the first frame, chunks along time, 2D weights."""

from __future__ import annotations

import pytest
import torch

from spae.models import BackboneConfig, Decoder, Encoder, Stream, inflate
from spae.models.causal import chunks


def small(**changes) -> BackboneConfig:
    given = {"latent_dim": 6, "channels": 8, "multipliers": (1, 2, 2), "num_res_blocks": 1, "groups": 2}
    return BackboneConfig(**{**given, "ndim": 3, "causal": True, **changes})


SHRINKS = [2, ((1, 2, 2), 2), ((1, 2, 2), (1, 2, 2)), ((2, 2, 2), (3, 1, 2))]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("strides", SHRINKS)
def test_the_first_frame_stands_alone(strides):
    config = small(strides=strides)
    factor, (height, width) = config.factor[0], config.factor[1:]
    encoder, decoder = Encoder(config), Decoder(config)
    for later in (0, 1, 3):
        video = torch.randn(2, 3, 1 + factor * later, 2 * height, 3 * width)
        latents = encoder(video)
        assert latents.shape == (2, 6, 1 + later, 2, 3)
        assert config.grid(video.shape[2:]) == latents.shape[2:]
        assert decoder(latents).shape == video.shape


@pytest.mark.parametrize("strides", SHRINKS)
def test_no_frame_sees_a_later_one(strides):
    config = small(strides=strides)
    factor = config.factor[0]
    encoder, decoder = Encoder(config), Decoder(config)
    video = torch.randn(1, 3, 1 + 3 * factor, 8, 8)
    latents = encoder(video)
    for cell in range(3):
        changed = video.clone()
        changed[:, :, 1 + cell * factor] += 1  # the first frame of latent `cell + 1`
        seen = (encoder(changed) - latents).abs().amax((0, 1, 3, 4))
        assert seen[: cell + 1].max() < 1e-5
        assert seen[cell + 1] > 1e-3
    out = decoder(latents)
    for cell in range(1, 4):
        changed = latents.clone()
        changed[:, :, cell] += 1
        seen = (decoder(changed) - out).abs().amax((0, 1, 3, 4))
        assert seen[: 1 + (cell - 1) * factor].max() < 1e-5
        assert seen[1 + (cell - 1) * factor] > 1e-3


def test_what_is_not_causal_looks_ahead():
    encoder = Encoder(small(causal=False))
    video = torch.randn(1, 3, 8, 8, 8)
    changed = video.clone()
    changed[:, :, -1] += 1
    assert (encoder(changed) - encoder(video))[:, :, 0].abs().max() > 1e-4


@pytest.mark.parametrize("strides", SHRINKS)
def test_a_clip_in_chunks_is_the_whole_clip(strides):
    config = small(strides=strides)
    factor = config.factor[0]
    encoder, decoder = Encoder(config), Decoder(config)
    video = torch.randn(2, 3, 1 + 5 * factor, 8, 8)
    latents = encoder(video)
    for cells in (1, 2, 5):
        torch.testing.assert_close(encoder.in_chunks(video, cells * factor), latents)
        torch.testing.assert_close(decoder.in_chunks(latents, cells), decoder(latents))
    one_by_one = Stream(encoder)
    parts = [one_by_one(part) for part in chunks(video, 1, factor)]  # the first frame by itself
    assert [part.shape[2] for part in parts] == [1] * 6
    torch.testing.assert_close(torch.cat(parts, 2), latents)


def test_a_signal_in_chunks_is_the_whole_signal():
    config = small(ndim=1, in_channels=1, strides=4)
    encoder, decoder = Encoder(config), Decoder(config)
    signal = torch.randn(2, 1, 1 + 16 * 6)
    latents = encoder(signal)
    assert latents.shape == (2, 6, 7)
    torch.testing.assert_close(encoder.in_chunks(signal, 32), latents)
    torch.testing.assert_close(decoder.in_chunks(latents, 3), decoder(latents))


def test_streams_keep_a_bounded_past_and_do_not_mix():
    encoder = Encoder(small(strides=((1, 2, 2), 2)))
    video = torch.randn(1, 3, 41, 8, 8)
    kept = []
    stream, other = Stream(encoder), Stream(encoder)
    first, second = [], []
    for part in chunks(video, 3, 2):
        first.append(stream(part))
        second.append(other(-part))
        kept.append(
            sum(past.untyped_storage().nbytes() for past in stream._past.values() if past is not None)
        )
    assert len(set(kept)) == 1  # flat in the clip's length
    torch.testing.assert_close(torch.cat(first, 2), encoder(video))
    torch.testing.assert_close(torch.cat(second, 2), encoder(-video))
    torch.testing.assert_close(encoder(video), torch.cat(first, 2))  # a call outside starts anew


def test_an_inflated_model_works_on_each_frame_as_on_an_image():
    images = {"ndim": 2, "causal": False}
    for network in (Encoder, Decoder):
        flat = network(small(**images, strides=2))
        frames = network(small(strides=((1, 2, 2), (1, 2, 2))))
        shrinking = network(small(strides=((1, 2, 2), 2)))
        inflate(frames, flat)
        inflate(shrinking, flat)
        width, side = (3, 8) if network is Encoder else (6, 2)
        video = torch.randn(2, width, 5, side, side)
        by_frame = torch.stack([flat(frame) for frame in video.unbind(2)], 2)
        torch.testing.assert_close(frames(video), by_frame)
        # An image is a video of one frame, and a still clip is that image all along.
        still = video[:, :, :1].expand(-1, -1, 5, -1, -1)
        torch.testing.assert_close(shrinking(video[:, :, :1]), by_frame[:, :, :1])
        found = shrinking(still)
        torch.testing.assert_close(found, by_frame[:, :, :1].expand_as(found))


def test_causal_parts_compile_and_differentiate():
    config = small(strides=((1, 2, 2), 2))
    autoencoder = torch.nn.Sequential(Encoder(config), Decoder(config))
    video = torch.randn(1, 3, 5, 8, 8)
    compiled = torch.compile(autoencoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(video), autoencoder(video))
    autoencoder(video).square().mean().backward()
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    with pytest.raises(ValueError, match="network: expected causal layers, not compiled, got Optimized"):
        Stream(compiled)(video)


def test_errors_name_what_came_and_what_was_expected():
    with pytest.raises(ValueError, match=r"causal: expected False but for \[1, 3\] axes, got True for 2"):
        small(ndim=2)
    encoder = Encoder(small(strides=((1, 2, 2), 2)))
    with pytest.raises(ValueError, match=r"\(4, 4\), the first 1 more than a multiple of 2, got \(4, 8, 8\)"):
        encoder(torch.zeros(1, 3, 4, 8, 8))
    with pytest.raises(ValueError, match="frames: expected a multiple of 2 for a causal encoder, got 3"):
        encoder.in_chunks(torch.zeros(1, 3, 5, 8, 8), 3)
    with pytest.raises(ValueError, match="latents: expected a causal decoder for chunks"):
        Decoder(small(causal=False)).in_chunks(torch.zeros(1, 6, 2, 2, 2), 1)
    stream = Stream(encoder)
    stream(torch.zeros(1, 3, 3, 8, 8))
    with pytest.raises(ValueError, match=r"got \(0, 8, 8\)"):
        stream(torch.zeros(1, 3, 0, 8, 8))
    with pytest.raises(ValueError, match="first: expected a whole number from 1, got 0"):
        list(chunks(torch.zeros(1, 3, 3, 8, 8), 0, 2))
    with pytest.raises(ValueError, match=r"images: expected the parts of the 3D network, got others: "):
        inflate(encoder, Encoder(small(ndim=2, causal=False, multipliers=(1, 2))))
    with pytest.raises(ValueError, match=r"images: expected stem.weight of the shape"):
        inflate(encoder, Encoder(small(ndim=2, causal=False, in_channels=1)))
