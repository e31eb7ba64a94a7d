from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

import spae_ops
from spae.testing import oracles, strategies
from spae_ops import (
    CodeIndex,
    Pyramid,
    dilation_subsample,
    layer_queries,
    pyramid_dequantize,
    pyramid_quantize,
)
from spae_ops.lookup import torch as plain
from spae_ops.quantize import reference
from spae_ops.quantize import torch as rounds

IMPLS = [i.name for i in spae_ops.implementations("pyramid_quantize") if i.available]
every_impl = pytest.mark.parametrize("impl", IMPLS)
RULES = st.sampled_from(("saq", "rq"))
PAPER = Pyramid.square(16, (1, 2, 4, 8, 16, 16))


@st.composite
def problems(draw):
    pyramid = draw(strategies.pyramids())
    codes = draw(strategies.codebooks(max_codes=40, widths=(1, 3, 33)))
    return draw(strategies.latents(pyramid, codes)), codes, pyramid


@every_impl
@given(problem=problems(), rule=RULES, masked=st.booleans())
def test_ids_follow_the_paper(impl, problem, rule, masked):
    z, codes, pyramid = problem
    mask = torch.arange(len(codes)) % 2 == 0 if masked else None
    got = pyramid_quantize(z, codes, pyramid, rule=rule, mask=mask, impl=impl)
    expected = oracles.pyramid_quantize(z, codes, pyramid.shape, pyramid.grids, rule, mask)
    assert (got.ids.numpy() == expected).all()


@every_impl
@given(problem=problems(), rule=RULES, data=st.data())
def test_each_layer_takes_its_own_words(impl, problem, rule, data):
    z, codes, pyramid = problem
    rows = st.lists(st.booleans(), min_size=len(codes), max_size=len(codes)).filter(any)
    distinct = data.draw(st.lists(rows, min_size=1, max_size=3))
    mask = torch.tensor([data.draw(st.sampled_from(distinct)) for _ in pyramid.grids])
    got = pyramid_quantize(z, CodeIndex(codes, impl=impl), pyramid, rule=rule, mask=mask, impl=impl)
    expected = oracles.pyramid_quantize(z, codes, pyramid.shape, pyramid.grids, rule, mask)
    assert (got.ids.numpy() == expected).all()
    layers = data.draw(st.integers(1, pyramid.num_layers))
    cut = pyramid_quantize(z, codes, pyramid, rule=rule, num_layers=layers, mask=mask, impl=impl)
    assert torch.equal(cut.ids, got.ids[:, : pyramid.num_tokens_upto(layers)])


def test_layers_with_the_same_words_share_their_lookups(monkeypatch):
    pyramid, codes, z = Pyramid.square(4, (1, 2, 4, 4)), torch.randn(9, 3), torch.randn(2, 3, 4, 4)
    search, rows = plain.search, []
    monkeypatch.setattr(plain, "search", lambda x, *rest: (rows.append(len(x)), search(x, *rest))[1])
    names, others = torch.arange(9) < 4, torch.arange(9) >= 4

    def lookups(*layers):
        rows.clear()
        pyramid_quantize(z, codes, pyramid, mask=torch.stack(layers), impl="torch")
        return list(rows)

    shared = [2 * len(step) for step in pyramid.rounds()]
    assert lookups(*[names] * 4) == shared
    apart = lookups(names, others, others, others)
    assert apart == [2, shared[0] - 2, *shared[1:]]


@given(problem=problems(), rule=RULES)
def test_rounds_equal_layer_by_layer(problem, rule):
    z, codes, pyramid = problem

    def lookup(query, layers):
        return spae_ops.nearest_code(query, codes).ids

    by_layer = reference.quantize(z, codes, pyramid, rule, lookup)
    by_round = rounds.quantize(z, codes, pyramid, rule, lookup)
    assert torch.equal(by_layer[0], by_round[0])
    assert torch.equal(by_layer[1], by_round[1])


