"""A tokenizer as diffusers calls its autoencoders; with diffusers itself where it is installed."""

import pytest
import torch

from spae import SPAE, VQGAN, Codebook, SPAEConfig, V2LConfig, V2LTokenizer, VQGANConfig
from spae.tokenizers.adapters import Autoencoder

SMALL = {"image_size": (16, 16), "channels": 8, "multipliers": (1, 2, 2), "num_res_blocks": 1}


def words():
    vectors = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * 0.3
    return Codebook.from_arrays([f" w{i}" for i in range(50)], vectors, name="toy")


@pytest.fixture(params=["SPAE", "VQGAN"])
def tokenizer(request):
    torch.manual_seed(0)
    if request.param == "VQGAN":
        return VQGAN(VQGANConfig(**SMALL, grids=(4,), codebook_size=40, codebook_dim=12))
    return SPAE(SPAEConfig(**SMALL, grids=(1, 2, 4)), words())


@pytest.fixture
def images():
    return torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_it_is_the_tokenizer(tokenizer, images):
    vae = Autoencoder(tokenizer.train())
    z = vae.encode(images).latents
    assert torch.equal(z, tokenizer.latents(images))
    assert torch.equal(vae.encode(images).latent_dist.sample(torch.Generator()), z)
    assert torch.equal(vae.encode(images).latent_dist.mode(), z)
    assert torch.equal(vae.encode(images, return_dict=False)[0], z)
    sample = vae.decode(z).sample
    assert torch.equal(sample.clamp(-1, 1), tokenizer.decode(tokenizer.encode(images)))
    assert torch.equal(vae.decode(z, return_dict=False)[0], sample)
    assert torch.equal(vae(images).sample, sample)
    assert torch.equal(vae.ids(z), tokenizer.tokenize(images))
    assert (vae.device, vae.dtype) == (tokenizer.device, torch.float32)
    assert vae.half().dtype == torch.float16
    assert vae.decode(vae.encode(images.half()).latents).sample.shape == images.shape


def test_it_decodes_from_the_first_layers(images):
    torch.manual_seed(0)
    tokenizer = SPAE(SPAEConfig(**SMALL, grids=(1, 2, 4)), words()).eval()
    z = tokenizer.latents(images)
    few = Autoencoder(tokenizer, num_layers=2)
    assert torch.equal(few.ids(z), tokenizer.tokenize(images, 2))
    assert torch.equal(few.decode(z).sample, tokenizer.pixels(tokenizer.tokenize(images, 2)))
    with pytest.raises(ValueError, match=r"num_layers: expected 1\.\.3, got 4"):
        Autoencoder(tokenizer, num_layers=4)
    with pytest.raises(TypeError, match=r"tokenizer: expected a spae\.Tokenizer, got str"):
        Autoencoder("mnist")
    config = V2LConfig((32, 32), (8,), channels=8, multipliers=(1, 2, 2), num_res_blocks=1, local_dim=4)
    other = V2LTokenizer(config, words(), {"local": range(50)})
    with pytest.raises(TypeError, match="tokenizer: expected one of the codebook's own latents, got V2L"):
        Autoencoder(other)


def test_scaled_latents_of_matched_statistics_have_unit_variance(images):
    torch.manual_seed(0)
    tokenizer = SPAE(SPAEConfig(**SMALL, grids=(1, 2, 4)), words()).train()
    for _ in range(60):
        tokenizer(images)  # running statistics are those of these images
    vae = Autoencoder(tokenizer.eval())
    z = vae.encode(images).latents * vae.config.scaling_factor
    assert z.var((0, 2, 3)).mean().item() == pytest.approx(1, rel=0.05)
    assert vae.config["latent_channels"] == vae.config.latent_channels == z.shape[1] == 12
    assert vae.config.block_out_channels == (8, 16, 16)
    assert vae.config.sample_size == 16
    assert not hasattr(vae.config, "nothing")


def test_gradients_reach_the_images(tokenizer, images):
    images.requires_grad_()
    Autoencoder(tokenizer).encode(images).latents.square().mean().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0


def test_a_pipeline_of_diffusers(tokenizer):
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
    torch.manual_seed(0)
    vae = Autoencoder(tokenizer.eval())
    unet = diffusers.UNet2DModel(
        sample_size=4,
        in_channels=12,
        out_channels=12,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
    )
    pipeline = diffusers.LDMPipeline(vae, unet, diffusers.DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(batch_size=2, num_inference_steps=2, output_type="np").images
    assert made.shape == (2, 16, 16, 3)
    processor = diffusers.image_processor.VaeImageProcessor(vae_scale_factor=4)
    pixels = processor.preprocess(processor.numpy_to_pil(made))
    again = processor.postprocess(vae.decode(vae.encode(pixels).latents).sample.detach(), "pil")
    assert [image.size for image in again] == [(16, 16)] * 2
