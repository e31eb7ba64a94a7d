"""The ops under `torch.func.vmap` are a loop of calls."""

from __future__ import annotations

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.func import vmap

from spae_ops import (
    CodeIndex,
    Pyramid,
    dilation_subsample,
    distance_cross_entropy,
    layer_queries,
    nearest_code,
    pyramid_dequantize,
    pyramid_quantize,
    topk_codes,
)

B, N, K, D = 3, 7, 40, 6
PYRAMID = Pyramid.square(4, (1, 2, 4, 4))


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def x(random):
    return torch.randn(B, N, D, generator=random)


@pytest.fixture
def codes(random):
    codes = torch.randn(K, D, generator=random)
    codes[20] = codes[3]
    return codes


def stacked(results):
    return tuple(torch.stack(values) for values in zip(*results, strict=True))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("impl", ["auto", "torch", "reference"])
@pytest.mark.parametrize("indexed", [False, True])
def test_lookups(x, codes, indexed, impl):
    table = CodeIndex(codes) if indexed else codes
    for call in (
        lambda q: nearest_code(q, table, impl=impl),
        lambda q: topk_codes(q, table, 3, mask=torch.arange(K) > 4, impl=impl),
        lambda q: topk_codes(q[0], table, 2, impl=impl),
    ):
        assert_same(vmap(call)(x), stacked(call(q) for q in x))
        turned = x.movedim(0, 2)
        assert_same(vmap(call, in_dims=2)(turned), stacked(call(q) for q in x))
    nested = vmap(vmap(lambda q: nearest_code(q, table, impl=impl)))(x)
    assert_same(nested, nearest_code(x, table))


def test_lookups_among_codes_and_masks_that_are_mapped_over(x, random):
    many = torch.randn(K, B, D, generator=random)
    masks = torch.rand(B, K, generator=random) < 0.3
    found = vmap(lambda q, c, m: nearest_code(q, c, mask=m), in_dims=(0, 1, 0))(x, many, masks)
    assert_same(found, stacked(nearest_code(x[i], many[:, i], mask=masks[i]) for i in range(B)))
    found = vmap(lambda m: topk_codes(x[0], many[:, 0], 2, mask=m))(masks)
    assert_same(found, stacked(topk_codes(x[0], many[:, 0], 2, mask=m) for m in masks))


@pytest.mark.parametrize("rule", ["saq", "rq"])
def test_pyramids(codes, random, rule):
    index = CodeIndex(codes)
    z = torch.randn(B, 2, D, 4, 4, generator=random)
    masks = torch.rand(4, K, generator=random) < 0.5

    def quantize(z):
        return pyramid_quantize(z, index, PYRAMID, rule=rule, mask=masks)

    def dequantize(ids):
        return pyramid_dequantize(ids, index, PYRAMID, rule=rule, num_layers=2)

    found, expected = vmap(quantize)(z), [quantize(one) for one in z]
    ids = torch.stack([one.ids for one in expected])
    assert torch.equal(found.ids, ids)
    assert torch.equal(found.quantized, torch.stack([one.quantized for one in expected]))
    assert torch.equal(found.covered[0], expected[0].covered)
    assert torch.equal(
        vmap(lambda i: dequantize(i).quantized)(ids), torch.stack([dequantize(i).quantized for i in ids])
    )


@pytest.mark.parametrize("rule", ["saq", "rq"])
def test_queries_and_their_gradients(codes, random, rule):
    z = torch.randn(B, 2, D, 4, 4, generator=random)
    ids = torch.randint(K, (B, 2, PYRAMID.num_tokens), generator=random)
    for call in (
        lambda z, ids: layer_queries(z, ids, codes, PYRAMID, 2, rule=rule),
        lambda z, ids: dilation_subsample(z, PYRAMID, 1),
    ):
        ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
        found = vmap(call)(ours, ids)
        expected = torch.stack([call(a, b) for a, b in zip(theirs, ids, strict=True)])
        assert torch.equal(found, expected)
        scale = torch.randn(expected.shape, generator=random)
        (found * scale).sum().backward()
        (expected * scale).sum().backward()
        assert torch.equal(ours.grad, theirs.grad)
    shared = vmap(lambda i: layer_queries(z[0], i, codes, PYRAMID, 3, rule=rule))(ids)
    assert torch.equal(
        shared, torch.stack([layer_queries(z[0], i, codes, PYRAMID, 3, rule=rule) for i in ids])
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_loss_and_its_gradient(x, codes, random, reduction):
    target = torch.randint(K, (B, N), generator=random)

    def call(q, t):
        return distance_cross_entropy(q, codes, t, temperature=2.0, reduction=reduction)

    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found = vmap(call)(ours, target)
    expected = torch.stack([call(a, b) for a, b in zip(theirs, target, strict=True)])
    torch.testing.assert_close(found, expected)
    scale = torch.randn(expected.shape, generator=random)
    (found * scale).sum().backward()
    (expected * scale).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    with torch.no_grad():
        torch.testing.assert_close(vmap(call)(x, target), expected)


def test_a_jacobian_of_batched_gradients(x, codes):
    q = x[0].clone().requires_grad_()
    loss = distance_cross_entropy(q, codes, torch.arange(N), reduction="none")
    (found,) = torch.autograd.grad(loss, q, torch.eye(N), is_grads_batched=True, retain_graph=True)
    expected = torch.stack([torch.autograd.grad(loss, q, row, retain_graph=True)[0] for row in torch.eye(N)])
    torch.testing.assert_close(found, expected)


def test_bad_values_are_still_errors(x, codes):
    x[1, 2] = torch.nan
    with pytest.raises(ValueError, match="x: expected finite values, got nan or inf in 1 of 21 rows: 9"):
        vmap(lambda q: nearest_code(q, codes).ids)(x)
    with pytest.raises(ValueError, match=r"ids: expected ids in 0..39, got -1..-1"):
        vmap(lambda i: pyramid_dequantize(i, codes, PYRAMID).quantized)(
            torch.full((B, 1, PYRAMID.num_tokens), -1)
        )


MAPPED = {
    "subsample": lambda z, ids, codes: dilation_subsample(z, PYRAMID, 1),
    "queries": lambda z, ids, codes: layer_queries(z, ids, codes, PYRAMID, 1),
    "lookup": lambda z, ids, codes: nearest_code(z.flatten(2).mT, codes).sqdist[..., None] + z.flatten(2).mT,
    "loss": lambda z, ids, codes: distance_cross_entropy(z.flatten(2).mean(2), codes, ids[:, 0]),
}


@pytest.mark.parametrize("op", MAPPED)
def test_compiled_for_any_number_of_rows_at_once(op, codes):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    call = vmap(lambda z, ids: MAPPED[op](z, ids, codes))
    compiled = torch.compile(
        call, fullgraph=True, dynamic=True, backend=aot_autograd(fw_compiler=count, bw_compiler=count)
    )
    for rows in (3, 7, 11):
        z = torch.randn(2, rows, D, 4, 4, requires_grad=True)
        ids = torch.arange(2 * rows * PYRAMID.num_tokens).reshape(2, rows, -1) % K
        got, expected = compiled(z, ids), call(z, ids)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(
            *(torch.autograd.grad(out.square().sum(), z)[0] for out in (got, expected))
        )
        assert len(graphs) == 2, "expected one graph forwards and one backwards"
