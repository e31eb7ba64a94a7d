"""Clips through the tokenizers' face: causal, of one frame, in chunks, from an image model's weights."""

from __future__ import annotations

import pytest
import torch

from spae import SPAE, Codebook, PyramidTokens, SPAEConfig
from spae.models import inflate
from spae.training.presets import load_preset

GRIDS = ((1, 1, 1), (5, 1, 1), (5, 2, 2), (5, 4, 4))
SMALL = {"channels": 4, "multipliers": (1, 2, 2), "num_res_blocks": 1}
CLIP = SPAEConfig(image_size=(9, 16, 16), grids=GRIDS, strides=((1, 2, 2), 2), causal=True, **SMALL)


@pytest.fixture(scope="module")
def model() -> SPAE:
    """With running statistics of its own, so that latents spread over the words."""
    torch.manual_seed(0)
    vectors = torch.randn(60, 12) * 0.3
    spae = SPAE(CLIP, Codebook.from_arrays([f" word{i}" for i in range(60)], vectors, name="toy"))
    with torch.no_grad():
        spae(torch.rand(8, 3, 9, 16, 16) * 2 - 1)
        spae(torch.rand(8, 3, 9, 16, 16) * 2 - 1)
    return spae.eval()


def clips(count: int = 2, frames: int = 9, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, frames, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_causal_clip_to_words_and_back(model):
    tokens = model.encode(clips())
    assert model.pyramid.shape == (5, 4, 4)
    assert tokens.ids.shape == (2, 1 + 5 + 20 + 80)
    assert tokens.ids.unique().numel() > 20
    assert torch.equal(model.tokens(model.words(tokens)).ids, tokens.ids)
    for layers in (1, 2, 4):
        assert model.decode(tokens.upto(layers)).shape == (2, 3, 9, 16, 16)
    assert SPAEConfig.from_dict(CLIP.to_dict()) == CLIP


def test_words_of_earlier_frames_do_not_change_with_later_ones(model):
    before = clips()
    after = before.clone()
    after[:, :, 5:] = -after[:, :, 5:]  # of latent frames 3 and 4
    ids = [model.encode(clip).ids for clip in (before, after)]
    for layer in range(1, 4):
        first, second = (PyramidTokens(part, model.pyramid).layer(layer).reshape(2, 5, -1) for part in ids)
        assert torch.equal(first[:, :3], second[:, :3])
        assert not torch.equal(first[:, 3:], second[:, 3:])


def test_a_clip_in_chunks_has_the_same_words_and_pixels(model):
    long = model.resized((41, 16, 16), ((1, 1, 1), (21, 1, 1), (21, 2, 2), (21, 4, 4)))
    clip = clips(1, 41)
    latents, tokens = long.latents(clip), long.encode(clip)
    pixels = long.decode(tokens)
    for frames in (2, 8, 40):
        long.set_chunks(frames)
        torch.testing.assert_close(long.latents(clip), latents)
        assert long.encode(clip) == tokens
        torch.testing.assert_close(long.decode(tokens), pixels)
    long.set_chunks(None)
    assert torch.equal(long.latents(clip), latents)


def test_layers_see_no_more_than_a_chunk(model):
    long = model.resized((41, 16, 16), ((1, 1, 1), (1, 1, 1), (1, 2, 2), (21, 4, 4)))
    long.set_chunks(4)
    seen = {"encoder": [], "decoder": []}
    for name, lengths in seen.items():
        for part in getattr(long, name).modules():
            if isinstance(part, torch.nn.Conv3d):
                part.register_forward_hook(lambda _, __, out, lengths=lengths: lengths.append(out.shape[2]))
    long.decode(long.encode(clips(1, 41)))
    assert max(seen["encoder"]) == 5
    assert max(seen["decoder"]) == 4


def test_an_image_is_a_clip_of_one_frame(model):
    one = model.resized((1, 16, 16), ((1, 1, 1), (1, 1, 1), (1, 2, 2), (1, 4, 4)))
    clip = clips()
    torch.testing.assert_close(one.latents(clip[:, :, :1]), model.latents(clip)[:, :, :1])
    tokens = one.encode(clip[:, :, :1])
    assert one.decode(tokens).shape == (2, 3, 1, 16, 16)
    assert tokens.ids.shape == (2, 1 + 1 + 4 + 16)


def test_from_an_image_model_s_weights(model):
    torch.manual_seed(3)
    flat = SPAE(SPAEConfig(image_size=(16, 16), grids=(1, 1, 2, 4), **SMALL), model.codebook)
    with torch.no_grad():
        flat(clips(8)[:, :, 0])
    flat.eval()
    clip = SPAE(CLIP, model.codebook).eval()
    inflate(clip, flat)
    one = clip.resized((1, 16, 16), ((1, 1, 1), (1, 1, 1), (1, 2, 2), (1, 4, 4)))
    images = clips()[:, :, 0]
    tokens = flat.encode(images)
    assert torch.equal(one.encode(images[:, :, None]).ids, tokens.ids)
    torch.testing.assert_close(
        one.decode(PyramidTokens(tokens.ids, one.pyramid))[:, :, 0], flat.decode(tokens)
    )
    still = images[:, :, None].expand(-1, -1, 9, -1, -1)
    torch.testing.assert_close(
        clip.latents(still), flat.latents(images)[:, :, None].expand(-1, -1, 5, -1, -1)
    )


def test_every_weight_of_a_clip_s_model_learns(model):
    spae = SPAE(CLIP, model.codebook)
    output = spae(clips())
    assert output.reconstruction.shape == (2, 3, 9, 16, 16)
    sum(output.losses.values()).backward()
    for name, parameter in spae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_checkpoints_keep_that_it_is_causal(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = SPAE.from_pretrained(tmp_path)
    assert again.config == model.config
    clip = clips()
    assert again.encode(clip) == model.encode(clip)


def test_the_preset_is_of_causal_clips():
    preset = load_preset("moving-mnist")
    config = SPAEConfig.from_dict(preset.model)
    assert config.causal
    assert config.image_size == (17, 32, 32)
    assert config.pyramid.tokens_per_layer == (1, 5, 20, 80, 80)


def test_errors_name_what_came_and_what_was_expected(model):
    with pytest.raises(
        ValueError, match=r"image_size: expected sizes divisible by \(4, 4\), the first 1 more "
    ):
        model.resized((8, 16, 16), GRIDS)
    with pytest.raises(ValueError, match=r"grids: expected 4 as here, got \(1, 1\)"):
        model.resized((1, 16, 16), (1, 1))
    with pytest.raises(ValueError, match="frames: expected a multiple of 2, got 3"):
        model.set_chunks(3)
    with pytest.raises(ValueError, match="frames: expected a whole number from 1, got 0"):
        model.set_chunks(0)
    flat = SPAE(SPAEConfig(image_size=(16, 16), grids=(1,), **SMALL), model.codebook)
    with pytest.raises(ValueError, match="frames: expected None of what is not causal, got 4"):
        flat.set_chunks(4)
    with pytest.raises(
        ValueError, match=r"images: expected shape \[B, 3, 9, 16, 16\], got \[2, 3, 7, 16, 16\]"
    ):
        model.encode(clips(2, 7))
