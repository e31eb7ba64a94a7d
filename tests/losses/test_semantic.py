import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spae import SPAE, Codebook, PyramidTokens, SPAEConfig
from spae.losses import SemanticLoss, relative_scores, semantic_loss, semantic_pools
from spae.testing import oracles
from spae.tokenizers import SPAEOutput
from spae_ops import Pyramid, layer_queries, pyramid_quantize

PYRAMID = Pyramid.square(4, (1, 2, 4, 4))
RHO = (0.98, 0.9, 0.5)


def table(size=40, width=6, seed=0):
    return torch.randn(size, width, generator=torch.Generator().manual_seed(seed))


def problem(batch=3, rule="saq", dtype=torch.float32):
    """Latents, their ids and targets of three layers; the last overlaps the two before it."""
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(batch, 6, 4, 4, generator=generator, dtype=dtype)
    ids = pyramid_quantize(z, table(), PYRAMID, rule=rule).ids
    counts = PYRAMID.tokens_per_layer[:3]
    targets = [torch.randint(40, (batch, count), generator=generator) for count in counts]
    return z.requires_grad_(), ids, targets


@given(
    st.integers(1, 6),
    st.integers(1, 30),
    st.lists(st.sampled_from([0.0, 0.5, 0.9, 0.98, 1.0]), min_size=1, max_size=4),
    st.integers(0, 9),
)
def test_pools_are_the_oracle_s(batch, words, thresholds, seed):
    # Whole numbers, so that ties and words exactly on a threshold occur and both sides are exact.
    scores = torch.from_numpy(np.random.RandomState(seed).randint(-10, 11, (batch, words))).double()
    pools = semantic_pools(scores, thresholds)
    assert pools.ranked.dtype == pools.sizes.dtype == torch.int64
    for image, expected in enumerate(oracles.semantic_pools(scores, thresholds)):
        for layer, pool in enumerate(expected):
            size = int(pools.sizes[image, layer])
            got = pools.ranked[image, :size].tolist()
            assert size == len(pool) >= 1
            assert set(got) == pool
            assert int(scores[image].argmax()) in pool
            assert scores[image, got].diff().le(0).all(), "best first"
            ends = pools.sample(torch.tensor([[0.0, 1 - 2**-53]]).double().expand(batch, 2), layer)
            assert ends[image].tolist() == [got[0], got[-1]]


def test_relative_scores_span_0_to_1_for_each_image():
    scores = torch.tensor([[0.1, 0.3, 0.2], [-5.0, 5.0, 0.0]])
    expected = torch.tensor([[0, 1, 0.5], [0, 1, 0.5]])
    assert torch.allclose(relative_scores(scores), expected, atol=1e-6)
    assert torch.equal(relative_scores(torch.full((1, 4), 7.0)), torch.ones(1, 4))


def test_targets_are_uniform_over_the_pool():
    scores = torch.linspace(0, 1, 21, dtype=torch.float64).expand(2, -1)
    pools = semantic_pools(scores, (0.7, 0.5))
    assert pools.sizes.tolist() == [[7, 11], [7, 11]]
    uniform = torch.rand(2, 77_000, generator=torch.Generator().manual_seed(0))
    for layer, (first, size) in enumerate([(14, 7), (10, 11)]):
        counts = torch.bincount(pools.sample(uniform, layer).flatten(), minlength=21)
        assert counts[:first].sum() == 0
        expected = 2 * 77_000 / size
        chi_squared = ((counts[first:] - expected) ** 2 / expected).sum()
        assert chi_squared < 35, "p < 0.0002 for 6 or 10 degrees of freedom"


