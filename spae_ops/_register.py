"""Registration of the ops with torch, with their schemas written out.

As `torch.library.custom_op` does it, a tenth as slowly, and without loading torch's compiler, a second of
work, at the first call.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("spae_ops", "FRAGMENT")
READS_VALUES = (torch.Tag.cudagraph_unsafe,)  # on the host, to check them: no CUDA graph can hold that


def op(
    name: str, arguments: str, result: str = "Tensor", tags: tuple[torch.Tag, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as `torch.ops.spae_ops.<name>` on every device.

    It returns new tensors and changes none. One that returns values of tensors needs `differentiable` or
    `without_derivative`: torch only warns of a backward through any other.
    """

    def register(body: Callable[..., Any]) -> Callable[..., Any]:
        _LIBRARY.define(f"{name}({arguments}) -> {result}", tags=(torch.Tag.pt2_compliant_tag, *tags))
        _LIBRARY.impl(name, _untraced(body), "CompositeExplicitAutograd")
        return body

    return register


def _untraced(body: Callable[..., Any]) -> Callable[..., Any]:
    """The function, kept from torch.compile, which would follow a call of the op from code that it skips into
    the body, and break its graph at every value that is read there."""
    hidden: list[Callable[..., Any]] = []

    @functools.wraps(body)
    def kernel(*args):
        if "torch._dynamo" not in sys.modules:  # nothing is compiled; loading it takes a second
            return body(*args)
        if not hidden:
            hidden.append(torch.compiler.disable(body))
        return hidden[0](*args)

    return kernel


def fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers what tells torch.compile the shapes and dtypes of an op's results."""
    return torch.library.register_fake(f"spae_ops::{name}", lib=_LIBRARY)


def differentiable(name: str, backward: Callable[..., Any], setup: Callable[..., None] | None = None) -> None:
    """Registers an op's derivative, as `torch.library.register_autograd` says."""
    torch.library.register_autograd(f"spae_ops::{name}", backward, setup_context=setup, lib=_LIBRARY)


def without_derivative(name: str, message: str) -> None:
    """Registers that a backward through an op is an error, with this message, rather than a warning."""

    def backward(ctx, *gradients):
        raise RuntimeError(message)

    differentiable(name, backward)
