from __future__ import annotations

import copy
import json
from dataclasses import asdict

import pytest
import torch

from spae.models import BackboneConfig, Decoder, Encoder
from spae.models.blocks import group_norm


def small(**changes) -> BackboneConfig:
    return BackboneConfig(
        **{"latent_dim": 10, "channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, **changes}
    )


def round_trip(config: BackboneConfig, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    latents = Encoder(config)(images)
    return latents, Decoder(config)(latents)


@pytest.mark.parametrize(("levels", "factor"), [(3, 4), (4, 8), (5, 16)])
@pytest.mark.parametrize("shape", [(32, 32), (16, 48)])
def test_image_shapes(levels, factor, shape):
    config = small(multipliers=(1,) * (levels - 1) + (2,))
    latents, images = round_trip(config, torch.randn(3, 3, *shape))
    assert config.factor == (factor, factor)
    assert latents.shape == (3, 10, shape[0] // factor, shape[1] // factor)
    assert config.grid(shape) == latents.shape[2:]
    assert images.shape == (3, 3, *shape)


@pytest.mark.parametrize(
    ("strides", "factor"),
    [
        (2, (4, 4, 4)),
        (((1, 2, 2), 2), (2, 4, 4)),
        ([[1, 2, 2], [1, 4, 4]], (1, 8, 8)),
        ((3, (1, 2, 4)), (3, 6, 12)),
    ],
)
def test_video_shapes_with_its_own_stride_per_axis(strides, factor):
    config = small(ndim=3, multipliers=(1, 1, 2), strides=strides)
    grid = (2, 1, 3)
    video = torch.randn(1, 3, *(g * f for g, f in zip(grid, factor, strict=True)))
    latents, out = round_trip(config, video)
    assert config.factor == factor
    assert latents.shape == (1, 10, *grid)
    assert out.shape == video.shape


def test_signals_and_a_single_level_need_no_special_case():
    latents, out = round_trip(small(ndim=1, in_channels=1), torch.randn(2, 1, 12))
    assert latents.shape == (2, 10, 6)
    assert out.shape == (2, 1, 12)
    latents, out = round_trip(small(multipliers=(1,)), torch.randn(1, 3, 5, 7))
    assert latents.shape == (1, 10, 5, 7)
    assert out.shape == (1, 3, 5, 7)


def test_decoder_mirrors_encoder():
    config = small(multipliers=(1, 2, 4), num_res_blocks=2)
    for network in (Encoder(config), Decoder(config)):
        assert len(network.levels) == 5
        assert len(network.bottleneck) == 2
    assert Encoder(config).head[-1].weight.shape == (10, 32, 1, 1)
    assert Decoder(config).stem.weight.shape == (32, 10, 1, 1)


def test_every_parameter_receives_a_finite_gradient():
    config = small(multipliers=(1, 2, 2))
    autoencoder = torch.nn.Sequential(Encoder(config), Decoder(config))
    autoencoder(torch.randn(3, 3, 8, 8)).square().mean().backward()
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_activations_keep_their_scale_at_initialisation():
    torch.manual_seed(0)
    config = small(channels=32, multipliers=(1, 1, 2, 2), num_res_blocks=2, latent_dim=64)
    latents, images = round_trip(config, torch.randn(8, 3, 32, 32))
    assert 0.3 < latents.std() < 3
    assert 0.3 < images.std() < 3


@pytest.mark.parametrize("ndim", [2, 3])
def test_autocast_to_bfloat16(ndim):
    config = small(ndim=ndim)
    images = torch.randn(2, 3, *(8,) * ndim)
    autoencoder = torch.nn.Sequential(Encoder(config), Decoder(config))
    with torch.autocast("cpu", torch.bfloat16):
        out = autoencoder(images)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), autoencoder(images), atol=0.1, rtol=0.1)


def test_compiles_without_a_graph_break():
    config = small()
    autoencoder = torch.nn.Sequential(Encoder(config), Decoder(config))
    compiled = torch.compile(autoencoder, fullgraph=True, backend="aot_eager")
    for size in (8, 12):
        images = torch.randn(3, 3, size, size)
        torch.testing.assert_close(compiled(images), autoencoder(images))


def test_deepcopy_and_state_dict():
    encoder = Encoder(small())
    images = torch.randn(1, 3, 8, 8)
    expected = encoder(images)
    torch.testing.assert_close(copy.deepcopy(encoder)(images), expected, rtol=0, atol=0)
    other = Encoder(small())
    other.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(other(images), expected, rtol=0, atol=0)


def test_config_survives_json():
    config = small(ndim=3, multipliers=(1, 2, 2), strides=((1, 2, 2), 2))
    again = BackboneConfig(**json.loads(json.dumps(asdict(config))))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize(
    ("channels", "groups"), [(128, 32), (64, 16), (32, 8), (20, 5), (18, 3), (8, 2), (3, 1), (1, 1)]
)
def test_group_norm_adapts_to_narrow_layers(channels, groups):
    assert group_norm(channels, 32).num_groups == groups


def test_errors_name_what_came_and_what_was_expected():
    encoder, decoder = Encoder(small()), Decoder(small())
    with pytest.raises(ValueError, match=r"images: expected \[B, 3, 2 axes\], got \(2, 1, 8, 8\)"):
        encoder(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"divisible by \(2, 2\), got \(8, 7\)"):
        encoder(torch.zeros(2, 3, 8, 7))
    with pytest.raises(ValueError, match=r"latents: expected \[B, 10, 2 axes\], got \(2, 10, 4\)"):
        decoder(torch.zeros(2, 10, 4))
    with pytest.raises(ValueError, match="strides: expected 1 entries"):
        small(strides=(2, 2))
    with pytest.raises(ValueError, match="strides: expected 1 entries"):
        small(strides=((2, 2, 2),))
    with pytest.raises(ValueError, match="ndim: expected a whole number from 1 to 3"):
        small(ndim=4)
    with pytest.raises(ValueError, match="multipliers: expected at least one, got"):
        small(multipliers=())
