"""Models whose weights are in half, bfloat16 or double precision."""

from __future__ import annotations

import copy

import pytest
import torch

from spae import RQ, SPAE, VQGAN, Codebook, RQConfig, SPAEConfig, VQGANConfig
from spae.models.lite0 import Lite0
from spae_ops import pyramid_quantize

SMALL = {"image_size": (16, 16), "channels": 8, "multipliers": (1, 2, 2), "num_res_blocks": 1}
CODES = {"codebook_size": 40, "codebook_dim": 12}
DTYPES = [torch.float16, torch.bfloat16, torch.float64]


def images(batch=4, seed=1):
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def spae(**changes):
    vectors = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * 0.3
    book = Codebook.from_arrays([f" w{i}" for i in range(50)], vectors, name="toy")
    return SPAE(SPAEConfig(**SMALL, grids=(1, 2, 4), **changes), book)


ALL = {
    "spae": spae,
    "spae-semantic": lambda: spae(semantic_features="lite0", semantic_layers=2),
    "vqgan": lambda: VQGAN(VQGANConfig(**SMALL, **CODES, grids=(4,))),
    "rq-gradient": lambda: RQ(RQConfig(**SMALL, **CODES, grids=(4, 4), update="gradient")),
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Lite0().eval().requires_grad_(False)


@pytest.fixture(params=list(ALL))
def model(request, monkeypatch, network):
    monkeypatch.setattr(Lite0, "load", lambda: network)
    torch.manual_seed(0)
    model = ALL[request.param]()
    model.train()(images(8, seed=3))
    return model.eval()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_face_works(model, dtype):
    single = copy.deepcopy(model)
    model.to(dtype)
    assert model.dtype == dtype
    for x in (images(), images().to(dtype)):
        z = model.latents(x)
        assert z.dtype == torch.float32
        tokens = model.encode(x)
        expected = pyramid_quantize(z, model.codebook.vectors, model.pyramid, rule=model.config.rule)
        assert torch.equal(tokens.ids, expected.ids), "the ids of the latents that these weights give"
        decoded = model.decode(tokens)
        assert decoded.dtype == torch.float32
        torch.testing.assert_close(decoded, single.decode(tokens), atol=0.05, rtol=0.05)
    torch.testing.assert_close(model.latents(images()), single.latents(images()), atol=0.05, rtol=0.05)
    output = model.train()(images())
    assert output.features.dtype == output.quantized.dtype == torch.float32
    sum(output.losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("convert", [torch.nn.Module.half, torch.nn.Module.bfloat16, torch.nn.Module.double])
def test_statistics_and_tables_stay_as_they_are(model, convert):
    before = {name: value.clone() for name, value in model.named_buffers()}
    table = model.codebook.vectors.detach().clone()
    convert(model)
    kept = {
        name
        for name, value in model.named_buffers()
        if torch.equal(value.to(before[name].dtype), before[name])
    }
    assert {name for name in before if "norm" in name or "codebook" in name} <= kept
    assert all(value.dtype == before[name].dtype for name, value in model.named_buffers() if "norm" in name)
    assert model.codebook.vectors.dtype == torch.float32
    assert torch.equal(model.codebook.vectors, table)
