"""Small tokenizers of every kind, whose statistics have seen some images."""

from types import SimpleNamespace

import pytest
import torch

from spae import LQAE, RQ, SPAE, VQGAN, Codebook, LQAEConfig, RQConfig, SPAEConfig, VQGANConfig

SMALL = {"image_size": (16, 16), "channels": 8, "multipliers": (1, 2, 2), "num_res_blocks": 1}
CODES = {"codebook_size": 40, "codebook_dim": 12}


def codebook(normalise="none"):
    vectors = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * 0.3
    vectors[30:40] = vectors[:10]  # words that no lookup may find
    return Codebook.from_arrays([f" w{i}" for i in range(50)], vectors, name="toy").normalised(normalise)


def with_vocabularies():
    names = ("few", "all", "most")
    rows = {"few": [3, 30, 7], "most": range(20, 50)}
    return SPAE(SPAEConfig(**SMALL, grids=(1, 2, 4), vocabularies=names), codebook(), rows)


MAKE = {
    "saq": lambda: SPAE(SPAEConfig(**SMALL, grids=(1, 2, 4, 4)), codebook()),
    "residual": lambda: SPAE(SPAEConfig(**SMALL, grids=(1, 2, 4), rule="rq", latent_norm="none"), codebook()),
    "coarse": lambda: SPAE(SPAEConfig(**SMALL, grids=(1, 2)), codebook()),
    "vocabularies": with_vocabularies,
    "projector": lambda: SPAE(SPAEConfig(**SMALL, grids=(1, 2, 4, 4), word_dim=3), codebook()),
    "RQ": lambda: RQ(RQConfig(**SMALL, **CODES, grids=(4, 4, 4))),
    "VQGAN": lambda: VQGAN(VQGANConfig(**SMALL, **CODES, grids=(4,))),
    "LQAE": lambda: LQAE(LQAEConfig(**SMALL, grids=(4,)), codebook("unit")),
    "video": lambda: SPAE(
        SPAEConfig((4, 16, 16), ((1, 1, 1), (1, 2, 2), (1, 4, 4)), channels=8, multipliers=(1, 2, 2)),
        codebook(),
    ),
}


def images_for(model, count=3, seed=1):
    size = model.config.image_size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, *(max(1, n // 4) for n in size), generator=generator) * 2 - 1
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return torch.nn.functional.interpolate(coarse, size, mode=mode)


def made(kind):
    torch.manual_seed(0)
    model = MAKE[kind]()
    for seed in range(3):
        model(images_for(model, 8, seed))
    return model.train()  # whatever mode a parent has put it into


@pytest.fixture(scope="session")
def toy():
    """made(kind), one of kinds: a tokenizer; images(model, count=3, seed=1): pictures for it."""
    return SimpleNamespace(kinds=list(MAKE), made=made, images=images_for)


@pytest.fixture(scope="module")
def model(request):
    """Of the kind that a test names, by `pytest.mark.parametrize(.., indirect=True)`."""
    return made(request.param)
