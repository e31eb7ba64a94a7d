"""Inputs that need the constants of truncation's proof: without one, codes of S are missed or others are taken.

The proof is in `csrc/distance_cross_entropy/distance_cross_entropy.h`, and that of the scores, E_q and the rest in
`csrc/nearest_code/cpu/nearest_code.h`; that each test fails without its constant is what `make mutants` shows.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from spae.testing import int8, oracles
from spae_ops import _extension
from spae_ops.cross_entropy import cpu

if _extension.reason() is not None:
    pytest.skip(f"needs the compiled operators: {_extension.reason()}", allow_module_level=True)

PORTABLE = ("portable", "amx-emulated")  # no int8 screen that pays
INSTRUCTION_SETS = [name for name in _extension.load().instruction_sets() if name not in PORTABLE]
if not INSTRUCTION_SETS:
    pytest.skip("needs an instruction set with an int8 screen", allow_module_level=True)

NUM_CODES, WIDTH = 4200, 64  # as few as truncation is tried with
PREFIX, TAIL = (
    16,
    48,
)  # elements, once rotated: a prefix's scores see no difference between what is in the tail
TILE = 32
GAP = math.log(NUM_CODES) + 26 * math.log(2)


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request, monkeypatch):
    monkeypatch.setenv("SPAE_ISA", request.param)
    return request.param


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def from_tails(tails: Tensor) -> Tensor:
    """Rows [.., 64] in fp32, without rounding, that have these tails once rotated, and nothing before."""
    rotated = torch.cat([torch.zeros(*tails.shape[:-1], PREFIX), tails], -1).double()
    rows = rotated @ torch.from_numpy(int8.rotation(WIDTH)).T
    assert (rows.float() == rows).all()
    return rows.float()


def fillers(least: int, most: int, largest: int = 0) -> Tensor:
    """Tails [K, 48] of whole numbers; one of each is `largest`, unless that is 0."""
    random = torch.Generator().manual_seed(0)
    tails = torch.randint(least, most + 1, (NUM_CODES, TAIL), generator=random).float()
    if largest:
        place = torch.randint(TAIL, (NUM_CODES, 1), generator=random)
        tails.scatter_(1, place, float(largest))
    return tails


def with_sum(total: int) -> Tensor:
    """A tail [48] of 126 and ones, in all so much."""
    tail = torch.zeros(TAIL)
    tail[0] = 126
    tail[1 : 1 + total - 126] = 1
    return tail


def check(x: Tensor, codes: Tensor, target: int, temperature: float, gap: float = GAP) -> list[int]:
    """The row of x [1, D] is truncated to S, and its loss is that of S; returns S."""
    prepared, own = cpu.prepare(codes), torch.tensor([target])
    distance = oracles.squared_distances(x, codes)[0]
    others = np.delete(distance, target)
    nearest = others.min()
    kept = np.flatnonzero((distance - nearest) / temperature <= gap)
    kept = kept[kept != target]
    assert cpu.num_evaluated(x, codes, prepared, own, temperature).tolist() == [len(kept)]
    odds = math.log(np.exp((nearest - distance[kept]) / temperature).sum())
    odds += (distance[target] - nearest) / temperature
    loss, _ = cpu.loss_and_gradient(x, codes, prepared, own, temperature, False)
    assert loss.item() == pytest.approx(np.logaddexp(0, odds), rel=2**-23)
    return kept.tolist()


@pytest.mark.parametrize("mantissa", [0.25, 0.4375])
def test_rounding_codes_misleads_the_running_threshold(isa, mantissa):
    """The margin of lower_j: rounding a farther code loses what the query is made of, so that its score is ahead of its
    true one by twice its residual times the query's norm; the nearest code is exact."""
    size = 2.0**10
    tails = fillers(2, 5, largest=127)
    tails[3] = mantissa
    tails[3, 0] = 127
    total = 127 + mantissa * (TAIL - 1)
    tails[TILE] = with_sum(int(total) - 1)
    x = from_tails(torch.full((1, TAIL), -size))
    kept = check(x, from_tails(tails), NUM_CODES - 1, 2 * 0.25 * size / GAP)
    assert kept == [TILE]


