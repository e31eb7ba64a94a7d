from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch import config
from torch.autograd import forward_ad

import spae_ops
from spae.testing import oracles, strategies
from spae_ops import CodeIndex, distance_cross_entropy

IMPLS = [
    i.name
    for i in spae_ops.implementations("distance_cross_entropy")
    if i.available and i.name not in ("triton", "cuda")  # they take CUDA tensors
]
every_impl = pytest.mark.parametrize("impl", IMPLS)
# float64 queries go to the reference: auto picks it, the others say so.
in_float64 = pytest.mark.parametrize("impl", ["auto", "reference"])


@every_impl
@given(
    problem=strategies.lookups(
        masks=False, kinds=("gaussian", "lattice", "duplicates", "decades", "subnormal")
    ),
    temperature=st.sampled_from((1e-3, 0.1, 1.0, 1e3)),
)
def test_loss_is_the_cross_entropy(impl, problem, temperature):
    x, codes, _ = problem
    target = torch.arange(len(x)) % len(codes)
    loss = distance_cross_entropy(x, codes, target, temperature=temperature, reduction="none", impl=impl)
    expected = oracles.distance_cross_entropy(x, codes, target, temperature)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    assert (loss >= 0).all()
    largest = (x.double().norm(dim=1).amax() if len(x) else 0) + codes.double().norm(dim=1).amax()
    # Four roundings of the largest square, in the precision that scores are computed in.
    rounding = 4 * (2.0**-53 if impl == "reference" else 2.0**-24) * float(largest) ** 2 / temperature
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-6, atol=1e-6 + rounding)


LOSSES = [1e-40, 1e-30, 1e-20, 1e-12, 4.6e-9, 1e-6, 1e-3, 0.1, 1.0, 30.0, 1e3, 1e6]


@every_impl
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("num_codes", [2, 700])
def test_a_loss_of_any_size(impl, loss, num_codes):
    """The target lies `ahead` nearer than the next code, in units of the temperature; the rest counts for nothing."""
    ahead = -np.log(np.expm1(loss)) if loss < 100 else -loss
    codes = torch.full((num_codes, 3), 40.0)
    codes[:2] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    x = torch.tensor([[0.5 - 0.125 * np.sign(ahead), 0.25, 0.0]], dtype=torch.float32)
    temperature = 0.25 / abs(ahead)
    target = torch.tensor([0])
    expected = oracles.distance_cross_entropy(x, codes, target, temperature)
    assert np.isclose(expected[0], loss, rtol=1e-9, atol=0)
    x.requires_grad_()
    got = distance_cross_entropy(x, codes, target, temperature=temperature, impl=impl)
    (gradient,) = torch.autograd.grad(got, x)
    # One rounding to fp32, and its rounding of the exponent.
    tolerance = 2.0**-23 * (1 + 1 / temperature)
    smallest = 2.0**-149
    assert abs(got.item() - loss) <= tolerance * loss + smallest
    share = -np.expm1(-loss)
    assert gradient[0, 1:].tolist() == [0, 0]
    assert (
        abs(gradient[0, 0].item() - 2 / temperature * share) <= tolerance * 2 / temperature * share + smallest
    )


