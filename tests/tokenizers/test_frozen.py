"""A tokenizer that is part of another model, which puts it into training mode."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

from spae import SPAE, Codebook, SPAEConfig
from spae.models.lite0 import Lite0
from spae.tokenizers import LQAE, VQGAN, LQAEConfig, VQGANConfig

SMALL = {"image_size": (16, 16), "channels": 8, "multipliers": (1, 2, 2), "num_res_blocks": 1}


def images(batch=6, seed=1, size=16):
    coarse = torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def codebook(normalise="none", width=16):
    vectors = torch.randn(60, width, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.1
    words = ["[MASK]", *(f" word{i}" for i in range(1, 60))]
    return Codebook.from_arrays(words, vectors, name="toy").normalised(normalise)


def spae(**changes):
    return SPAE(SPAEConfig(**SMALL, grids=(1, 2, 4, 4), **changes), codebook())


def lqae():
    transformers = pytest.importorskip("transformers", reason="BERT comes with transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=60, **sizes), add_pooling_layer=False)
    return LQAE(LQAEConfig(**SMALL, grids=(4,), mask_rate=0.5), codebook("unit"), bert)


def vqgan(**changes):
    return VQGAN(VQGANConfig(**SMALL, codebook_size=40, codebook_dim=12, **changes))


ALL = {
    "spae": spae,
    "spae-semantic": lambda: spae(semantic_features="lite0", semantic_layers=2, semantic_dropout=0.5),
    "rq": lambda: spae(rule="rq"),
    "vqgan": lambda: vqgan(grids=(4,)),
    "rq-vae": lambda: vqgan(grids=(4, 4), rule="rq"),
    "lqae": lqae,
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Lite0().eval().requires_grad_(False)


@pytest.fixture(params=list(ALL))
def tokenizer(request, monkeypatch, network):
    monkeypatch.setattr(Lite0, "load", lambda: network)
    torch.manual_seed(0)
    model = ALL[request.param]()
    model.train()
    for step in range(3):  # away from the statistics of an untrained norm
        model(images(seed=step))
    return model.eval()


class Parent(nn.Module):
    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer
        self.head = nn.Linear(3, 3)


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_parent_in_training_changes_no_token_and_no_statistic(tokenizer):
    x = images(seed=9)
    latents, tokens = tokenizer.latents(x), tokenizer.encode(x)
    pixels, state = tokenizer.decode(tokens), snapshot(tokenizer)
    parent = Parent(tokenizer).train()
    assert all(module.training for module in parent.modules())
    for batch in (x, x[:1], images(seed=10)):
        parent.tokenizer.encode(batch)
        parent.tokenizer.latents(batch)
    assert torch.equal(tokenizer.latents(x), latents)
    assert torch.equal(tokenizer.latents(x[:2])[0], tokenizer.latents(x[:2].flip(0))[1])
    assert torch.equal(tokenizer.encode(x).ids, tokens.ids)
    assert torch.equal(tokenizer.decode(tokens), pixels)
    assert all(module.training for module in parent.modules()), "no mode was switched"
    after = tokenizer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in state.items())


def test_only_forward_trains_the_statistics(tokenizer):
    state, x = snapshot(tokenizer), images(seed=11)
    tokenizer(x)
    assert all(torch.equal(tokenizer.state_dict()[name], value) for name, value in state.items())
    tokenizer.train()(x)
    changed = {name for name, value in state.items() if not torch.equal(tokenizer.state_dict()[name], value)}
    learns = isinstance(tokenizer, VQGAN) or tokenizer.config.latent_norm == "matched"
    assert bool(changed) == learns, changed


def test_encoding_beside_a_training_thread():
    model = spae().eval()
    x = images(seed=12)
    expected = model.encode(x).ids
    parent = Parent(model)
    stop = threading.Event()

    def switch():
        while not stop.is_set():
            parent.train()
            parent.eval()

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        assert all(torch.equal(model.encode(x).ids, expected) for _ in range(30))
    finally:
        stop.set()
        thread.join()


def test_compiled_encode_in_a_training_parent():
    torch._dynamo.reset()
    model = spae().eval()
    x = images(seed=13)
    expected = model.encode(x).ids
    Parent(model).train()
    compiled = torch.compile(model.encode, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x).ids, expected)


def test_every_micro_batch_has_its_own_statistics():
    """What `MatchedNorm` says of them: one call's images, and one move of the running ones a call."""
    model, x = spae().train(), images(8, seed=14)
    twin = copy.deepcopy(model)
    halves = torch.cat([twin(half).features for half in x.split(4)])
    whole = model(x).features
    first = copy.deepcopy(model)(x[:4]).features
    assert torch.equal(halves[:4], first)
    assert not torch.allclose(halves, whole, atol=1e-2)
    assert int(twin.latent_norm.norm.num_batches_tracked) == 2
    assert int(model.latent_norm.norm.num_batches_tracked) == 1
