"""Inputs that need the constants of the CPU bound: without one, a code is missed or what was prepared breaks its word.

The proof, and what N, A, B, E_q and the other names stand for, is in `csrc/nearest_code/cpu/nearest_code.h`; that each
test fails without its constant is what `make mutants` shows.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spae.testing import int8, oracles
from spae_ops import _extension
from spae_ops.lookup import cpu

if _extension.reason() is not None:
    pytest.skip(f"needs the compiled operators: {_extension.reason()}", allow_module_level=True)

U = 2.0**-24
TAIL_RATIO = 2.0**-4  # r


@pytest.fixture(params=_extension.load().instruction_sets())
def isa(request, monkeypatch):
    monkeypatch.setenv("SPAE_ISA", request.param)
    return request.param


@pytest.fixture(params=["fp32", "int8", "pruned"])
def screen(request, monkeypatch):
    monkeypatch.setenv("SPAE_SCREEN", "fp32" if request.param == "fp32" else "int8")
    monkeypatch.setenv("SPAE_PRUNE", "on" if request.param == "pruned" else "off")
    return request.param


def check(x, codes, prepared=None, k=1):
    ids, _ = cpu.search(x, codes, cpu.prepare(codes) if prepared is None else prepared, None, k)
    np.testing.assert_array_equal(ids.numpy(), oracles.topk_codes(x, codes, k)[0])


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def signs(*shape, seed=0):
    """Codes around which no shift is worth having."""
    return gaussian(*shape, seed=seed).sign()


@pytest.mark.parametrize("width", [64, 1536])
def test_every_step_of_a_sum_loses_half_a_unit(isa, screen, width):
    """gamma_D: beside a first product of 1, each of the nearest code's is a bit less than half a unit in the last
    place and is lost; each of the runner-up's is a bit more and counts for a whole one."""
    small = 2.0**-12
    codes = signs(64, width)
    codes[[5, 40]] = small
    codes[5] *= 1 + 2.0**-23
    codes[40] *= 1 - U
    codes[[5, 40], 0] = 1
    x = torch.full((1, width), small)
    x[0, 0] = 1
    assert oracles.topk_codes(x, codes, 1)[0].item() == 40
    check(x, codes)


# Where most codes lie, so that it becomes the shift: a bit less than half a unit of queries near 2^10, and of codes near 1.
MEDIAN = -(2.0**-4 + 2.0**-14 - 9 * 2.0**-27)