@every_impl
@pytest.mark.parametrize("temperature", [0.15, 0.3, 0.6, 2.0, 10.0, 1e3])
def test_loss_and_gradient_keep_their_relative_accuracy(impl, temperature):
    """Losses from 1e-38 on, over blocks of codes: errors relative to the loss itself are those of the exponents."""
    generator = torch.Generator().manual_seed(1)
    width = 16
    codes = torch.randn(3000, width, generator=generator)
    target = torch.randint(3000, (40,), generator=generator)
    x = codes[target] + torch.linspace(0, 0.5, 40)[:, None] * torch.randn(40, width, generator=generator)
    expected = oracles.distance_cross_entropy(x, codes, target, temperature)
    weights = np.exp(-oracles.squared_distances(x, codes) / temperature)
    weights /= np.take_along_axis(weights, target.numpy()[:, None], 1) * np.exp(expected)[:, None]
    apart = codes.double().numpy() - codes[target].double().numpy()[:, None]
    wanted = np.einsum("nk,nkd->nd", weights, apart) * 2 / temperature
    x.requires_grad_()
    loss = distance_cross_entropy(x, codes, target, temperature=temperature, reduction="none", impl=impl)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    norms = x.detach().norm(dim=1).double().numpy(), codes.norm(dim=1).amax().item()
    unit, steps = (2.0**-53, 2 * width + 32) if impl == "reference" else (2.0**-24, width + 10)
    tolerance = 2.0**-20 + unit * steps * (norms[0] + norms[1]) ** 2 / temperature
    assert (abs(loss.detach().numpy() - expected) <= tolerance * expected + 2.0**-149).all()
    reach = np.linalg.norm(apart, axis=2).max(1) * 2 / temperature * -np.expm1(-expected)
    assert (np.linalg.norm(gradient.numpy() - wanted, axis=1) <= tolerance * reach + width * 2.0**-149).all()


@in_float64
@pytest.mark.parametrize("temperature", [0.1, 1.0, 30.0])
def test_gradcheck(impl, temperature):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(40, 3, generator=generator)
    x = torch.randn(6, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    target = torch.arange(6)
    for reduction in ("none", "mean", "sum"):
        loss = partial(distance_cross_entropy, temperature=temperature, reduction=reduction, impl=impl)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, codes, target), x)


@every_impl
@pytest.mark.parametrize("temperature", [2.0**-1022, 1e-300, 1e-45, 1e-39, 1e38, 1e300, 1.7e308])
def test_extreme_temperatures_are_never_nan(impl, temperature):
    codes = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    x = torch.cat([codes[:2], torch.zeros(2, 3)]).requires_grad_()
    target = torch.tensor([0, 5, 7, 7])
    loss = distance_cross_entropy(x, codes, target, temperature=temperature, reduction="none", impl=impl)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert not loss.isnan().any()
    assert not gradient.isnan().any()
    expected = torch.from_numpy(
        oracles.distance_cross_entropy(x.detach(), codes, target, temperature)
    ).float()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


@every_impl
def test_backward_twice_and_batched(impl):
    """The first backward gives its memory away; what the caller does with it must not reach the others."""
    codes, target = torch.randn(30, 5), torch.tensor([0, 3, 3, 29])
    x = torch.randn(4, 5, requires_grad=True)
    loss = distance_cross_entropy(x, codes, target, reduction="none", impl=impl)
    weights = torch.tensor([1.0, -2.0, 0.0, 3.0])
    (first,) = torch.autograd.grad(loss, x, weights, retain_graph=True)
    expected = first.clone()
    first.fill_(torch.nan)
    (second,) = torch.autograd.grad(loss, x, weights, retain_graph=True)
    assert torch.equal(second, expected)
    (rows,) = torch.autograd.grad(loss, x, torch.diag(weights), is_grads_batched=True, retain_graph=True)
    assert torch.equal(rows.sum(0), expected)
    codes.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x, weights)


SECOND = "expected at most one derivative in x"
# What asks for a second derivative, and what torch says where it asks for it through torch.func.
SECOND_DERIVATIVES = {
    "create_graph": (lambda f, x: torch.autograd.grad(
        torch.autograd.grad(f(x) + x.square().sum(), x, create_graph=True)[0].sum(), x), SECOND),
    "backward": (lambda f, x: _backward_twice(f, x), SECOND),
    "hessian": (torch.autograd.functional.hessian, SECOND),
    "hessian, vectorized": (partial(torch.autograd.functional.hessian, vectorize=True), SECOND),
    "func.hessian": (lambda f, x: torch.func.hessian(f)(x.detach()), "setup_context"),
    "func.jacrev": (lambda f, x: torch.func.jacrev(torch.func.jacrev(f))(x.detach()), "setup_context"),
    "vmap": (lambda f, x: torch.func.vmap(torch.func.hessian(f))(x.detach()[None]), "setup_context"),
}  # fmt: skip


def _backward_twice(f, x):
    f(x).backward(create_graph=True)
    x.grad.sum().backward()