@pytest.mark.parametrize("rule", ["saq", "rq"])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_loss_is_the_oracle_s(rule, temperature):
    z, ids, targets = problem(rule=rule)
    loss = semantic_loss(z, ids, table(), PYRAMID, targets, rule=rule, temperature=temperature)
    expected = oracles.semantic_loss(
        z, ids, table(), PYRAMID.shape, PYRAMID.grids, targets, rule, temperature
    )
    assert loss.dtype == torch.float32
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_half_precision_latents_are_looked_at_in_float32():
    z, ids, targets = problem()
    half = semantic_loss(z.bfloat16(), ids, table(), PYRAMID, targets)
    assert half.dtype == torch.float32
    assert torch.equal(half, semantic_loss(z.bfloat16().float(), ids, table(), PYRAMID, targets))


@pytest.mark.parametrize("rule", ["saq", "rq"])
def test_gradient_in_the_latents(rule):
    z, ids, targets = problem(batch=1, rule=rule, dtype=torch.float64)

    def loss(latents):
        return semantic_loss(latents, ids, table(), PYRAMID, targets, rule=rule)

    assert torch.autograd.gradcheck(loss, z)


def test_gradient_has_the_factor_of_eq_2_and_stays_where_the_layers_are():
    z, ids, targets = problem(batch=1)
    semantic_loss(z, ids, table(), PYRAMID, targets[:1]).backward()
    (position,) = PYRAMID.positions(0).tolist()
    touched = z.grad.abs().sum(1)[0].nonzero().tolist()
    assert touched == [position]
    # The third layer passes a position of the second again: its query is 2 z - e(k).
    z, ids, targets = problem(batch=1)
    query = layer_queries(z, ids, table(), PYRAMID, 2).detach().requires_grad_()
    losses = -torch.cdist(query[0], table()).square()
    torch.nn.functional.cross_entropy(losses, targets[2][0]).backward()
    both = [torch.zeros(1, n, dtype=torch.int64) for n in PYRAMID.tokens_per_layer[:2]]
    loss = semantic_loss(z, ids, table(), PYRAMID, [*both, targets[2]])
    first = semantic_loss(z, ids, table(), PYRAMID, both)
    (gradient,) = torch.autograd.grad(3 * loss - 2 * first, z)
    depth = torch.ones(4, 4)
    for layer in range(2):
        for row, column in PYRAMID.positions(layer).tolist():
            depth[row, column] = 2
    expected = query.grad[0].T.reshape(6, 4, 4) * depth
    assert torch.allclose(gradient[0], expected, atol=1e-6)


def model_and_loss(seed=0, **options):
    torch.manual_seed(3)
    book = Codebook.from_arrays([f" word{i}" for i in range(40)], table())
    config = SPAEConfig((16, 16), (1, 2, 4, 4), channels=4, multipliers=(1, 1, 1), num_res_blocks=1)
    features = torch.nn.functional.normalize(table(width=5, seed=1), dim=1)
    return SPAE(config, book), SemanticLoss(book, features, RHO, seed=seed, **options)


def inputs(batch=4):
    generator = torch.Generator().manual_seed(7)
    images = torch.rand(batch, 3, 16, 16, generator=generator) * 2 - 1
    return images, torch.nn.functional.normalize(torch.randn(batch, 5, generator=generator), dim=1)


def test_module_reaches_the_encoder_and_nothing_else():
    model, semantic = model_and_loss()
    images, guidance = inputs()
    loss = semantic(model(images), guidance)
    loss.backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {"encoder"}
    assert list(semantic.parameters()) == []
    assert set(semantic.state_dict()) == {"step"}
    assert not semantic.codebook.vectors.requires_grad


def test_draws_resume_bit_for_bit():
    model, semantic = model_and_loss()
    images, guidance = inputs()
    output = model(images)
    straight = [semantic(output, guidance).item() for _ in range(4)]
    assert len(set(straight)) == 4
    _, again = model_and_loss()
    first = [again(output, guidance).item() for _ in range(2)]
    _, resumed = model_and_loss()
    resumed.load_state_dict(again.state_dict())
    torch.rand(3)  # the global generator does not matter
    assert first + [resumed(output, guidance).item() for _ in range(2)] == straight
    other = model_and_loss(seed=1)[1]
    assert [other(output, guidance).item() for _ in range(4)] != straight
    semantic.eval()
    assert semantic(output, guidance).item() == semantic(output, guidance).item()