def scored(x: np.ndarray, codes: np.ndarray, fused: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of pairs [.., 2], their scores, and v as the fp32 screen rounds it but with a slope A of gamma_D alone."""
    q, c = x.astype(np.float64) - MEDIAN, codes.astype(np.float64) - MEDIAN
    framed, stored = q.astype(np.float32), c.astype(np.float32)
    norm = (np.linalg.norm(c, axis=-1) * (1 + 2.0**-20)).astype(np.float32)
    slope = (2 * U / (1 - 2 * U) * np.linalg.norm(q, axis=-1) * (1 + 2.0**-20)).astype(np.float32)
    bias = (-0.5 * (c * c).sum(-1) + 3 * U * norm.astype(np.float64) ** 2).astype(np.float32)
    products = framed.astype(np.float64) * stored
    first = products[..., 0].astype(np.float32)
    second, raised = products[..., 1], slope.astype(np.float64) * norm
    if not fused:
        second, raised = second.astype(np.float32), raised.astype(np.float32)
    v = ((first + second).astype(np.float32) + raised).astype(np.float32) + bias
    return (q * c).sum(-1) - 0.5 * (c * c).sum(-1), v


@pytest.mark.parametrize("fused", [True, False])
def test_roundings_beside_those_of_the_sum(isa, screen, fused):
    """The 7u of A: query and code lose half a unit each when framed, and the score what it can; a code that is hardly
    farther loses nothing."""
    rng = np.random.default_rng(0)
    x = (2.0**10 * (1 + 1e-3 * rng.random((80_000, 2)))).astype(np.float32)
    codes = (1 + MEDIAN + 1e-3 * rng.random((80_000, 2))).astype(np.float32)
    score, v = scored(x, codes, fused)
    worst = np.flatnonzero((score - v) / np.spacing(v) > 1.02)[
        :20
    ]  # thresholds are rounded down, to a whole one
    steps = np.stack(np.meshgrid(*2 * [np.arange(-30, 31)]), -1).reshape(-1, 2)
    tried = 0
    for query, best in zip(x[worst], codes[worst], strict=True):
        near = best + steps.astype(np.float32) * np.spacing(best)
        (score, v), (own_score, own_v) = scored(query[None], near, fused), scored(query, best, fused)
        farther = (score < own_score) & (score > own_v + np.spacing(own_v)) & (v > own_v)
        if not farther.any():
            continue
        tried += 1
        table = np.concatenate([near[farther][:1], best[None], np.full((40, 2), MEDIAN, np.float32)])
        check(torch.from_numpy(query)[None], torch.from_numpy(table))
    assert tried >= 5


def test_norms_that_differ_by_less_than_a_unit(isa, screen):
    """B: the codes' biases lie just below -1/2, the best scores just above, where the unit is half of theirs."""
    codes = torch.nn.functional.normalize(gaussian(300, 8).double(), dim=1)
    codes = (codes * (1 + 2.0**-22)).float()
    x = torch.nn.functional.normalize(gaussian(500, 8, seed=1), dim=1)
    check(x * 2.0**-20, codes)


def test_distances_that_round(isa, screen):
    """e of E_q: beside large queries, codes tie or change places in float64, and the lowest id is the answer."""
    codes = gaussian(200, 5)
    for exponent in (32, 40, 50, 57):
        check(gaussian(30, 5, seed=exponent) * 2.0**exponent, codes)


def test_products_that_underflow(isa, screen):
    """2 (D + 4) h of E_q: one code is large, the others' products with the queries are around h, fp32's least."""
    codes = gaussian(200, 16) * 2.0**-75
    codes[0] = 1
    check(gaussian(100, 16, seed=1) * 2.0**-75, codes)


def exact_in_int8() -> torch.Tensor:
    """Codes [.., 64] that are integers times a step once rotated, the integers' sum times the step the same in all."""
    product, rows = 14_414_400, []  # of many divisors
    for step in range(1774, 8000):
        if product % step != 0:
            continue
        total = product // step
        integers = torch.full((64,), (total - 127) // 63, dtype=torch.float64)
        integers[0] = 127
        integers[1 : 1 + total - int(integers.sum())] += 1
        assert integers.max() == 127
        rows.append(step * integers @ torch.from_numpy(int8.rotation(64)).T)
    exact = torch.stack(rows)
    assert (exact.float() == exact).all()
    return exact.float()


def test_roundings_of_the_int8_scores(isa, screen):
    """A8: int8 gives these codes and queries without an error, so that what it covers is the scores' arithmetic.

    Products of two steps that round by nearly a unit in the last place of the scores, the nearest code's down.
    """
    if screen == "fp32":
        pytest.skip("is of the int8 screen")
    codes = exact_in_int8()
    count, size = codes.shape[0], codes[0, 0]
    codes = torch.cat([codes, signs(150, 64) * size / 8])
    prepared = cpu.prepare(codes)
    residuals = prepared.bounds.view(5, -1)[2]
    residuals[:count] = 0  # 2u N is for an error in framing, which these codes do not have
    x = torch.zeros(80, 64)
    for rows, levels in zip(x.split(40), (64, 127), strict=True):  # of the instruction sets
        exact = 8.0 * levels * torch.linspace(1.025, 1.05, 20_000).double()
        first = exact.float()
        lost = (exact - first) / exact
        rows[:, 0] = first[(lost >= 0) & (lost < 2.0**-29)][:40] * 2.0**32
    check(x, codes, prepared)


@pytest.mark.parametrize("width", [1, 17, 64, 256])
def test_what_was_prepared_keeps_its_word(width):
    """N, r_k, t_k and b_k against float64, for codes in which nothing is exact and codes in which all is."""
    codes = torch.cat([gaussian(40, width) * 10.0 ** torch.linspace(-3, 0, 40)[:, None], signs(70, width)])
    codes[:20] += 1.5
    codes = torch.cat([codes, -codes])
    count = len(codes)
    panels, panels8, bounds, frame = cpu.prepare(codes)
    bias, norms, residuals, steps, tails = bounds.double().view(5, -1)[:, :count]
    assert not frame[:-1].any()
    framed = codes.double() * frame[-1]
    stored = panels.transpose(2, 3).reshape(-1, width)[:count].double()
    assert (stored == framed).all()
    integers = panels8.permute(0, 1, 3, 2, 4).reshape(32 * len(panels8), -1)[:count].double() - 128
    rounded = integers[:, :width] * steps[:, None]
    assert not integers[:, width:].any()
    exact = framed.norm(dim=1)
    assert (norms >= exact).all()
    assert (norms >= rounded.norm(dim=1)).all()
    assert (norms <= 1.01 * exact).all()
    rotated = framed @ torch.from_numpy(int8.rotation(width))
    assert (residuals >= (rotated - rounded).norm(dim=1) + 2 * U * exact).all()
    assert (bias + 0.5 * exact**2 - 3 * U * norms**2).abs().le(0.6 * U * norms**2).all()
    prefix = min(width, ((width + 3) // 4 + 4) // 5 * 4)
    head, ints, error = rotated[:, :prefix], rounded[:, :prefix], (rotated - rounded)[:, :prefix]
    larger = torch.maximum(head.norm(dim=1), ints.norm(dim=1))
    parts = [rotated[:, prefix:].norm(dim=1), error.norm(dim=1) / TAIL_RATIO, TAIL_RATIO * larger]
    measured = torch.maximum(torch.stack(parts).norm(dim=0), TAIL_RATIO * norms)
    assert (tails >= measured * (1 + 2.0**-11)).all()
    assert (tails <= measured * (1 + 2.0**-10)).all()
