"""A quantizer of your own, property-tested with what breaks quantizers.

`spae.testing.strategies` draws ties, duplicated codes, huge and tiny norms, common means, half precision and
odd sizes, and shrinks what fails to the smallest case; `spae.testing.oracles` says what is right, in float64.

    pytest examples/own_quantizer.py
"""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from torch import Tensor

from spae.testing import oracles, strategies
from spae.testing.strategies import Lookup
from spae_ops import CodeIndex, Pyramid, pyramid_quantize


def fast_lookup(x: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
    """The usual |c|^2 - 2 x.c in float32: x [N, D], codes [K, D] -> int64 [N]. What is lost to rounding where
    norms are large is more than the distance between codes: the properties below do not hold for it."""
    scores = codes.float().square().sum(1) - 2 * x.float() @ codes.float().T
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.inf)
    return scores.argmin(1)


def own_lookup(x: Tensor, codes: Tensor, mask: Tensor | None = None, block: int = 64) -> Tensor:
    """Nearest codes by differences in float64, a block of codes at a time: x [N, D], codes [K, D] -> int64
    [N]. Memory is N x block x D, whatever K; of equal distances the lowest id stays."""
    rows = torch.arange(len(codes)) if mask is None else mask.nonzero()[:, 0]
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    ids = torch.zeros(len(x), dtype=torch.int64)
    for start in range(0, len(rows), block):
        chosen = rows[start : start + block]
        difference = x.double()[:, None] - codes[chosen].double()
        distance, place = difference.square().sum(-1).min(1)
        closer = distance < best
        best, ids = torch.where(closer, distance, best), torch.where(closer, chosen[place], ids)
    return ids


def check_nearest(lookup, problem: Lookup) -> None:
    """No code that may be chosen is nearer than the one that is, up to the last bits of float64."""
    ids = lookup(problem.x, problem.codes, problem.mask)
    assert ids.shape == (len(problem.x),)
    assert problem.mask is None or problem.mask[ids].all()
    distances = oracles.squared_distances(problem.x, problem.codes)
    own = np.take_along_axis(distances, ids.numpy()[:, None], 1)[:, 0]
    if problem.mask is not None:
        distances[:, ~problem.mask.numpy()] = np.inf
    assert (own <= distances.min(1, initial=np.inf) * (1 + 1e-12)).all()


@settings(deadline=None)
@given(strategies.lookups())
def test_own_lookup_finds_the_nearest(problem: Lookup) -> None:
    check_nearest(own_lookup, problem)


@settings(deadline=None)
@given(strategies.codebooks(max_codes=100))
def test_a_code_is_nearest_to_itself(codes: Tensor) -> None:
    ids = own_lookup(codes, codes)
    assert codes[ids].equal(codes)
    assert (ids <= torch.arange(len(codes))).all()  # of duplicates the first


@settings(max_examples=20, deadline=None)
@given(strategies.pyramids(max_ndim=2, max_layers=3), strategies.codebooks(max_codes=40, widths=(1, 7)))
def test_one_layer_of_a_pyramid_is_a_lookup(pyramid: Pyramid, codes: Tensor) -> None:
    """The library's pyramid against the lookup above, on latents that are codes."""
    top = pyramid.upto(1)
    z = codes[torch.arange(pyramid.depth().numel()) % len(codes)].T.reshape(1, -1, *pyramid.shape)
    ids = pyramid_quantize(z.contiguous(), CodeIndex(codes), top).ids[0]
    queries = z[0].flatten(1).T[top.flat_positions(0)]
    assert ids.equal(own_lookup(queries, codes))