@every_impl
@pytest.mark.parametrize("way", SECOND_DERIVATIVES)
@pytest.mark.filterwarnings("ignore:Using backward")
def test_second_derivatives_raise(impl, way):
    codes, target = torch.randn(30, 5), torch.tensor([0, 3, 3, 29])
    x = torch.randn(4, 5, requires_grad=True)
    ask, message = SECOND_DERIVATIVES[way]
    with pytest.raises(RuntimeError, match=message):
        ask(lambda x: distance_cross_entropy(x, codes, target, impl=impl), x)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("shape", [(4,), (2, 2)])
@config.patch(donated_buffer=False)  # which refuses create_graph at all
def test_second_derivatives_raise_in_compiled_graphs(backend, shape):
    """aot_eager's backward is a graph of its own, which torch differentiates to nothing unless it keeps x."""
    codes, target = torch.randn(30, 5), torch.tensor([0, 3, 3, 29]).reshape(shape)
    x = torch.randn(*shape, 5, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: distance_cross_entropy(x, codes, target), backend=backend)
    (expected,) = torch.autograd.grad(distance_cross_entropy(x, codes, target), x)
    assert torch.equal(torch.autograd.grad(compiled(x), x)[0], expected)
    # The square has a second derivative, so that the sum of both would be answered with that alone.
    (tracked,) = torch.autograd.grad(compiled(x) + x.square().sum(), x, create_graph=True)
    assert torch.allclose(tracked, expected + 2 * x)
    with pytest.raises(RuntimeError, match=f"{SECOND}|does not currently support double backward"):
        torch.autograd.grad(tracked.sum(), x)


@every_impl
def test_a_tracked_gradient_is_the_gradient_and_linear_in_the_incoming_one(impl):
    codes, target = torch.randn(30, 5), torch.tensor([0, 3, 3, 29])
    x, weights = (
        torch.randn(4, 5, requires_grad=True),
        torch.tensor([1.0, -2.0, 0.0, 3.0], requires_grad=True),
    )
    loss = distance_cross_entropy(x, codes, target, reduction="none", impl=impl)
    (expected,) = torch.autograd.grad(loss, x, weights.detach(), retain_graph=True)
    for _ in range(2):
        (got,) = torch.autograd.grad(loss, x, weights, create_graph=True)
        assert torch.equal(got, expected)
    (slope,) = torch.autograd.grad(got.sum(), weights)
    (rows,) = torch.autograd.grad(loss, x, torch.ones(4))
    assert torch.allclose(slope, rows.sum(1))


@every_impl
@pytest.mark.parametrize("tracked", [False, True])
def test_forward_mode_raises(impl, tracked):
    codes, target = torch.randn(30, 5), torch.tensor([0, 3, 3, 29])
    x = torch.randn(4, 5, requires_grad=tracked)
    call = partial(distance_cross_entropy, codes=codes, target=target, impl=impl)
    message = "x: expected a tensor without a forward-mode tangent"
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(NotImplementedError, match=message):
            call(dual)
        assert torch.equal(call(x), call(x.detach()))
    for ask in (
        lambda: torch.func.jvp(call, (x.detach(),), (x.detach(),)),
        lambda: torch.func.jacfwd(call)(x.detach()),
        lambda: torch.compile(lambda x: torch.func.jvp(call, (x,), (x,)), backend="eager")(x.detach()),
    ):
        with pytest.raises(NotImplementedError, match=message):
            ask()


@every_impl
def test_codes_may_change_before_the_first_backward(impl):
    """As a learned codebook's do, updated by moving averages in the forward."""
    codes, target = torch.randn(30, 5), torch.tensor([0, 3, 3, 29])
    x = torch.randn(4, 5, requires_grad=True)
    (expected,) = torch.autograd.grad(distance_cross_entropy(x, codes, target, impl=impl), x)
    loss = distance_cross_entropy(x, codes, target, impl=impl)
    codes.zero_()
    assert torch.equal(torch.autograd.grad(loss, x)[0], expected)


