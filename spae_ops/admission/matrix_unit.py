"""A probe of the matrix unit, through the kernels' own `screen`, against what their proof assumes of it.

`lookup/tensor_cores.py` bounds the error of an accumulated product <r Q', C'> by G |Q'| |C'|, with
G = W 2^-22, after experiments in which it is three to six times smaller. `probe` measures it where it is
largest: one product far beyond the others, at positions all over the row, and the others, of both signs, just
below what a unit keeps that cuts 21 to 28 bits below the largest term. More than half of the bound is a
failure. The bias takes the exact product off again, so that the score that `screen` leaves is the error, the
largest of a tile's 128 codes, with the code's number in its low bits. Every pattern comes with its negative,
so that errors of both signs show.

A probe that could not fail would say nothing. `control_fails` is the negative control: a lookup that is
answered wrongly without the term G, because the products of one code's small elements are lost. Where it is
answered rightly although the errors measured are large enough for that, the examination is void, and the
verdict "unknown". A unit that adds so exactly that no answer needs G passes: its errors have been measured.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from spae_ops.admission.problems import Problem, answer, randn
from spae_ops.admission.wrong import Wrong
from spae_ops.lookup import tensor_cores
from spae_ops.lookup.tensor_cores import TILE, Index, Kernels

LARGE = 2.0**14
SMALL = 2.0**4
JUST_BELOW = 1 - 2.0**-11
MOST = 0.5  # of the bound
CONTROL_CUTS = (23, 24, 25)


class _Group(NamedTuple):
    """A query [W] and the codes [128, W] of a tile that meet it. exact: products must come out exactly."""

    name: str
    query: Tensor
    codes: Tensor
    exact: bool = False


def probe(kernels: Kernels, device: torch.device, width: int) -> float:
    """The largest error found, in units of the bound G |Q'| |C'|.

    Raises:
        Wrong: it is more than MOST, products of two values are not exact, or rows differ that are alike.
    """
    groups = _groups(width)
    largest = 0.0
    for rows in sorted({_rows(kernels, device, n) for n in (len(groups), 2 * TILE)}):
        largest = max(largest, _measure(kernels, device, groups, rows))
    return largest


def _rows(kernels: Kernels, device: torch.device, number: int) -> int:
    block = kernels.row_block(device, number)
    return -(-number // block) * block


def _measure(kernels: Kernels, device: torch.device, groups: list[_Group], rows: int) -> float:
    queries, table = torch.stack([g.query for g in groups]), torch.stack([g.codes for g in groups])
    exact = torch.einsum("tw,tcw->tc", queries, table)
    bias = -exact.float()
    scores = torch.empty(2, len(groups), rows, device=device)
    index = _index(table.flatten(0, 1).half(), bias.flatten(), device)
    group_of_row = torch.arange(rows) % len(groups)
    with tensor_cores.on_device(scores):
        inverse = torch.ones(rows, device=device)
        kernels.screen(queries[group_of_row].half().to(device), index, inverse, scores)
    first = scores[0].cpu()
    largest = 0.0
    for number, group in enumerate(groups):
        found = first[number, group_of_row == number]
        if not (found.isfinite().all() and (found == found[0]).all()):
            raise Wrong(f"matrix unit, {group.name}: equal rows have the scores {found.tolist()[:8]}")
        code = int(found[:1].view(torch.int32)) & (TILE - 1)
        error = float(found[0].double() - bias[number, code].double() - exact[number, code])
        if group.exact and abs(error) > 2.0**-126:
            raise Wrong(f"matrix unit, {group.name}: the product of code {code} is off by {error:.3g}")
        bound = table.shape[2] * 2.0**-22 * group.query.norm() * group.codes.norm(dim=1)
        share = error / float(bound.min())
        if share > MOST:
            raise Wrong(
                f"matrix unit, {group.name}: an accumulated product is off by {share:.3f} of the bound that "
                f"the proof assumes, more than the {MOST} allowed"
            )
        largest = max(largest, share)
    return largest


def _index(table: Tensor, bias: Tensor, device: torch.device) -> Index:
    none = torch.empty(0, device=device)
    return Index(none, table.to(device), bias.to(device), none, none)


def _groups(width: int) -> list[_Group]:
    """float64 values of float16 patterns, for rows of `width`, a multiple of 64."""
    positions = (0, 1, 3, 7, 8, 15, 16, 31, 32, width // 2 + 5, width - 1)
    groups = [_beside(width, p) for p in dict.fromkeys(positions)]
    groups += [_cancelling(width, p) for p in (0, 5, width // 2 - 1)]
    return [*groups, _spread(width), _single(width)]


def _small(width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Small elements of 64 codes and signs to go with them, [64, W] and [64]: products with SMALL are up to
    2^-20 .. 2^-28 of LARGE^2, of one sign or both, a bit less than a power of two or one."""
    exponents = torch.arange(64) // 4 % 8 + 21
    size = 2.0 ** (28 - exponents).double() / SMALL
    size[:32] *= JUST_BELOW
    one = torch.ones(width, dtype=torch.float64)
    signs = torch.stack([one, -one, one.clone(), randn(width, seed=seed).sign().double()])
    signs[2, ::2] = -1
    return size[:, None] * signs[torch.arange(64) % 4], torch.tensor([1.0, -1.0]).double().repeat(32)


