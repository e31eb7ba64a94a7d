"""`distance_cross_entropy`: the contract, its checks, and its registration with torch."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from spae_ops import _checks
from spae_ops._derivatives import once, refuse_forward_mode
from spae_ops._dispatch import CROSS_ENTROPY
from spae_ops._implementation import Impl, prepared_by
from spae_ops._register import READS_VALUES, differentiable, fake, op, without_derivative
from spae_ops.code_index import CodeIndex, Table, as_table

REDUCTIONS = ("mean", "sum", "none")
LEAST_TEMPERATURE = 2.0**-1022  # normal, so that 2 / temperature is finite


def distance_cross_entropy(
    x: Tensor,
    codes: Tensor | CodeIndex,
    target: Tensor,
    *,
    temperature: float = 1.0,
    reduction: str = "mean",
    impl: Impl = "auto",
) -> Tensor:
    """-log softmax over all codes of -||x - c||^2 / temperature, at the target (the loss of SPAE eq. 7).

    x: [.., D] fp32|fp16|bf16|fp64, finite. codes: [K, D], or a CodeIndex of it. target: int64 [..], ids in
    0..K-1.
    temperature: a positive number in the units of a squared distance, at least 2^-1022 (2.23e-308) for the
    gradient is divided by it.
    reduction: "mean" or "sum" over queries, or "none" for a loss of shape [..]. As in torch, the mean of no
    queries is nan.

    Returns float32 (float64 if x is). Differentiable once in x, in reverse mode; the codebook never gets a
    gradient. Loss and gradient come from one pass over the codes and no [N, K] tensor is held.

    Raises TypeError and ValueError for arguments that do not fit, RuntimeError at a second derivative in x,
    and its subclass NotImplementedError for an x with a forward-mode tangent (`torch.func.jvp`).

    >>> codes = torch.tensor([[0.0], [1.0]])
    >>> distance_cross_entropy(torch.tensor([[0.5]]), codes, torch.tensor([1]))
    tensor(0.6931)
    """
    table = as_table(codes, CROSS_ENTROPY, impl)
    _checks.check_queries("x", x, table.codes, _checks.DIFFERENTIABLE_DTYPES)
    _checks.check_ids("target", target, table.codes)
    if target.shape != x.shape[:-1]:
        raise ValueError(
            f"target: expected shape {list(x.shape[:-1])} like x [.., D], got {list(target.shape)}"
        )
    if not isinstance(temperature, Real) or not LEAST_TEMPERATURE <= temperature < math.inf:
        raise ValueError(
            f"temperature: expected a positive finite number of at least {LEAST_TEMPERATURE:.3g}, "
            f"got {temperature!r}"
        )
    _checks.check_choice("reduction", reduction, REDUCTIONS)
    refuse_forward_mode("x", x, "distance_cross_entropy")
    with_gradient = x.requires_grad and torch.is_grad_enabled()
    loss, _ = torch.ops.spae_ops.distance_cross_entropy(
        x, *table, target, float(temperature), with_gradient, impl
    )
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


@op(
    "distance_cross_entropy",
    "Tensor x, Tensor codes, Tensor[] prepared, str layout, SymInt[] origin, Tensor target,"
    " float temperature, bool with_gradient, str impl",
    "(Tensor, Tensor)",
    READS_VALUES,
)
def _distance_cross_entropy(x, codes, prepared, layout, origin, target, temperature, with_gradient, impl):
    table = Table(codes, prepared, layout, origin)
    _, implementation = CROSS_ENTROPY.resolve(
        "distance_cross_entropy",
        impl,
        x.device,
        x.dtype,
        preferred=table.owner,
        codes=codes,
        queries=target.numel(),
    )
    table.check()
    rows = x.reshape(-1, x.shape[-1])
    _checks.check_finite("x", rows)
    _checks.check_range("target", target, len(codes))
    prepared = prepared_by(implementation, codes, prepared, layout)
    loss, gradient = implementation.loss_and_gradient(
        rows, codes, prepared, target.reshape(-1), temperature, with_gradient
    )
    dtype = torch.promote_types(x.dtype, torch.float32)
    gradient = gradient.to(dtype)
    return loss.to(dtype).reshape(target.shape), gradient.reshape(x.shape) if with_gradient else gradient


@fake("distance_cross_entropy")
def _(x, codes, prepared, layout, origin, target, temperature, with_gradient, impl):
    dtype = torch.promote_types(x.dtype, torch.float32)
    size = x.shape if with_gradient else (0, x.shape[-1])
    return x.new_empty(x.shape[:-1], dtype=dtype), x.new_empty(size, dtype=dtype)


def _setup_context(ctx, inputs, output):
    x, codes, prepared, layout, origin, target, temperature, _, impl = inputs
    _, gradient = output
    ctx.mark_non_differentiable(gradient)
    ctx.set_materialize_grads(False)  # or backward would begin with zeros of the gradient's size
    ctx.save_for_backward(x, codes, target, *prepared)
    ctx.dtype = x.dtype
    ctx.num_prepared = len(prepared)
    ctx.rest = layout, origin, temperature, impl
    ctx.gradient = gradient


def _backward(ctx, grad_loss, _):
    to_x = None if grad_loss is None else _take_gradient(ctx, grad_loss[..., None])
    # torch takes an empty list for one of tensors.
    to_origin = None if ctx.rest[1] else []
    return to_x, None, [None] * ctx.num_prepared, None, to_origin, *[None] * 4


def _take_gradient(ctx, scale: Tensor) -> Tensor:
    """The gradient times the incoming one.

    The first backward scales it where it lies and gives it away, so that there is one [.., D] in all; a
    second backward (retain_graph) computes it anew. With create_graph, what it gives raises where it is
    differentiated in x again, and so it keeps to out-of-place arithmetic.
    """
    gradient, ctx.gradient = ctx.gradient, None
    # Empty where the forward could not know, for inside of vmap a tensor does not say that it requires grad.
    if (
        gradient is None or gradient.shape[:-1] != scale.shape[:-1]
    ):  # len() would fix the size in a compiled graph
        # Not touched by the first: x or a learned codebook may have been changed in place since the forward.
        x, codes, target, *prepared = ctx.saved_tensors
        layout, origin, temperature, impl = ctx.rest
        _, gradient = torch.ops.spae_ops.distance_cross_entropy(
            x.detach(), codes, prepared, layout, origin, target, temperature, True, impl
        )
    if torch.is_grad_enabled():  # create_graph
        return (once(gradient, ctx.saved_tensors[0], "distance_cross_entropy") * scale).to(ctx.dtype)
    if type(gradient) is not Tensor:  # traced by torch.compile, which reuses memory by itself
        x = ctx.saved_tensors[0]
        return torch.ops.spae_ops.distance_cross_entropy_backward(gradient, scale, x).to(ctx.dtype)
    try:
        return gradient.mul_(scale).to(ctx.dtype)
    except RuntimeError:  # several gradients come of it (is_grads_batched)
        return (gradient * scale).to(ctx.dtype)


@op("distance_cross_entropy_backward", "Tensor gradient, Tensor scale, Tensor x")
def _scaled(gradient, scale, x):
    """The backward in a compiled graph. It takes x as the graph was given it, though it needs nothing of it:
    torch refuses to differentiate again a backward that keeps an input, any other it takes for a constant."""
    return gradient * scale


@fake("distance_cross_entropy_backward")
def _(gradient, scale, x):
    return torch.empty_like(gradient)


differentiable("distance_cross_entropy", _backward, _setup_context)
without_derivative(
    "distance_cross_entropy_backward",
    "distance_cross_entropy: expected at most one derivative in x, got a second: it has none",
)
