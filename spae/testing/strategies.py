"""Hypothesis strategies for what breaks quantizers: ties, duplicates, huge and tiny norms, common means, odd
sizes.

Sizes, kinds and dtypes shrink; the values themselves come from a drawn seed, so that large inputs stay cheap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from spae_ops import Pyramid

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
KINDS = ("gaussian", "lattice", "duplicates", "decades", "common mean", "subnormal", "bisector")
# float16 ends at 65504 and 2^-24; kinds beyond that are drawn in the other dtypes.
_WIDE = ("decades", "subnormal")


class Lookup(NamedTuple):
    """x [N, D], codes [K, D], both fp32|fp16|bf16, and mask bool [K] with at least one True, or None."""

    x: Tensor
    codes: Tensor
    mask: Tensor | None


def dtypes() -> st.SearchStrategy[torch.dtype]:
    return st.sampled_from(DTYPES)


@st.composite
def pyramids(draw: st.DrawFn, *, max_ndim: int = 3, max_layers: int = 5) -> Pyramid:
    """Pyramids in 1 to 3 dimensions; layers in any order, which need not cover the latent grid."""
    ndim = draw(st.integers(1, max_ndim))
    shape = tuple(
        draw(st.sampled_from((1, 2, 3, 4, 6, 8) if ndim < 3 else (1, 2, 3, 4))) for _ in range(ndim)
    )
    divisors = [[d for d in range(1, size + 1) if size % d == 0] for size in shape]
    grid = st.tuples(*(st.sampled_from(choices) for choices in divisors))
    return Pyramid(shape, tuple(draw(st.lists(grid, min_size=1, max_size=max_layers))))


@st.composite
def codebooks(
    draw: st.DrawFn,
    *,
    max_codes: int = 300,
    widths: tuple[int, ...] = (1, 2, 7, 17, 32, 40, 64),
    kinds: tuple[str, ...] = KINDS,
) -> Tensor:
    """Codebooks [K, D] of one of KINDS."""
    kind = draw(st.sampled_from(kinds))
    dtype = draw(st.sampled_from(DTYPES if kind not in _WIDE else (torch.float32, torch.bfloat16)))
    size = draw(st.integers(1, max_codes)), draw(st.sampled_from(widths))
    return _values(kind, size, np.random.default_rng(draw(st.integers(0, 2**32 - 1)))).to(dtype)


@st.composite
def lookups(
    draw: st.DrawFn,
    *,
    max_queries: int = 40,
    max_codes: int = 300,
    widths: tuple[int, ...] = (1, 2, 7, 17, 32, 40, 64),
    kinds: tuple[str, ...] = KINDS,
    masks: bool = True,
) -> Lookup:
    """Lookup problems whose queries are hard for the codebook drawn: near codes, on them, or between two of
    them."""
    kind = draw(st.sampled_from(kinds))
    allowed = DTYPES if kind not in _WIDE else (torch.float32, torch.bfloat16)
    size = draw(st.integers(1, max_codes)), draw(st.sampled_from(widths))
    num_queries = draw(st.integers(0, max_queries))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = _values(kind, size, rng).to(draw(st.sampled_from(allowed)))
    x = _queries(kind, num_queries, codes.float(), rng).to(draw(st.sampled_from(allowed)))
    mask = None
    if masks and draw(st.booleans()):
        mask = torch.from_numpy(rng.random(len(codes)) < draw(st.sampled_from((0.0, 0.1, 0.5, 1.0))))
        mask[rng.integers(len(codes))] = True
    return Lookup(x, codes, mask)


@st.composite
def latents(draw: st.DrawFn, pyramid: Pyramid, codes: Tensor, *, max_batch: int = 3) -> Tensor:
    """Latents [B, D, *pyramid.shape] in the codebook's dtype: free, or averages of codes, where lookups
    tie."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(0, max_batch)), *pyramid.shape)
    count = int(np.prod(shape))
    if draw(st.booleans()):
        rows = rng.standard_normal((count, codes.shape[1])) * float(codes.float().std(correction=0) + 1e-3)
    else:
        rows = codes.double().numpy()[rng.integers(len(codes), size=(3, count))].mean(0)
    z = torch.from_numpy(rows).reshape(*shape, codes.shape[1]).movedim(-1, 1)
    return z.to(codes.dtype).contiguous()


def _values(kind: str, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    gaussian = rng.standard_normal(size)
    if kind == "lattice":
        values = rng.integers(-2, 3, size).astype(float)
    elif kind == "duplicates":
        values = gaussian[rng.integers(max(1, size[0] // 4), size=size[0])]
    elif kind == "decades":
        values = gaussian * 10 ** rng.uniform(-3, 3, (size[0], 1))
    elif kind == "common mean":
        values = gaussian + 1e4 * rng.standard_normal((1, size[1]))
    elif kind == "subnormal":
        values = gaussian * 2.0**-140
    else:
        values = gaussian
    return torch.from_numpy(values).float()


def _queries(kind: str, number: int, codes: Tensor, rng: np.random.Generator) -> Tensor:
    first, second = (codes[torch.from_numpy(rng.integers(len(codes), size=number))] for _ in range(2))
    noise = torch.from_numpy(rng.standard_normal(first.shape)).float() * codes.std(correction=0)
    if kind == "lattice":
        return torch.from_numpy(rng.integers(-4, 5, first.shape) / 2).float()
    if kind == "bisector":
        # As close to the plane between two codes as the format can say, and one step to either side of it.
        middle = ((first.double() + second.double()) / 2).float()
        steps = torch.from_numpy(rng.integers(-1, 2, first.shape))
        up, down = torch.full_like(middle, torch.inf), torch.full_like(middle, -torch.inf)
        return torch.where(
            steps > 0, middle.nextafter(up), torch.where(steps < 0, middle.nextafter(down), middle)
        )
    scale = torch.from_numpy(rng.choice([0.0, 0.1, 1.0], size=(number, 1))).float()
    return first + scale * noise