def test_the_target_sets_no_running_threshold(isa):
    """S is of the other codes, however far ahead of them the target is."""
    size = 2.0**10
    tails = fillers(2, 5, largest=127)
    tails[3], tails[TILE] = with_sum(127), with_sum(160)
    x = from_tails(torch.full((1, TAIL), -size))
    assert check(x, from_tails(tails), 3, 2 * size / GAP) == [TILE]


def test_running_thresholds_leave_room_for_the_cut(isa):
    """s^2 tau G / 2: codes of S in tiles of their own, after the nearest's."""
    size = 2.0**10
    tails = fillers(2, 5, largest=127)
    for tile in range(12):
        tails[TILE * tile] = with_sum(127 + tile)
    x = from_tails(torch.full((1, TAIL), -size))
    assert len(check(x, from_tails(tails), NUM_CODES - 1, 2 * 6.5 * size / GAP)) == 7


def test_distances_that_round(isa):
    """E_q, twice, in running thresholds: beside a large query, scores that differ are distances that tie."""
    size = 2.0**50
    tails = fillers(80, 120)
    for tile in range(8):
        tails[TILE * tile] = with_sum(127 + tile)
    x = from_tails(torch.full((1, TAIL), -size))
    assert len(check(x, from_tails(tails), NUM_CODES - 1, 2.0**40)) > 1


def test_squares_that_round(isa, monkeypatch):
    """The roundings of |Q|^2 in evaluated thresholds: a thousand equal squares, each of which rounds the sum up."""
    monkeypatch.setenv("SPAE_TRUNCATE", "on")
    width, candidates = 1024, (1 + gaussian(400).abs() / 8).double().numpy()
    excess = []
    for value in candidates**2:
        total = 0.0
        for _ in range(width):
            total += value
        excess.append((total - width * value) / total)
    x = torch.full((1, width), float(candidates[int(np.argmax(excess))]) * 2.0**50)
    assert max(excess) > 150 * 2.0**-53  # E_q covers 105
    codes = gaussian(200, width)
    gap = math.log(len(codes)) + 26 * math.log(2)
    assert check(x, codes, 7, 2.0**40, gap)


def test_rows_beyond_the_range_are_not_screened(isa, monkeypatch):
    monkeypatch.setenv("SPAE_TRUNCATE", "on")
    codes = gaussian(300, WIDTH) * 2.0**-40
    x, target = torch.full((1, WIDTH), 3e38), torch.tensor([5])
    prepared = cpu.prepare(codes)
    assert cpu.num_evaluated(x, codes, prepared, target, 1e70).tolist() == [-1]
    loss, _ = cpu.loss_and_gradient(x, codes, prepared, target, 1e70, False)
    assert loss.item() == pytest.approx(oracles.distance_cross_entropy(x, codes, target, 1e70)[0], rel=1e-6)


def test_codes_are_summed_in_the_order_of_ids(isa, monkeypatch):
    """Three codes at the same distance, of which the first takes the second's part of the gradient and the third gives
    back the first's; the last's tile is looked at first, for the nearest code is in it."""
    monkeypatch.setenv("SPAE_TRUNCATE", "on")
    large = 2.0**60
    codes = torch.tensor([0.0, 4 * large, 0.0, 0.0]).repeat(96, 1)
    first, second, third, nearest = 5, TILE + 5, 2 * TILE + 5, 2 * TILE + 6
    codes[first] = torch.tensor([large, 0, 0, 0])
    codes[second] = torch.tensor([1, large, 0, 0])
    codes[third] = torch.tensor([-large, 0, 0, 0])
    codes[nearest] = torch.tensor([0, large * (1 - 2.0**-10), 0, 0])
    x, target, temperature = torch.zeros(1, 4), torch.tensor([TILE]), large**2 * 2.0**-5
    assert (oracles.squared_distances(x, codes[[first, second, third]]) == large**2).all()
    prepared = cpu.prepare(codes)
    assert cpu.num_evaluated(x, codes, prepared, target, temperature).tolist() == [4]
    _, gradient = cpu.loss_and_gradient(x, codes, prepared, target, temperature, True)
    assert gradient[0, 0] == 0
    assert gradient[0, 1] != 0
