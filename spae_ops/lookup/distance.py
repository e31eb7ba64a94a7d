"""The squared distance that decides every lookup, defined once, bit for bit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 32
_HALF, _KEEP = 1 << 26, -(1 << 27)


def squared_distance(q: Tensor, c: Tensor) -> Tensor:
    """Squared Euclidean distance of paired rows in float64, the same bits on every device.

    q, c: [P, D] fp32|fp16|bf16|fp64 holding fp32 values. Returns float64 [P].

    Per element t = q - c in float64, split as t = hi + lo with hi rounded to 26 significant bits. The
    products hi*hi, 2*hi*lo and lo*lo are exact in float64, so that a compiler's fused multiply-add cannot
    change a bit of t*t = hi*hi + 2*hi*lo + lo*lo. Element d goes to lane d mod 32, each lane adds its three
    products in ascending d, and the lanes are added as a binary tree (16, 8, 4, 2, 1): an order that a warp,
    a vector unit and NumPy can all keep.

    Differences, not |q|^2 - 2<q,c> + |c|^2: a query on the bisector of two codes, or on a lattice far from
    the origin, ties exactly here, as it should.
    """
    t = q.double() - c.double()
    t = F.pad(t, (0, -t.shape[1] % LANES)).unflatten(1, (-1, LANES))
    hi = ((t.view(torch.int64) + _HALF) & _KEEP).view(torch.float64)
    lo = t - hi
    lanes = t.new_zeros(t.shape[0], LANES)
    for block in range(t.shape[1]):
        h, l = hi[:, block], lo[:, block]  # noqa: E741
        lanes = lanes + h * h
        lanes = lanes + 2 * h * l
        lanes = lanes + l * l
    width = LANES // 2
    while width:
        lanes = lanes[:, :width] + lanes[:, width : 2 * width]
        width //= 2
    return lanes[:, 0]
