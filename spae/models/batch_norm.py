"""Batch norm that can be told, call by call, to leave the batch's statistics alone."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNorm(_BatchNorm):
    """torch's batch norm over [B, C, *shape] of any number of axes, with an `inference` argument.

    A tokenizer's `encode` must give the same words whatever mode a parent module's `.train()` has put the
    norm into. An argument says so for this call alone; switching `training` off and on again would race with
    other threads and would not trace.

    `.half()`, `.to(dtype)` and the like leave its statistics float32, as mixed precision needs them.
    """

    def forward(self, input: Tensor, *, inference: bool = False) -> Tensor:
        """inference: normalise by the running statistics, which stay as they are, in either mode."""
        if not inference:
            return super().forward(input)
        self._check_input_dim(input)
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchNorm:
        return super()._apply(same_dtype(fn), recurse)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input: expected [B, C, *shape], got {list(input.shape)}")


def same_dtype(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`fn`, of `nn.Module._apply`, without what it does to dtypes: values are moved, not rounded."""

    def moved(tensor: Tensor) -> Tensor:
        result = fn(tensor)
        return result if result.dtype == tensor.dtype else tensor.to(result.device)

    return moved