def test_processes_draw_what_one_would(monkeypatch):
    _, semantic = model_and_loss()
    whole = semantic._uniform(6, 5)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        assert torch.equal(semantic._uniform(3, 5), whole[rank::2])


def test_loss_is_least_for_latents_at_the_pool_s_words():
    pyramid = Pyramid.square(8, (1, 2, 4, 8))  # the guided layers share no position
    semantic = model_and_loss(temperature=0.1)[1]
    _, guidance = inputs(3)
    semantic.thresholds = (1.0, 1.0, 1.0)
    best = (guidance @ semantic.text_features.T).argmax(1)

    def loss(z):
        tokens = PyramidTokens(pyramid_quantize(z, table(), pyramid).ids, pyramid)
        return semantic(SPAEOutput(z, tokens, z, z, {}), guidance).item()

    fitting = table()[best][:, :, None, None].expand(3, 6, 8, 8)
    elsewhere = fitting.clone()
    for row, column in pyramid.positions(3).tolist():
        guided = any([row, column] in pyramid.positions(layer).tolist() for layer in range(3))
        if not guided:
            elsewhere[:, :, row, column] += 5
    assert loss(elsewhere) == loss(fitting) < 1e-3
    assert loss(table()[best - 1][:, :, None, None].expand(3, 6, 8, 8)) > 1


Z, IDS, TARGETS = problem()
MODEL, SEMANTIC = model_and_loss()
IMAGES, GUIDANCE = inputs()


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"scores: expected floating-point \[B, K\] with K >= 1, got torch.int64 \[2, 3\]", lambda: semantic_pools(torch.ones(2, 3, dtype=torch.int64), RHO)),
        (r"scores: expected finite numbers", lambda: semantic_pools(torch.tensor([[0.0, torch.nan]]), RHO)),
        (r"thresholds: expected at least one, all from 0 to 1, got \(1.2,\)", lambda: semantic_pools(torch.rand(2, 3), (1.2,))),
        (r"thresholds: expected at least one", lambda: semantic_pools(torch.rand(2, 3), ())),
        (r"most: expected one for each of 2 layers, got \(3,\)", lambda: semantic_pools(torch.rand(2, 3), (0.9, 0.8), most=(3,))),
        (r"least: expected .* a whole number from 1 .*, got \(0, 1\)", lambda: semantic_pools(torch.rand(2, 3), (0.9, 0.8), least=(0, 1))),
        (r"uniform: expected floating-point \[2, n\] in \[0, 1\), got torch.float32 \[3, 3\]", lambda: semantic_pools(torch.rand(2, 3), RHO).sample(torch.rand(3, 3), 0)),
        (r"targets: expected 1 to 4 layers, got 0", lambda: semantic_loss(Z, IDS, table(), PYRAMID, [])),
        (r"targets\[1\]: expected shape \[3, 4\], got \[3, 16\]", lambda: semantic_loss(Z, IDS, table(), PYRAMID, [TARGETS[0], TARGETS[2]])),
        (r"text_features: expected \[40, E\], one row per word, got \[39, 5\]", lambda: SemanticLoss(MODEL.codebook, torch.rand(39, 5))),
        (r"guidance: expected shape \[4, 5\], got \[4, 6\]", lambda: SEMANTIC(MODEL(IMAGES), torch.rand(4, 6))),
        (r"thresholds: expected at most 4, one for each layer, got 5", lambda: SemanticLoss(MODEL.codebook, torch.rand(40, 5))(MODEL(IMAGES), GUIDANCE)),
    ],
)  # fmt: skip
def test_errors_name_the_argument(message, call):
    with pytest.raises(ValueError, match=message):
        call()
