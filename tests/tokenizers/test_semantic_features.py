"""The option that joins pretrained features to the latents, on a network of random weights."""

import copy
import pickle

import numpy as np
import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.models.lite0 import Lite0

CONFIG = SPAEConfig(
    image_size=(32, 32),
    grids=(1, 2, 4, 4),
    channels=8,
    multipliers=(1, 1, 1, 1),
    num_res_blocks=1,
    semantic_features="lite0",
    semantic_layers=2,
)


@pytest.fixture(autouse=True)
def _random_weights(monkeypatch, random_lite0):
    monkeypatch.setattr(Lite0, "load", lambda: copy.deepcopy(random_lite0))


def codebook():
    vectors = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.1
    return Codebook.from_arrays([f" word{i}" for i in range(60)], vectors, name="toy")


def model(config=CONFIG):
    torch.manual_seed(1)
    return SPAE(config, codebook())


def images(batch=3, seed=1):
    coarse = torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")


def test_off_unless_asked_for():
    assert SPAEConfig().semantic_features == "none"
    spae = model(SPAEConfig(**{**CONFIG.to_dict(), "semantic_features": "none"}))
    assert not any("semantic" in name for name in spae.state_dict())
    assert SPAEConfig.from_dict(CONFIG.to_dict()) == CONFIG


def test_joins_at_the_first_layers_positions_only():
    semantic, x = model().eval().semantic, images()
    latents = torch.randn(3, 12, 4, 4, generator=torch.Generator().manual_seed(2))
    joined = semantic(latents, x)
    guided = torch.zeros(4, 4, dtype=torch.bool)
    for layer in range(2):
        for row, column in CONFIG.pyramid.positions(layer).tolist():
            guided[row, column] = True
    changed = (joined - latents).abs().amax((0, 1)) > 0
    assert torch.equal(changed, guided)
    # The pooled vector reaches all of them, and depends on the image.
    assert not torch.allclose(joined[0], semantic(latents, images(seed=3))[0])


def test_the_network_is_frozen_and_nowhere_registered(random_lite0):
    spae = model().train()
    frozen = spae.semantic._frozen.network
    assert not frozen.training
    own = {id(p) for p in frozen.parameters()}
    assert not own & {id(p) for p in spae.parameters()}
    assert (
        sum(v.nbytes for v in spae.state_dict().values()) < sum(p.nbytes for p in spae.parameters()) + 30_000
    )
    sum(spae(images()).losses.values()).backward()
    assert all(p.grad is not None for p in spae.parameters())
    assert all(p.grad is None for p in frozen.parameters())
    for name, value in random_lite0.state_dict().items():
        assert torch.equal(value, frozen.state_dict()[name]), name
    spae.half()
    assert next(frozen.parameters()).dtype == torch.float32


def test_shared_by_copies_and_kept_by_pickle():
    spae, x = model().eval(), images()
    twin = copy.deepcopy(spae)
    assert twin.semantic._frozen.network is spae.semantic._frozen.network
    with torch.no_grad():
        twin.semantic.gain.add_(1)
    assert not torch.equal(twin.semantic.gain, spae.semantic.gain)
    assert torch.equal(pickle.loads(pickle.dumps(spae)).encode(x).ids, spae.encode(x).ids)


def test_checkpoints_name_the_network(tmp_path, monkeypatch):
    spae, x = model().train(), images()
    spae(x)
    spae.eval().save_pretrained(tmp_path)
    loaded = SPAE.from_pretrained(tmp_path, codebook=codebook())
    assert torch.equal(loaded.encode(x).ids, spae.encode(x).ids)
    assert (tmp_path / "model.safetensors").stat().st_size < 300_000
    monkeypatch.setattr(type(spae.semantic), "identity", lambda self: {"name": "other", "checksum": "0"})
    with pytest.raises((ValueError, RuntimeError), match="semantic_features: expected the checkpoint's"):
        SPAE.from_pretrained(tmp_path, codebook=codebook())


