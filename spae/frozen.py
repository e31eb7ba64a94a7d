"""The one way to hold a frozen network or table: out of state dicts, parameters and buffers, on its owner's
device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Frozen(Generic[Network]):
    """A frozen network as an attribute that its owner, an nn.Module, does not see.

    It is too large to be saved, synchronised or copied by accident: it is in no state dict, no `parameters()`
    and no `buffers()`, stays in evaluation mode whatever `.train()` says, and deep copies of the owner share
    it. Pickle writes it. The owner calls `follow` in its `_apply`.
    """

    def __init__(self, network: Network) -> None:
        self.network = network.eval().requires_grad_(False)

    def follow(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Go to the device that `fn`, of `nn.Module._apply`, takes tensors to. Values and dtype stay.

        A copy goes: copies of the owner that share the network may stay where they are.
        """
        here = next(self.network.parameters()).device
        if (device := target_device(fn, here)) != here:
            self.network = copy.deepcopy(self.network).to(device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen[Network]:
        return copy.copy(self)


def target_device(fn: Callable[[Tensor], Tensor], device: torch.device) -> torch.device:
    """Where `fn`, of `nn.Module._apply`, takes tensors of a device.

    `fn` may change device and dtype at once, or fill with garbage (`to_empty`); an empty probe tells the
    device, which is all that frozen things follow.
    """
    return fn(torch.empty(0, device=device)).device
