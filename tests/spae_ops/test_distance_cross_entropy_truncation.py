"""Truncated rows of the compiled distance cross-entropy: S of csrc/distance_cross_entropy/distance_cross_entropy.h."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from spae_ops import _extension, squared_distance
from spae_ops.cross_entropy import cpu, reference

if _extension.reason() is not None:
    pytest.skip(f"needs the compiled operators: {_extension.reason()}", allow_module_level=True)

# Those whose int8 screen pays; tiles among them, emulated where there are none.
PORTABLE = ("portable", "amx-emulated")
INSTRUCTION_SETS = [name for name in _extension.load().instruction_sets() if name not in PORTABLE]
if not INSTRUCTION_SETS:
    pytest.skip("needs an instruction set with an int8 screen", allow_module_level=True)

NUM_CODES, WIDTH = 4200, 200
BITS = 26
NOTHING = reference.Prepared()


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request, monkeypatch):
    monkeypatch.setenv("SPAE_ISA", request.param)
    return request.param


@pytest.fixture
def truncate(monkeypatch):
    def choose(way: str) -> None:
        monkeypatch.setenv("SPAE_TRUNCATE", way)

    return choose


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def targets(count, num_codes, seed=2):
    return torch.randint(num_codes, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def table():
    codes = gaussian(NUM_CODES, WIDTH)
    return codes, cpu.prepare(codes)


def queries(codes, count, *, near, seed=1):
    chosen = codes[targets(count, len(codes), seed=seed)]
    return chosen * near + gaussian(count, codes.shape[1], seed=seed) * (0.3 if near else 1.0)


def cut(num_codes):
    return math.log(num_codes) + BITS * math.log(2)


def in_the_cut(x, codes, target, temperature) -> Tensor:
    """How many codes S has, int64 [N], by the definition."""
    sizes = []
    for row, y in zip(x, target.tolist(), strict=True):
        distance = squared_distance(row.expand_as(codes).double(), codes.double())
        others = torch.cat([distance[:y], distance[y + 1 :]])
        sizes.append(int(((others - others.min()) / temperature <= cut(len(codes))).sum()))
    return torch.tensor(sizes)


def check(x, codes, prepared, target, temperature):
    """Losses and gradients within what leaving codes out and rounding to fp32 may take, of a few truncated rows."""
    evaluated = cpu.num_evaluated(x, codes, prepared, target, temperature)
    some = (evaluated >= 0).nonzero()[:6, 0]
    found = cpu.loss_and_gradient(x, codes, prepared, target, temperature, True)
    loss, gradient, x, target = (values[some] for values in (*found, x, target))
    assert torch.equal(evaluated[some], in_the_cut(x, codes, target, temperature))
    wanted, wanted_gradient = reference.loss_and_gradient(x, codes, NOTHING, target, temperature, True)
    assert ((loss - wanted).abs() <= (2**-BITS + 2**-24) * wanted + 2**-149).all()
    reach = (codes.double() - codes.double().mean(0)).norm(dim=1).amax()
    chance = -torch.expm1(-wanted)  # of all but the target
    bound = 2 / temperature * chance * reach * 2**-23 + 2**-149
    assert ((gradient - wanted_gradient).norm(dim=1) <= bound).all()


@pytest.mark.parametrize(("temperature", "own"), [(0.5, False), (6.0, False), (0.1, True)])
def test_rows_near_codes_are_truncated_to_the_cut(isa, table, temperature, own):
    codes, prepared = table
    x = queries(codes, 50, near=1.0)
    target = targets(50, NUM_CODES, seed=1) if own else targets(50, NUM_CODES)  # seed 1: those they are near
    assert (cpu.num_evaluated(x, codes, prepared, target, temperature) >= 0).all()
    check(x, codes, prepared, target, temperature)


def test_rows_that_most_codes_matter_to_are_not_truncated(isa, table):
    codes, prepared = table
    x, target = queries(codes, 50, near=0.0), targets(50, NUM_CODES)
    assert (cpu.num_evaluated(x, codes, prepared, target, 100.0) == -1).all()


@pytest.mark.parametrize(("near", "temperature"), [(0.0, 0.05), (0.0, 5.0), (1.0, 10.0)])
def test_forced_truncation_evaluates_the_cut(isa, table, truncate, near, temperature):
    codes, prepared = table
    x, target = queries(codes, 5, near=near), targets(5, NUM_CODES)
    truncate("on")
    assert (cpu.num_evaluated(x, codes, prepared, target, temperature) >= 0).all()
    check(x, codes, prepared, target, temperature)


def test_truncated_rows_have_the_same_bits_however_they_are_found(table, truncate, monkeypatch):
    """Some rows near codes among others: by the trial, by force, and by every instruction set."""
    codes, prepared = table
    x = torch.cat([queries(codes, 50, near=1.0), queries(codes, 14, near=0.0)])[torch.randperm(64)]
    target, found = targets(64, NUM_CODES), []
    for isa in INSTRUCTION_SETS:
        monkeypatch.setenv("SPAE_ISA", isa)
        for way in ("auto", "on"):
            truncate(way)
            evaluated = cpu.num_evaluated(x, codes, prepared, target, 2.0)
            found.append((evaluated >= 0, *cpu.loss_and_gradient(x, codes, prepared, target, 2.0, True)))
    assert any(not rows.all() for rows, _, _ in found)
    for rows, loss, gradient in found:
        assert rows.sum() >= 50
        assert torch.equal(loss[rows], found[-1][1][rows])
        assert torch.equal(gradient[rows], found[-1][2][rows])


def test_mixed_rows_have_the_same_bits_for_every_number_of_threads(isa, table):
    codes, prepared = table
    x = torch.cat([queries(codes, 110, near=1.0), queries(codes, 30, near=0.0)])
    x = x[torch.randperm(140, generator=torch.Generator().manual_seed(0))]
    target, threads, found = targets(140, NUM_CODES), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(cpu.loss_and_gradient(x, codes, prepared, target, 3.0, True))
            found[-1] += (cpu.num_evaluated(x, codes, prepared, target, 3.0),)
    finally:
        torch.set_num_threads(threads)
    assert 0 < (found[0][2] >= 0).sum() < 140
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.parametrize("inside", [True, False])
def test_all_codes_just_at_the_cut(isa, truncate, inside):
    """The most that can be left out: the nearest code at 0, all others at the same distance, a hair from the cut."""
    codes = torch.zeros(4500, 4)
    codes[1:] = torch.eye(4)[torch.arange(4499) % 4] * (1 - 2 * (torch.arange(4499) // 4 % 2))[:, None]
    x, target = torch.zeros(3, 4), torch.tensor([1, 2, 0])
    temperature = 1 / (cut(4500) * (1 - 1e-12 if inside else 1 + 1e-12))
    prepared = cpu.prepare(codes)
    truncate("on")
    evaluated = cpu.num_evaluated(x, codes, prepared, target, temperature)
    # With code 0 the target, the others are as near as each other.
    assert evaluated.tolist() == [4499 - 1 + 1 if inside else 1] * 2 + [4499]
    loss, gradient = cpu.loss_and_gradient(x, codes, prepared, target, temperature, True)
    wanted, wanted_gradient = reference.loss_and_gradient(x, codes, NOTHING, target, temperature, True)
    assert ((loss - wanted).abs() <= (2**-BITS + 2**-24) * wanted).all()
    assert ((gradient - wanted_gradient).norm(dim=1) <= 2 / temperature * 2**-24).all()
    left = math.log1p(4498 * math.exp(-1 / temperature))
    assert left == pytest.approx(2**-BITS, rel=1e-3)  # as much as the bound allows


def test_the_cut_in_floating_point_is_never_below_the_last_code_of_it():
    """kRoundings: the worst of random distances, each with the farthest one that is still in S."""
    draw, margin = random.Random(0), 1.0
    for _ in range(5_000):
        temperature, nearest = 2.0 ** draw.uniform(-60, 60), 2.0 ** draw.uniform(-60, 60)
        gap = cut(draw.randrange(4096, 1 << 20))
        last = nearest + temperature * gap
        for _ in range(4):
            last = math.nextafter(last, math.inf)
        while not (last - nearest) / temperature <= gap:
            last = math.nextafter(last, 0)
        plain = nearest + temperature * gap
        assert last <= plain * (1 + 2**-48)
        margin = min(margin, plain / last)
    assert margin < 1  # without it, codes of S would be missed


@pytest.mark.parametrize("exponent", [-60, -85, -92])
def test_losses_keep_their_digits_far_below_one(isa, table, truncate, exponent):
    """A certain target: the loss is the others' odds, about 1e-26, 1e-37 and 1e-40."""
    codes, prepared = table
    target = targets(5, NUM_CODES)
    x = codes[target] + 0.01 * gaussian(5, WIDTH, seed=5)
    distance = torch.stack([squared_distance(row.expand_as(codes).double(), codes.double()) for row in x])
    own = distance.gather(1, target[:, None])
    other = distance.scatter(1, target[:, None], math.inf).amin(1, keepdim=True)
    temperature = float((other - own).amin()) / -exponent
    for way in ("auto", "on"):
        truncate(way)
        loss = cpu.loss_and_gradient(x, codes, prepared, target, temperature, True)[0]
        odds = torch.logsumexp(((own - distance) / temperature).scatter(1, target[:, None], -math.inf), 1)
        wanted = torch.log1p(odds.exp())
        assert wanted.amax() < math.exp(exponent) * NUM_CODES
        assert ((loss - wanted).abs() <= 1e-5 * wanted + 2**-149).all()


def test_ties_and_duplicates(isa, truncate):
    """Thousands of copies of the nearest code all belong to S, whichever of them is the target."""
    codes = gaussian(5000, 130)
    codes[:2500] = codes[0]
    x, prepared = codes[:6] + 0.01 * gaussian(6, 130, seed=1), cpu.prepare(codes)
    target = torch.tensor([0, 2499, 3000, 7, 4999, 1])
    truncate("on")
    evaluated = cpu.num_evaluated(x, codes, prepared, target, 0.1)
    assert evaluated.tolist() == [2499, 2499, 2500, 2499, 2500, 2499]
    check(x, codes, prepared, target, 0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(isa, table, truncate, dtype):
    codes = table[0].to(dtype)
    x, target = queries(table[0], 5, near=1.0).to(dtype), targets(5, NUM_CODES)
    truncate("on")
    check(x, codes, cpu.prepare(codes), target, 2.0)