@every_impl
@given(problem=problems(), rule=RULES, data=st.data())
def test_features_from_ids_are_the_quantized_latents(impl, problem, rule, data):
    z, codes, pyramid = problem
    layers = data.draw(st.integers(1, pyramid.num_layers))
    index = CodeIndex(codes, impl=impl)
    kept = pyramid_quantize(z, index, pyramid, rule=rule, num_layers=layers, impl=impl)
    whole = pyramid_quantize(z, index, pyramid, rule=rule, impl=impl)
    assert torch.equal(kept.ids, whole.ids[:, : pyramid.num_tokens_upto(layers)])
    back = pyramid_dequantize(kept.ids, codes, pyramid, rule=rule)
    assert torch.equal(back.quantized, kept.quantized)
    assert torch.equal(back.covered, kept.covered)
    cut = pyramid_dequantize(whole.ids, codes, pyramid, rule=rule, num_layers=layers)
    assert torch.equal(cut.quantized, kept.quantized)
    assert torch.equal(cut.ids, kept.ids)


@given(problem=problems(), rule=RULES, fill=st.sampled_from(("nearest", "zero")), data=st.data())
def test_dequantize_follows_the_paper(problem, rule, fill, data):
    _, codes, pyramid = problem
    layers = data.draw(st.integers(1, pyramid.num_layers))
    generator = torch.Generator().manual_seed(layers)
    ids = torch.randint(len(codes), (2, pyramid.num_tokens_upto(layers)), generator=generator)
    got = pyramid_dequantize(ids, codes, pyramid, rule=rule, fill=fill)
    features, covered = oracles.pyramid_dequantize(
        ids, codes, pyramid.shape, pyramid.grids[:layers], rule, fill
    )
    assert (got.quantized.numpy() == features).all()
    assert (got.covered.numpy() == covered).all()


@given(codes=strategies.codebooks(max_codes=60), shape=st.sampled_from([(4,), (2, 3), (2, 2, 2)]))
def test_ids_to_features_to_ids(codes, shape):
    """With one lookup a position, ids survive the way through features: to the lowest id of equal rows."""
    pyramid = Pyramid(shape, (shape,))
    ids = torch.randint(len(codes), (3, pyramid.num_tokens), generator=torch.Generator().manual_seed(0))
    features = pyramid_dequantize(ids, codes, pyramid).quantized
    back = pyramid_quantize(features, codes, pyramid)
    first = (codes[:, None] == codes[None]).all(-1).int().argmax(1)
    assert torch.equal(back.ids, first[ids])
    assert torch.equal(back.quantized, features)


@given(problem=problems(), rule=RULES)
def test_layer_queries_are_what_was_looked_up(problem, rule):
    z, codes, pyramid = problem
    ids = pyramid_quantize(z, codes, pyramid, rule=rule).ids
    for layer in range(pyramid.num_layers):
        query = layer_queries(z, ids, codes, pyramid, layer, rule=rule)
        assert query.dtype == torch.float32
        start, stop = pyramid.num_tokens_upto(layer), pyramid.num_tokens_upto(layer + 1)
        assert torch.equal(spae_ops.nearest_code(query, codes).ids, ids[:, start:stop])
        if layer == 0:
            assert torch.equal(query, dilation_subsample(z, pyramid, 0).float())


