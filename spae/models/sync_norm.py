"""Statistics over the batch of all processes, on any device."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from spae.models.batch_norm import BatchNorm

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class SynchronisedBatchNorm(BatchNorm):
    """Batch norm whose training statistics are those of every process's batch together.

    Unlike `torch.nn.SyncBatchNorm`, which needs CUDA, it works wherever `all_reduce` does, gloo included. The
    moments are combined in float64. One `all_reduce` forward and one backward; without a process group it is
    an ordinary batch norm.

    Shapes: [B, C, *shape] of any number of axes; B may differ between processes.
    """

    def forward(self, input: Tensor, *, inference: bool = False) -> Tensor:
        alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        if alone or inference or not (self.training or self.running_mean is None):
            return super().forward(input, inference=inference)
        self._check_input_dim(input)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        own_var, own_mean = torch.var_mean(input.float(), axes, correction=0)
        own_var, own_mean = own_var.double(), own_mean.double()
        own_count = own_mean.new_full((1,), input.numel() // input.shape[1])
        own_sums = torch.cat([own_count, own_count * own_mean, own_count * (own_var + own_mean**2)])
        sums: Tensor = _SumOverProcesses.apply(own_sums)  # pyright: ignore[reportAssignmentType]
        count, total, squares = sums[:1], *sums[1:].chunk(2)
        mean = total / count
        var = squares / count - mean**2
        self._track(count.detach(), mean.detach(), var.detach())
        shape = [1, -1] + [1] * (input.ndim - 2)
        scale = (var + self.eps).rsqrt().float().reshape(shape)
        output = (input.float() - mean.float().reshape(shape)) * scale
        if self.affine:
            output = output * self.weight.reshape(shape) + self.bias.reshape(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _track(self, count: Tensor, mean: Tensor, var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), momentum)


class _SumOverProcesses(torch.autograd.Function):
    """all_reduce, whose gradient is the sum of every process's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total


def synchronise(module: AnyModule) -> AnyModule:
    """Make every batch norm in `module` a `SynchronisedBatchNorm`, in place; returns `module`.

    Modules with an attribute `synchronised`, such as a learned codebook, get it set. Parameters, buffers and
    names in the state dict stay the same. The forward pass in training then holds collectives, so every
    process must run it.
    """
    for child in module.modules():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | BatchNorm):
            child.__class__ = SynchronisedBatchNorm  # pyright: ignore[reportAttributeAccessIssue]
        elif hasattr(child, "synchronised"):
            child.synchronised = True  # pyright: ignore[reportArgumentType]
    return module
