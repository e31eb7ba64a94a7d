"""Distance cross-entropies: x [N, D], target [N] -> loss [N], or also the gradient of their sum [N, D]."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import Call, Contestant, needs, our_names, our_unavailable

if TYPE_CHECKING:
    from spae_ops import Impl

LIMIT = (
    4 << 30
)  # bytes of an [N, K] matrix of scores beyond which the materialising peers go by chunks of rows
_OP = "distance_cross_entropy"


def ours(device: str) -> list[Contestant]:
    names = our_names(_OP)
    return [
        Contestant(f"spae_ops {name}", "ours", device, _prepare(name), our_unavailable(_OP, name, device))
        for name in names
    ]


def _prepare(name: Impl) -> Callable[[Any], Call]:
    def prepare(codes: Any) -> Call:
        from spae_ops import CodeIndex, distance_cross_entropy

        index = CodeIndex(codes)

        def loss(x: Any, target: Any, temperature: float) -> Any:
            return distance_cross_entropy(
                x, index, target, temperature=temperature, reduction="none", impl=name
            )

        return _with_gradient(loss)

    return prepare


def peers(device: str) -> list[Contestant]:
    here = needs(device)
    rows = [
        Contestant("torch addmm", "peer", device, _addmm, here),
        Contestant("torch cdist", "peer", device, _cdist, here),
    ]
    cut = needs(device, "cut_cross_entropy", "triton")
    if device == "cuda":
        rows += [
            Contestant("cut-cross-entropy", "peer", device, lambda codes: _cut(codes, "cce"), cut),
            Contestant(
                "cut-cross-entropy exact", "peer", device, lambda codes: _cut(codes, "cce_exact"), cut
            ),
        ]
    compiled = "cut-cross-entropy torch_compile"
    return [*rows, Contestant(compiled, "peer", device, lambda codes: _cut(codes, "torch_compile"), cut)]


def _with_gradient(loss: Callable[..., Any]) -> Call:
    """The call that a contest times, from a function of x, target and temperature that autograd follows."""
    import torch

    def call(x: Any, target: Any, *, temperature: float, gradient: bool) -> Any:
        if not gradient:
            return loss(x, target, temperature)
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            values = loss(x, target, temperature)
            return values.detach(), *torch.autograd.grad(values.sum(), x)

    return call


def _in_chunks(loss: Callable[..., Any], codes: Any, most: int | None = None) -> Call:
    """By as many rows as keep the scores within LIMIT, or `most`, each with its own backward, as its users
    would."""
    import torch

    call = _with_gradient(loss)
    size = most or max(1, LIMIT // (4 * len(codes)))

    def chunked(x: Any, target: Any, *, temperature: float, gradient: bool) -> Any:
        if len(x) <= size:
            return call(x, target, temperature=temperature, gradient=gradient)
        parts = [
            call(q, y, temperature=temperature, gradient=gradient)
            for q, y in zip(x.split(size), target.split(size), strict=True)
        ]
        return tuple(map(torch.cat, zip(*parts, strict=True))) if gradient else torch.cat(parts)

    return chunked


def _addmm(codes: Any) -> Call:
    """All scores in one matrix, -(|c|^2 - 2 <x, c>) / temperature (|x|^2 is the same for all)."""
    import torch

    columns, squares = codes.T, codes.float().square().sum(1).to(codes.dtype)

    def loss(x: Any, target: Any, temperature: float) -> Any:
        scores = torch.addmm(squares, x, columns, beta=-1 / temperature, alpha=2 / temperature)
        return torch.nn.functional.cross_entropy(scores, target, reduction="none")

    return _in_chunks(loss, codes)


def _cdist(codes: Any) -> Call:
    import torch

    def loss(x: Any, target: Any, temperature: float) -> Any:
        scores = torch.cdist(x, codes).square() / -temperature
        return torch.nn.functional.cross_entropy(scores, target, reduction="none")

    return _in_chunks(loss, codes)


def _cut(codes: Any, impl: str) -> Call:
    """Logits <2 x / temperature, c> - |c|^2 / temperature. It has no bias: -|c|^2 goes into further columns
    of the classifier (three that add up to it, so that 16 bits are enough), opposite columns of the inputs
    that hold 1 / temperature. Nothing is filtered, for the sake of the gradient."""
    import torch
    from cut_cross_entropy import LinearCrossEntropyImpl, linear_cross_entropy

    if impl.upper() not in LinearCrossEntropyImpl.__members__:
        raise ValueError(f"the installed cut-cross-entropy has no {impl}")

    bias = -codes.double().square().sum(1)
    columns = codes.new_zeros(len(codes), 8 + -codes.shape[1] % 8)  # to a multiple of 8
    for column in range(3):
        columns[:, column] = bias.to(codes.dtype)
        bias = bias - columns[:, column].double()
    classifier = torch.cat([codes, columns], 1)

    def loss(x: Any, target: Any, temperature: float) -> Any:
        ones = x.new_zeros(columns.shape[1])
        ones[:3] = 1
        inputs = torch.cat([2 * x, ones.expand(len(x), -1)], 1) / temperature
        return linear_cross_entropy(inputs, classifier, target, reduction="none", filter_eps=None, impl=impl)

    return _with_gradient(loss)
