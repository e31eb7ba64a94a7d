"""Derivatives that an op does not have: asking for one is an error, where autograd would answer zero."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def refuse_forward_mode(name: str, value: Tensor, op: str) -> None:
    """Raises NotImplementedError if `value` carries a tangent: registered ops drop it without a word."""
    if forward_ad.unpack_dual(value).tangent is not None:
        raise NotImplementedError(
            f"{name}: expected a tensor without a forward-mode tangent, got one with: {op} has "
            "derivatives in reverse mode only"
        )


def once(gradient: Tensor, x: Tensor, op: str) -> Tensor:
    """`gradient` of `op` in x, such that differentiating it in x raises RuntimeError.

    `torch.autograd.function.once_differentiable` only does so if the incoming gradient is tracked too.
    """
    return _Once.apply(gradient, x, op)


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, x: Tensor, op: str) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.op = inputs[2]

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(f"{ctx.op}: expected at most one derivative in x, got a second: it has none")