@in_float64
def test_equals_softmax_cross_entropy_with_gradients(impl):
    """Against materialising torch in float64, at a size that spans several blocks."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(5000, 24, generator=generator)
    target = torch.randint(5000, (600,), generator=generator)
    x = (codes[target] + 0.5 * torch.randn(600, 24, generator=generator)).double()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss = distance_cross_entropy(ours, codes, target, temperature=2.0, impl=impl)
    wanted = torch.nn.functional.cross_entropy(-torch.cdist(theirs, codes.double()).square() / 2.0, target)
    loss.backward()
    wanted.backward()
    assert torch.allclose(loss, wanted, rtol=1e-9)
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-7, atol=1e-12)


@every_impl
def test_codebook_gets_no_gradient_and_shapes(impl):
    codes = torch.randn(7, 4, requires_grad=True)
    x = torch.randn(2, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    loss = distance_cross_entropy(x, codes, torch.zeros(2, 3, dtype=torch.int64), reduction="none", impl=impl)
    assert loss.shape == (2, 3)
    loss.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert codes.grad is None
    empty = distance_cross_entropy(
        x[:0], codes, torch.zeros(0, 3, dtype=torch.int64), reduction="sum", impl=impl
    )
    assert empty.item() == 0


@every_impl
def test_opcheck_and_compile(impl):
    codes = torch.randn(30, 5)
    x = torch.randn(4, 5, requires_grad=True)
    target = torch.tensor([0, 3, 3, 29])
    arguments = (x, codes, [], "", [], target, 0.5, True, impl)
    # The gradient is computed in the forward and saved, which opcheck's autograd test cannot tell from a detached output.
    torch.library.opcheck(torch.ops.spae_ops.distance_cross_entropy, arguments)
    torch._dynamo.reset()
    counter, index = CompileCounterWithBackend("inductor"), CodeIndex(codes)

    @torch.compile(fullgraph=True, dynamic=True, backend=counter)
    def run(x, target):
        return distance_cross_entropy(x * 2, index, target, impl=impl)

    frames = []
    for n in (8, 9, 31):  # no size of the codebook or its index, which would be taken for the same symbol
        x = torch.randn(n, 5, requires_grad=True)
        target = torch.arange(n) % 30
        expected = distance_cross_entropy(x * 2, index, target, impl=impl)
        torch.testing.assert_close(run(x, target), expected)  # a compiled mean adds in another order
        (got,) = torch.autograd.grad(run(x, target), x)
        (want,) = torch.autograd.grad(expected, x)
        assert torch.allclose(got, want)
        frames.append(counter.frame_count)
    assert len(set(frames)) == 1, "recompiles with the number of rows"


X, CODES, TARGET = torch.zeros(2, 3), torch.randn(5, 3), torch.tensor([0, 4])


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, r"target: expected shape \[2\]", lambda: distance_cross_entropy(X, CODES, TARGET[:1])),
        (ValueError, r"target: expected ids in 0..4, got 1..5", lambda: distance_cross_entropy(X, CODES, TARGET + 1)),
        (TypeError, r"target: expected dtype int64", lambda: distance_cross_entropy(X, CODES, TARGET.int())),
        (ValueError, r"temperature: expected a positive", lambda: distance_cross_entropy(X, CODES, TARGET, temperature=0)),
        (ValueError, r"temperature: expected .* at least 2.23e-308, got 1e-320", lambda: distance_cross_entropy(X, CODES, TARGET, temperature=1e-320)),
        (ValueError, r"temperature: .* got nan", lambda: distance_cross_entropy(X, CODES, TARGET, temperature=float("nan"))),
        (ValueError, r"reduction: expected one of", lambda: distance_cross_entropy(X, CODES, TARGET, reduction="avg")),
        (ValueError, r"x: expected finite values", lambda: distance_cross_entropy(X / 0, CODES, TARGET)),
        (ValueError, r"impl: expected 'auto' or one of", lambda: distance_cross_entropy(X, CODES, TARGET, impl="cuda9")),
    ],
)  # fmt: skip
def test_errors_name_the_argument(error, message, call):
    with pytest.raises(error, match=message):
        call()