def test_running_average_approaches_the_latent():
    """Streaming average quantization: each further full layer brings the average nearer."""
    pyramid = Pyramid.square(4, (4,) * 5)
    codes = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    z = torch.randn(8, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    errors = [
        (pyramid_quantize(z, codes, pyramid, num_layers=layers).quantized - z).square().mean().item()
        for layers in range(1, 6)
    ]
    assert all(later < 0.9 * earlier for earlier, later in pairwise(errors))


@pytest.mark.parametrize(
    "pyramid", [Pyramid.square(4, (1, 2, 4, 4)), Pyramid((6,), ((2,), (6,), (3,), (6,)))]
)
@pytest.mark.parametrize("rule", ["saq", "rq"])
def test_gradients(pyramid, rule):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(30, 3, generator=generator)
    z = torch.randn(2, 3, *pyramid.shape, dtype=torch.float64, generator=generator, requires_grad=True)
    ids = pyramid_quantize(z, codes, pyramid, rule=rule).ids
    for layer in range(pyramid.num_layers):
        assert torch.autograd.gradcheck(lambda z: layer_queries(z, ids, codes, pyramid, layer, rule=rule), z)  # noqa: B023
        assert torch.autograd.gradcheck(lambda z: dilation_subsample(z, pyramid, layer), z)  # noqa: B023


@pytest.mark.parametrize("rule", ["saq", "rq"])
def test_gradients_in_float32_are_those_in_float64(rule):
    """The implementations that gradcheck, in float64, does not reach."""
    pyramid = Pyramid.square(4, (1, 2, 4, 4))
    codes, z = torch.randn(30, 3), torch.randn(2, 3, 4, 4)
    ids = pyramid_quantize(z, codes, pyramid, rule=rule).ids
    for layer in range(pyramid.num_layers):
        grads = []
        for latents in (z.clone().requires_grad_(), z.double().requires_grad_()):
            query = layer_queries(latents, ids, codes, pyramid, layer, rule=rule)
            weight = torch.arange(query.numel(), dtype=query.dtype).reshape(query.shape)
            grads += torch.autograd.grad((query * weight).sum(), latents)
        assert torch.equal(grads[0].double(), grads[1])


def test_forward_mode_raises():
    pyramid, codes, z = Pyramid.square(4, (1, 2)), torch.randn(9, 3), torch.randn(2, 3, 4, 4)
    ids = pyramid_quantize(z, codes, pyramid).ids
    for call in (
        lambda z: layer_queries(z, ids, codes, pyramid, 1),
        lambda z: dilation_subsample(z, pyramid, 1),
    ):
        with pytest.raises(NotImplementedError, match="z: expected a tensor without a forward-mode tangent"):
            torch.func.jvp(call, (z,), (z,))


def test_half_precision_in_float32_out():
    z, codes = torch.randn(2, 8, 16, 16), torch.randn(100, 8)
    for dtype in (torch.float16, torch.bfloat16):
        got = pyramid_quantize(z.to(dtype), codes.to(dtype), PAPER)
        assert got.quantized.dtype == torch.float32
        expected = pyramid_quantize(z.to(dtype).float(), codes.to(dtype).float(), PAPER)
        assert torch.equal(got.ids, expected.ids)
        half = z.to(dtype).requires_grad_()
        layer_queries(half, got.ids, codes, PAPER, 5).sum().backward()
        assert half.grad.dtype == dtype
        assert set(half.grad.unique().tolist()) == {2.0, 3.0}


@pytest.mark.parametrize(
    ("op", "reads_values"),
    [
        ("distance_cross_entropy", True),
        ("pyramid_quantize", True),
        ("pyramid_dequantize", True),
        ("layer_queries", True),
        ("layer_queries_backward", False),
        ("dilation_subsample", False),
        ("pyramid_covered", False),
    ],
)
def test_ops_that_wait_for_the_device_stay_out_of_cuda_graphs(op, reads_values):
    tags = getattr(torch.ops.spae_ops, op).default.tags
    assert (torch.Tag.cudagraph_unsafe in tags) == reads_values


@pytest.mark.parametrize("op", ["quantize", "quantize by layer", "dequantize", "queries", "subsample"])
def test_opcheck(op):
    pyramid = Pyramid.square(4, (1, 2, 4))
    flat = (list(pyramid.shape), [size for grid in pyramid.grids for size in grid])
    codes, z = torch.randn(9, 3), torch.randn(2, 3, 4, 4)
    ids = pyramid_quantize(z, codes, pyramid).ids
    ops, tracked = torch.ops.spae_ops, z.clone().requires_grad_()
    calls = {
        "quantize": (ops.pyramid_quantize, (z, codes, [], "", [], *flat, "saq", None, "auto")),
        "quantize by layer": (
            ops.pyramid_quantize,
            (z, codes, [], "", [], *flat, "saq", torch.eye(9).bool()[:3] | (torch.arange(9) > 4), "auto"),
        ),
        "dequantize": (ops.pyramid_dequantize, (ids, codes, *flat, "saq", "nearest", "auto")),
        "queries": (ops.layer_queries, (tracked, ids, codes, *flat, 2, "saq", "auto")),
        "subsample": (ops.dilation_subsample, (tracked, *flat, 1)),
    }
    torch.library.opcheck(*calls[op])


def test_compile_fullgraph_with_dynamic_batch():
    torch._dynamo.reset()
    pyramid, index = Pyramid.square(4, (1, 2, 4, 4)), CodeIndex(torch.randn(50, 6))
    counter = CompileCounterWithBackend("inductor")

    def step(z):
        codes = pyramid_quantize(z, index, pyramid)
        back = pyramid_dequantize(codes.ids, index, pyramid)
        queries = layer_queries(z, codes.ids, index, pyramid, 3)
        return codes.ids, back.quantized, back.covered, queries, dilation_subsample(z, pyramid, 1)

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=counter)
    frames = []
    for batch in (3, 5, 9):  # no size of the codebook, which would be taken for the same symbol
        z = torch.randn(batch, 6, 4, 4, requires_grad=True)
        got, expected = compiled(z), step(z)
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)
        (grad,) = torch.autograd.grad(got[3].sum() + got[4].square().sum(), z)
        (want,) = torch.autograd.grad(expected[3].sum() + expected[4].square().sum(), z)
        assert torch.allclose(grad, want)
        frames.append(counter.frame_count)
    assert len(set(frames)) == 1, "recompiles with the number of rows"


