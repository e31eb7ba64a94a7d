"""The same contract on a GPU: every implementation there against the NumPy oracle, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import spae_ops
from spae.testing import oracles, strategies
from spae_ops import CodeIndex, Pyramid, distance_cross_entropy, nearest_code, pyramid_quantize, topk_codes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
IMPLS = [
    pytest.param(i.name, marks=pytest.mark.skipif(not i.available, reason=f"{i.name}: {i.reason}"))
    for i in spae_ops.implementations("nearest_code")
    if i.name != "cpu"
]


@pytest.mark.parametrize("impl", IMPLS)
@given(problem=strategies.lookups(max_codes=700), k=st.integers(1, 5))
def test_exact_ids_and_distances(impl, problem, k):
    x, codes, mask = (None if t is None else t.cuda() for t in problem)
    k = min(k, len(codes) if mask is None else int(mask.sum()))
    ids, sqdist = topk_codes(x, codes, k, mask=mask, impl=impl)
    expected, distances = oracles.topk_codes(problem.x, problem.codes, k, problem.mask)
    assert (ids.cpu().numpy() == expected).all()
    assert (sqdist.cpu().numpy() == distances.astype(np.float32)).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("width", [17, 256, 576, 640, 768, 1536])
@pytest.mark.parametrize("num_queries", [1, 64, 600])
def test_real_sizes_agree_with_the_reference(impl, width, num_queries):
    """On random codes, and on codes that near misses surround."""
    generator = torch.Generator("cuda").manual_seed(width + num_queries)
    codes = torch.randn(20_000, width, device="cuda", generator=generator)
    index = CodeIndex(codes, impl=impl)
    random = torch.randn(num_queries, width, device="cuda", generator=generator)
    middle = (codes[:num_queries].double() + codes[num_queries : 2 * num_queries].double()) / 2
    for x in (random, codes[:num_queries] + 0.1 * random, middle.float()):
        for dtype in strategies.DTYPES:
            got = nearest_code(x.to(dtype), index, impl=impl)
            expected = nearest_code(x.to(dtype), codes, impl="reference")
            assert torch.equal(got.ids, expected.ids)
            assert torch.equal(got.sqdist, expected.sqdist)
            assert torch.equal(nearest_code(x.to(dtype), index, impl=impl).ids, got.ids)


@pytest.mark.parametrize("impl", IMPLS)
def test_pyramid_and_loss_agree_with_the_cpu(impl):
    pyramid = Pyramid.square(16, (1, 2, 4, 8, 16, 16))
    codes, z = torch.randn(3000, 64), torch.randn(2, 64, 16, 16)
    got = pyramid_quantize(z.cuda(), codes.cuda(), pyramid, impl=impl)
    expected = pyramid_quantize(z, codes, pyramid)
    assert torch.equal(got.ids.cpu(), expected.ids)
    assert torch.equal(got.quantized.cpu(), expected.quantized)
    x, target = torch.randn(50, 64), torch.arange(50)
    loss = distance_cross_entropy(x.cuda(), codes.cuda(), target.cuda())
    torch.testing.assert_close(loss.cpu(), distance_cross_entropy(x, codes, target))


@pytest.mark.parametrize("rule", ["saq", "rq"])
def test_pyramid_gathers_agree_with_the_cpu(rule):
    """What Triton gathers from chosen codes, and the gradient of it."""
    pytest.importorskip("triton", reason="needs triton")
    from spae_ops.quantize import reference
    from spae_ops.quantize import triton as ours

    pyramid = Pyramid((5, 16, 16), ((1, 2, 2), (5, 4, 4), (5, 16, 16), (5, 16, 16)))
    codes, ids = torch.randn(3000, 130), torch.randint(3000, (3, pyramid.num_tokens))
    for dtype in strategies.DTYPES:
        z = torch.randn(3, 130, *pyramid.shape).to(dtype)
        for fill in ("nearest", "zero"):
            got = ours.dequantize(ids.cuda(), codes.to(dtype).cuda(), pyramid, rule, fill)
            assert torch.equal(got.cpu(), reference.dequantize(ids, codes.to(dtype), pyramid, rule, fill))
        for layer in range(pyramid.num_layers):
            query = ours.layer_queries(z.cuda(), ids.cuda(), codes.cuda(), pyramid, layer, rule)
            assert torch.equal(query.cpu(), reference.layer_queries(z, ids, codes, pyramid, layer, rule))
            grad = ours.layer_queries_backward(query, pyramid, layer, rule)
            expected = reference.layer_queries_backward(query.cpu(), pyramid, layer, rule)
            assert torch.equal(grad.cpu(), expected)


LOSSES = [
    i.name
    for i in spae_ops.implementations("distance_cross_entropy")
    if i.available and i.name not in ("cpu", "reference")
]


@pytest.mark.parametrize("impl", LOSSES)
@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
@given(problem=strategies.lookups(masks=False, max_codes=700))
def test_loss_agrees_with_the_oracle(impl, temperature, problem):
    x, codes, _ = problem
    target = torch.arange(len(x)) % len(codes)
    arguments = x.cuda(), codes.cuda(), target.cuda()
    loss = distance_cross_entropy(*arguments, temperature=temperature, reduction="none", impl=impl)
    assert (loss >= 0).all()
    expected = oracles.distance_cross_entropy(x, codes, target, temperature)
    largest = x.double().norm(dim=1).max() if len(x) else 0
    product = (largest + codes.double().norm(dim=1).max()).square() / temperature
    np.testing.assert_allclose(loss.cpu(), expected, rtol=1e-6, atol=1e-6 + 2.0**-21 * float(product))


@pytest.mark.parametrize("impl", LOSSES)
@pytest.mark.parametrize("width", [17, 128, 256, 576, 640, 1536])
@pytest.mark.parametrize("num_queries", [1, 64, 600, 9000])
def test_loss_and_gradient_at_real_sizes(impl, width, num_queries):
    """Errors against float64, where torch with the whole [N, K] matrix in the same dtype is the measure."""
    generator = torch.Generator("cuda").manual_seed(width + num_queries)
    codes = torch.randn(5_003, width, device="cuda", generator=generator)
    target = torch.randint(len(codes), (num_queries,), device="cuda", generator=generator)
    x = codes[target] + torch.randn(num_queries, width, device="cuda", generator=generator)
    for dtype in strategies.DTYPES:
        expected, wanted = _whole(x.to(dtype).double(), codes.to(dtype).double(), target, width)
        ordinary, gradient = _whole(x.to(dtype), codes.to(dtype), target, width)
        ours = x.to(dtype).requires_grad_()
        results = []
        for _ in range(2):
            loss = distance_cross_entropy(
                ours, codes.to(dtype), target, temperature=width, reduction="none", impl=impl
            )
            results.append((loss.detach(), *torch.autograd.grad(loss.sum(), ours)))
        loss, found = results[0]
        assert torch.equal(loss, results[1][0])
        assert torch.equal(found, results[1][1])
        assert (loss - expected).abs().max() <= (ordinary - expected).abs().max() + 1e-5
        precision = 1e-5 if dtype == torch.float32 else 1e-2
        error, reach = (found - wanted).norm(dim=1), wanted.norm(dim=1).max()
        assert error.max() <= (gradient - wanted).norm(dim=1).max() + precision * reach


def _whole(x, codes, target, temperature):
    x = x.clone().requires_grad_()
    scores = (2 * x @ codes.T - codes.square().sum(1)) / temperature
    loss = torch.nn.functional.cross_entropy(scores, target, reduction="none")
    return loss.detach(), *torch.autograd.grad(loss.sum(), x)