def test_fit_is_ridge_regression_on_the_pooled_features():
    spae = model().eval()
    semantic = spae.semantic
    x = images(16)
    targets = torch.randn(16, 12, generator=torch.Generator().manual_seed(4))
    semantic.fit(zip(x.split(7), targets.split(7), strict=True), ridge=0.3)
    features = semantic._features(x)
    pooled = features[-1][:, :, 0, 0].double().numpy()
    deviation = np.sqrt(pooled.var(0) + 1e-5)
    standard = (pooled - pooled.mean(0)) / deviation
    centred = targets.double().numpy() - targets.double().numpy().mean(0)
    penalty = 0.3 * len(x) * np.eye(1280)
    weights = np.linalg.solve(standard.T @ standard + penalty, standard.T @ centred)
    expected = standard @ weights
    expected /= expected.std(0)
    joined = semantic(torch.zeros(16, 12, 4, 4), x)
    row, column = CONFIG.pyramid.positions(0)[0].tolist()
    assert np.allclose(joined[:, :, row, column].detach().numpy(), expected, atol=1e-3)
    maps = features[0].double().transpose(0, 1).flatten(1)
    assert torch.allclose(semantic.project[0][0].running_mean.double(), maps.mean(1), atol=1e-5)


def changed(**changes):
    return SPAEConfig(**{**CONFIG.to_dict(), **changes})


def at_first_position(semantic, x):
    row, column = CONFIG.pyramid.positions(0)[0].tolist()
    return semantic(torch.zeros(len(x), 12, 4, 4), x)[:, :, row, column].detach().double()


@pytest.mark.parametrize("rank", [1, 3, 12, 500])
def test_a_low_rank_fits_as_well_as_its_rank_can(rank):
    """The outputs' distance from the full ones is that of the nearest matrix of the rank, applied to them."""
    x = images(16)
    targets = torch.randn(16, 12, generator=torch.Generator().manual_seed(4))
    full, low = model().eval().semantic, model(changed(semantic_rank=rank)).eval().semantic
    for semantic in (full, low):
        semantic.fit([(x, targets)], ridge=0.3)
    assert low.project[2][2].weight.shape == (min(rank, 12), 1280, 1, 1)
    u, s, v = torch.linalg.svd(full.project[2][2].weight[:, :, 0, 0].double(), full_matrices=False)
    s[rank:] = 0
    nearest = (u * s) @ v
    product = low.project[2][3].weight[:, :, 0, 0] @ low.project[2][2].weight[:, :, 0, 0]
    assert torch.allclose(product.double(), nearest, atol=1e-5)
    far = (at_first_position(low, x) - at_first_position(full, x)).abs().max()
    assert far < 1e-4 if rank >= 12 else far > 1e-2
    assert set(dict(low.named_parameters())) - set(dict(full.named_parameters())) == {
        f"project.{i}.3.{name}" for i in range(3) for name in ("weight", "bias")
    }
    loaded = model(changed(semantic_rank=rank)).eval().semantic
    loaded.load_state_dict(low.state_dict())
    assert torch.equal(at_first_position(loaded, x), at_first_position(low, x))


@pytest.mark.parametrize("rank", [None, 4])
def test_a_frozen_projection_stays_what_the_start_made_it(rank):
    spae, x = model(changed(semantic_projection="frozen", semantic_rank=rank)).train(), images(4)
    spae.semantic.fit([(x, torch.randn(4, 12))])
    before = {name: value.clone() for name, value in spae.semantic.project.named_parameters()}
    optimizer = torch.optim.Adam([p for p in spae.parameters() if p.requires_grad], lr=0.1)
    gain = spae.semantic.gain.clone()
    sum(spae(x).losses.values()).backward()
    optimizer.step()
    assert len(before) == (6 if rank is None else 9)
    for name, value in spae.semantic.project.named_parameters():
        assert torch.equal(value, before[name]), name
    assert not torch.equal(spae.semantic.gain, gain)


@torch.no_grad()
def test_compile_fullgraph():
    torch._dynamo.reset()
    spae, x = model().eval(), images(2)
    compiled = torch.compile(spae, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x).tokens.ids, spae(x).tokens.ids)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("semantic_features: expected 'none' or 'lite0', got 'clip'", {"semantic_features": "clip"}),
        ("semantic_features: expected 'none' but for .* got 'lite0' for 1 channels", {"in_channels": 1}),
        ("semantic_layers: expected 1 to 4, got 5", {"semantic_layers": 5}),
        (
            "semantic_projection: expected one of 'learned', 'frozen', 'words', got 'fixed'",
            {"semantic_projection": "fixed"},
        ),
        ("semantic_rank: expected a whole number from 1 or null, got 0", {"semantic_rank": 0}),
    ],
)
def test_errors_name_the_field(message, changes):
    with pytest.raises(ValueError, match=message):
        SPAEConfig(**{**CONFIG.to_dict(), **changes})
