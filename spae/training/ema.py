"""Exponential moving average of the trainable parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ParameterEMA:
    """Averages of the parameters that require a gradient.

    Every update makes them decay * average + (1 - decay) * parameter. Unlike PyTorch's `AveragedModel` this
    copies no frozen weights (a codebook, a language model). Buffers stay the model's own: those that change,
    such as the statistics of BatchNorm, are averages already.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.parameters]
        self._average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now: call it after every optimizer step."""
        self._average(self.averages, self.parameters, None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside this context, and its own again after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            own = parameter.clone()
            parameter.copy_(average)
            average.copy_(own)

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self.averages}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for average, saved in zip(self.averages, state["averages"], strict=True):
            average.copy_(saved)
