"""The examination of a `CrossEntropy`: loss and gradient against the float64 definition, and determinism."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from spae_ops._checks import QUERY_DTYPES
from spae_ops.admission.problems import randn
from spae_ops.admission.wrong import Wrong
from spae_ops.cross_entropy import reference

REPEATS = 5


class Problem(NamedTuple):
    """x [N, D], codes [K, D], target int64 [N], on the CPU."""

    name: str
    x: Tensor
    codes: Tensor
    target: Tensor
    temperature: float


def examine(implementation: Any, device: torch.device, dtype: torch.dtype, width: int) -> str:
    """What was found of a `CrossEntropy` on `device`, for codes of `dtype` and `width`.

    Raises:
        Wrong: a loss or gradient is further off than it may be, or differs from run to run.
    """
    small, largest, count = device.type != "cuda", 0.0, 0
    top = -(-width // 64) * 64
    for each in (width,) if small else dict.fromkeys((width, top)):
        for problem in _problems(dtype, each, small):
            largest = max(largest, check(implementation, device, problem))
            count += len(problem.x)
    return f"{count} losses and gradients off by up to {largest:.2f} of what they may be"


def check(implementation: Any, device: torch.device, problem: Problem) -> float:
    """The largest error of loss and gradient, as a share of what is allowed.

    An error may be that of torch in float32 with the whole [N, K] matrix, and besides, to first order: 2^-22
    of a float32 result; 2^-21 of the largest product |q||c| / tau in a score, which moves weights by as much;
    with inputs of 16 bits, weights of 11 bits in the gradient.
    """
    name, x, codes, target, tau = problem
    loss, gradient, alone = _run(implementation, device, problem)
    expected, wanted = reference.loss_and_gradient(
        x, codes, reference.prepare(codes), target, tau, with_gradient=True
    )
    torch_loss, torch_gradient = _materialised(problem)
    norm = x.double().norm(dim=1) + codes.double().norm(dim=1).max()
    step = 2.0**-21 * norm.square() / tau
    room = (torch_loss - expected).abs().nan_to_num(0) + 2.0**-22 * (1 + expected) + step
    reach = torch.cdist(codes.double()[target], codes.double()).amax(1) * 2 / tau
    half = torch.float32 not in (x.dtype, codes.dtype)
    torch_error = (torch_gradient - wanted).norm(dim=1).nan_to_num(0)
    gradient_room = torch_error + reach * ((2.0**-10 if half else 2.0**-20) + step.clamp(max=2))
    measured = (
        ("losses", (loss - expected).abs(), room),
        ("losses without gradients", (alone - expected).abs(), room),
        ("gradients", (gradient - wanted).norm(dim=1), gradient_room),
    )
    largest = 0.0
    for what, error, allowed in measured:
        bad = ~(error <= allowed)  # of nan too
        if bad.any():
            row = int(bad.nonzero()[0])
            raise Wrong(
                f"{name}: {int(bad.sum())} of {len(x)} {what} are further off than they may be, row {row} "
                f"first, by {float(error[row]):.3g} where {float(allowed[row]):.3g} is allowed"
            )
        largest = max(largest, float((error / allowed.clamp(min=1e-30)).max()))
    return largest


def _run(implementation: Any, device: torch.device, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient, and the loss without a gradient, in float64 on the CPU; the same each time."""
    x, codes, target = (t.to(device) for t in problem[1:4])
    prepared = implementation.prepare(codes)
    arguments = x, codes, prepared, target, problem.temperature
    first = implementation.loss_and_gradient(*arguments, True)
    for _ in range(REPEATS - 1 if device.type == "cuda" else 1):
        for a, b in zip(first, implementation.loss_and_gradient(*arguments, True), strict=True):
            if not torch.equal(a, b):
                raise Wrong(f"{problem.name}: another run gives other bits")
    alone = implementation.loss_and_gradient(*arguments, False)[0]
    return first[0].double().cpu(), first[1].double().cpu(), alone.double().cpu()


def _materialised(problem: Problem) -> tuple[Tensor, Tensor]:
    """Loss and gradient by torch in float32, with all scores at once."""
    x, codes = problem.x.detach().float().requires_grad_(), problem.codes.float()
    with torch.enable_grad():
        scores = (2 * x @ codes.T - codes.square().sum(1)) / problem.temperature
        loss = torch.nn.functional.cross_entropy(scores, problem.target, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach().double(), gradient.double()


def _problems(dtype: torch.dtype, width: int, small: bool) -> list[Problem]:
    """Sizes around the tiles, duplicates of the target, losses from tiny to large, queries of every dtype."""
    sizes = (
        [(1, 1), (2, 127), (3, 129)]
        if small
        else [(1, 1), (16, 16), (3, 127), (64, 128), (70, 129), (130, 1000)]
    )
    found = []
    for n, k in sizes:
        codes, x = randn(k, width, seed=k).to(dtype), randn(n, width, seed=n + 5)
        target = torch.arange(n) * 7 % k
        found.append(Problem(f"{n} queries, {k} codes", x, codes, target, float(width)))
    codes, noise = randn(200, width, seed=71), randn(6, width, seed=72)
    target = torch.tensor([0, 1, 100, 127, 128, 199])
    near = codes[target] + 0.1 * noise
    for temperature in (width / 20, width * 5.0):
        found.append(
            Problem(f"near queries, temperature {temperature}", near, codes.to(dtype), target, temperature)
        )
    repeated = codes[torch.arange(200) % 50]
    found.append(Problem("duplicates", near, repeated.to(dtype), target, width / 4))
    for query in QUERY_DTYPES:
        name = f"{str(query).removeprefix('torch.')} queries"
        found.append(Problem(name, near.to(query), codes.to(dtype), target, float(width)))
    return found
