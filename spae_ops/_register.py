"""Registration of the ops with torch, with their schemas written out.

As `torch.library.custom_op` does it, a tenth as slowly: importing `spae_ops` registers nine ops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("spae_ops", "FRAGMENT")
READS_VALUES = (torch.Tag.cudagraph_unsafe,)  # on the host, to check them: no CUDA graph can hold that


def op(
    name: str, arguments: str, result: str = "Tensor", tags: tuple[torch.Tag, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as `torch.ops.spae_ops.<name>` on every device.

    It returns new tensors and changes none. If an input may require a gradient, `differentiable` is needed.
    """

    def register(body: Callable[..., Any]) -> Callable[..., Any]:
        _LIBRARY.define(f"{name}({arguments}) -> {result}", tags=(torch.Tag.pt2_compliant_tag, *tags))
        _LIBRARY.impl(name, body, "CompositeExplicitAutograd")
        return body

    return register


def fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers what tells torch.compile the shapes and dtypes of an op's results."""
    return torch.library.register_fake(f"spae_ops::{name}", lib=_LIBRARY)


def differentiable(name: str, backward: Callable[..., Any], setup: Callable[..., None] | None = None) -> None:
    """Registers an op's derivative, as `torch.library.register_autograd` says."""
    torch.library.register_autograd(f"spae_ops::{name}", backward, setup_context=setup, lib=_LIBRARY)