Z, CODES = torch.zeros(1, 3, 4, 4), torch.randn(5, 3)
SMALL = Pyramid.square(4, (1, 2))
IDS = torch.zeros(1, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, r"z: expected shape \[B, 3, 4, 4\], got \[1, 3, 8, 8\]", lambda: pyramid_quantize(torch.zeros(1, 3, 8, 8), CODES, SMALL)),
        (ValueError, r"z: expected shape \[B, 3, 4, 4\], got \[1, 2, 4, 4\]", lambda: pyramid_quantize(Z[:, :2], CODES, SMALL)),
        (TypeError, r"z: expected dtype .* got int64", lambda: pyramid_quantize(Z.long(), CODES, SMALL)),
        (TypeError, r"pyramid: expected a spae_ops.Pyramid, got tuple", lambda: pyramid_quantize(Z, CODES, (1, 2))),
        (ValueError, r"rule: expected one of 'saq', 'rq', got 'vq'", lambda: pyramid_quantize(Z, CODES, SMALL, rule="vq")),
        (ValueError, r"mask: expected shape \[5\] or \[2, 5\] \(K of the codebook\), got \[4\]", lambda: pyramid_quantize(Z, CODES, SMALL, mask=torch.ones(4).bool())),
        (ValueError, r"mask: expected one row for each of 2 layers, got \[3, 5\]", lambda: pyramid_quantize(Z, CODES, SMALL, mask=torch.ones(3, 5).bool())),
        (ValueError, r"mask: .* among 5 codes in each layer, got none in layer 1", lambda: pyramid_quantize(Z, CODES, SMALL, mask=torch.tensor([[True], [False]]).expand(2, 5))),
        (ValueError, r"num_layers: expected 1..2, got 3", lambda: pyramid_quantize(Z, CODES, SMALL, num_layers=3)),
        (ValueError, r"z: expected finite values", lambda: pyramid_quantize(Z / 0, CODES, SMALL)),
        (ValueError, r"z: expected latents whose queries, .* got values up to 3e\+38", lambda: pyramid_quantize(Z + 3e38, CODES, Pyramid.square(4, (4, 4)))),
        (ValueError, r"z: expected latents whose queries, .* got values up to 1e\+39", lambda: pyramid_quantize(Z.double() - 1e39, CODES, SMALL, rule="rq", impl="reference")),
        (ValueError, r"ids: expected ids in 0..4, got 0..5", lambda: pyramid_dequantize(IDS + torch.tensor([0, 0, 0, 0, 5]), CODES, SMALL)),
        (ValueError, r"ids: expected ids in 0..4, got -1..0", lambda: pyramid_dequantize(IDS - torch.eye(5)[:1].long(), CODES, SMALL)),
        (TypeError, r"ids: expected dtype int64, got int32", lambda: pyramid_dequantize(IDS.int(), CODES, SMALL)),
        (ValueError, r"ids: expected a whole number of layers", lambda: pyramid_dequantize(IDS[:, :3], CODES, SMALL)),
        (ValueError, r"num_layers: expected 1\.\.1, got 2", lambda: pyramid_dequantize(IDS[:, :1], CODES, SMALL, num_layers=2)),
        (ValueError, r"fill: expected one of", lambda: pyramid_dequantize(IDS, CODES, SMALL, fill="edge")),
        (ValueError, r"layer: expected 0..1, got 2", lambda: layer_queries(Z, IDS, CODES, SMALL, 2)),
        (ValueError, r"ids: expected shape \[1, n\] with n >= 1, got \[1, 0\]", lambda: layer_queries(Z, IDS[:, :0], CODES, SMALL, 1)),
        (ValueError, r"layer: expected 0..1, got -1", lambda: dilation_subsample(Z, SMALL, -1)),
    ],
)  # fmt: skip
def test_errors_name_the_argument(error, message, call):
    with pytest.raises(error, match=message):
        call()