def _beside(width: int, position: int) -> _Group:
    """One large product, the others just below a cut."""
    query = torch.full((width,), SMALL, dtype=torch.float64)
    query[position] = LARGE
    codes, _ = _small(width, position)
    codes[:, position] = LARGE
    return _Group(f"a large product at {position}", query, torch.cat([codes, -codes]))


def _cancelling(width: int, position: int) -> _Group:
    """Two large products whose sum is zero, half a row apart, the others just below a cut."""
    query = torch.full((width,), SMALL, dtype=torch.float64)
    codes, sign = _small(width, position)
    for place, factor in ((position, 1.0), (position + width // 2, -1.0)):
        query[place] = LARGE
        codes[:, place] = factor * sign * LARGE
    return _Group(f"large products at {position} that cancel", query, torch.cat([codes, -codes]))


def _spread(width: int) -> _Group:
    """Elements over all of float16's normal numbers."""
    generator = torch.Generator().manual_seed(width)
    values = randn(65, width, seed=width).sign().double()
    values *= 2.0 ** torch.randint(-14, 15, (65, width), generator=generator)
    values *= 1 + torch.randint(0, 1024, (65, width), generator=generator) / 1024
    values[1:, 0] = LARGE  # codes of about one norm
    return _Group("elements of all exponents", values[0], torch.cat([values[1:], -values[1:]]))


def _single(width: int) -> _Group:
    """Rows with one product each, which must be exact; the least normal numbers are among them."""
    generator = torch.Generator().manual_seed(width + 1)
    query = 1 + torch.randint(0, 1024, (width,), generator=generator).double() / 1024
    query *= 2.0 ** torch.randint(-14, 15, (width,), generator=generator)
    position = torch.arange(64) * width // 64
    codes = torch.zeros(64, width, dtype=torch.float64)
    values = 1 + torch.randint(0, 1024, (64,), generator=generator) / 1024
    codes[torch.arange(64), position] = values.double() * 2.0 ** (torch.arange(64) % 29 - 14)
    return _Group("single products", query, torch.cat([codes, -codes]), exact=True)


def worst_case(dtype: torch.dtype, width: int) -> Problem:
    """A lookup whose answers hang on products that matrix units lose: right with the term G, wrong without.

    Query i and codes a_i, b_i share a large element at i, half as large in the query, so that both scores are
    about zero. a_i has small elements, whose products are all just below 2^-cut of the large one, b_i one
    medium element, whose product is kept and is a little less than the sum of the small ones.
    """
    cuts = len(CONTROL_CUTS)
    x = torch.full((cuts, width), SMALL * 8, dtype=torch.float64)
    a, b = torch.zeros(2, cuts, width, dtype=torch.float64)
    x[:, :cuts], x[:, cuts] = 0, LARGE / 8
    for i, cut in enumerate(CONTROL_CUTS):
        x[i, i] = LARGE / 2
        a[i, i] = b[i, i] = LARGE
        a[i, cuts + 1 :] = LARGE * LARGE / 2 * 2.0**-cut / (SMALL * 8) * (1 - 2.0**-8)
        whole = float(a[i, cuts + 1 :] @ x[i, cuts + 1 :])
        medium = torch.tensor(0.98 * whole / (LARGE / 8)).bfloat16()  # in a format that every dtype holds
        b[i, cuts] = medium
    fillers = randn(TILE, width, seed=51).sign().double() * 512  # whose median is no shift worth having
    fillers[:, : cuts + 1] = 0
    return Problem("the matrix unit at its worst", x.float(), torch.cat([fillers, a, b]).to(dtype))


def control_fails(implementation: Any, device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether `worst_case` is answered wrongly by tables whose bounds lack G. width: a multiple of 64."""
    problem = worst_case(dtype, width)
    codes = problem.codes.to(device)
    prepared = implementation.prepare(codes)
    bounds = prepared.bounds.double()
    bounds[0] -= width * 2.0**-22 * bounds[1]
    prepared = prepared._replace(bounds=bounds.float())
    ids, _ = implementation.search(problem.x.to(device), codes, prepared, None, 1)
    return not torch.equal(ids.cpu(), answer(problem)[0])


def control_needs(width: int) -> float:
    """The error, in units of the bound, from which on `control_fails` must be true: what the other terms of
    the bound, 4 u N_q N_k + 3 u N_k^2 on either side, can cover, with a fifth more for roundings."""
    return 1.2 * 5 / width
