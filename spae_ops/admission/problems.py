"""Lookup problems that break kernels: ties, near ties, odd sizes, every exponent; and their answers.

Values come from fixed seeds: an examination is the same on every run. Answers are the float64 definition's
(`lookup.distance`), evaluated on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from spae_ops._checks import QUERY_DTYPES
from spae_ops.lookup import torch as screened
from spae_ops.lookup.distance import squared_distance

PAIR_ELEMENTS = 1 << 21


class Problem(NamedTuple):
    """x [N, D], codes [K, D], mask bool [K] or None, k; on the CPU."""

    name: str
    x: Tensor
    codes: Tensor
    mask: Tensor | None = None
    k: int = 1


def answer(problem: Problem) -> tuple[Tensor, Tensor]:
    """ids int64 and squared distances float64 [N, k], by the definition."""
    _, x, codes, mask, k = problem
    rows = max(1, PAIR_ELEMENTS // codes.numel())
    found = []
    for block in x.split(rows):
        pairs = block.repeat_interleave(len(codes), 0), codes.repeat(len(block), 1)
        distance = squared_distance(*pairs).view(len(block), len(codes))
        if mask is not None:
            distance[:, ~mask] = torch.inf
        found.append(distance.sort(dim=1, stable=True))
    return torch.cat([f.indices[:, :k] for f in found]), torch.cat([f.values[:, :k] for f in found])


def screened_answer(problem: Problem) -> tuple[Tensor, Tensor]:
    """ids int64 and squared distances float32 [N, k] of a problem too large for `answer`, by a float64
    screen."""
    _, x, codes, mask, k = problem
    return screened.search(x, codes, screened.prepare(codes), mask, k)


def adversarial(dtype: torch.dtype, width: int, *, small: bool) -> Iterator[Problem]:
    """Problems with codes of `dtype` and `width`; fewer and smaller ones for kernels run by an emulator."""
    number = 5 if small else 40 if width <= 1024 else 16  # what takes time are the answers
    yield from _sizes(dtype, width, small)
    yield from _kinds(dtype, width, number)
    yield from _masked(dtype, width, number, (127, 299) if small else (0, 127, 128, 299))
    yield from _lists(dtype, width, small)
    yield from _query_dtypes(dtype, width, number)


def filling(dtype: torch.dtype, width: int, processors: int, stages: int = 6) -> Problem:
    """Work for every multiprocessor, in more items than one each, and more loads in each than a ring has
    stages; decided and undecided rows."""
    blocks = 17 if processors > 16 else 2
    steps = -(-width // 64)
    tiles = max(2, 2 * -(-2 * processors // blocks)) * max(1, -(-stages // steps))
    codes = randn(128 * tiles - 37, width, seed=31)
    first, second = codes.split(len(codes) // 2)[:2]
    x = randn(128 * blocks - 127, width, seed=32)
    near, middle = len(x) // 3, 2 * len(x) // 3
    x[:near] = first[:near] + 0.05 * x[:near]
    x[near:middle] = (first[near:middle] + second[near:middle]) / 2
    return Problem("every multiprocessor", x, codes.to(dtype))


def exponents(dtype: torch.dtype, width: int, number: int) -> Problem:
    """Rows of every size that the dtype has, elements of a row over eight binades."""
    info = torch.finfo(dtype)
    low = int(torch.tensor(info.smallest_normal, dtype=torch.float64).log2()) - 4
    high = int(torch.tensor(info.max, dtype=torch.float64).log2())

    def rows(count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        of_row = torch.linspace(low, high, count)[torch.randperm(count, generator=generator)].round()
        of_element = torch.randint(-8, 1, (count, width), generator=generator)
        values = (1 + torch.rand(count, width, generator=generator)).double() * randn(
            count, width, seed=seed
        ).sign()
        return (values * 2.0 ** (of_row[:, None] + of_element - 1)).to(dtype)

    return Problem("every exponent", rows(number, 41), rows(257, 42), k=3)


def randn(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def _randint(low: int, high: int, size: tuple[int, ...], seed: int) -> Tensor:
    return torch.randint(low, high, size, generator=torch.Generator().manual_seed(seed))


def _sizes(dtype: torch.dtype, width: int, small: bool) -> Iterator[Problem]:
    """N = 1 and around the blocks of rows, K = 1 and around the tiles."""
    sizes = [(1, 1), (1, 127), (3, 129), (2, 256)]
    if not small:
        sizes += [
            (1, 128),
            (3, 255),
            (2, 257),
            (16, 2),
            (16, 16),
            (63, 129),
            (64, 128),
            (65, 257),
            (127, 255),
            (128, 256),
            (129, 384),
        ]
    for n, k in sizes:
        yield Problem(
            f"{n} queries, {k} codes", randn(n, width, seed=n), randn(k, width, seed=k + 1000).to(dtype)
        )


def _kinds(dtype: torch.dtype, width: int, number: int) -> Iterator[Problem]:
    gaussian = randn(300, width, seed=1)
    noise = randn(number, width, seed=2)
    yield Problem("beside the codes", gaussian[:number] + 1e-3 * noise, gaussian.to(dtype))
    repeated = gaussian[_randint(0, 75, (300,), 3)].to(dtype)
    yield Problem("duplicates", torch.cat([repeated[:number].float(), noise]), repeated)
    yield Problem("one code 600 times", noise, torch.ones(600, width, dtype=dtype))
    lattice = _randint(-2, 3, (300, width), 4).to(dtype)
    yield Problem("a lattice", _randint(-4, 5, (number, width), 5) / 2, lattice)
    mean = 1e4 * randn(1, width, seed=6)
    yield Problem("a large common mean", gaussian[:number] + mean + 0.1 * noise, (gaussian + mean).to(dtype))
    decades = 10 ** (6 * torch.rand(300, 1, generator=torch.Generator().manual_seed(7)) - 3)
    yield Problem("norms over six decades", noise * decades[:number], (gaussian * decades).to(dtype))
    info = torch.finfo(dtype)
    least = _randint(-3, 4, (140, width), 8).to(dtype) * info.smallest_normal * info.eps
    yield Problem("subnormal codes", torch.cat([least[:number].float(), noise]), least)
    yield Problem("codes of zeros", torch.cat([noise, 0 * noise]), torch.zeros(140, width, dtype=dtype))
    largest = (gaussian / gaussian.abs().max() * info.max).to(dtype)
    yield Problem("the largest codes", torch.cat([largest[:number].float() / 2, noise]), largest)
    yield bisectors(gaussian.to(dtype), number)
    outlier = gaussian.clone()
    outlier[0, 0] = 2.0**14
    yield Problem("one code far beyond the others", gaussian[:number] + 0.3 * noise, outlier.to(dtype))


def bisectors(codes: Tensor, number: int) -> Problem:
    """Queries in the middle of two codes as nearly as float32 can say, and one step of it to either side."""
    first, second = codes[:number].float(), codes[number : 2 * number].float()
    middle = ((first.double() + second.double()) / 2).float()
    x = torch.cat([middle, middle.nextafter(first), middle.nextafter(second)])
    mask = torch.zeros(len(codes), dtype=torch.bool)
    mask[: 2 * number] = True
    return Problem("bisectors to the last bit", x, codes, mask)


def _masked(dtype: torch.dtype, width: int, number: int, alone: tuple[int, ...]) -> Iterator[Problem]:
    codes = randn(300, width, seed=11)
    x = codes[:number] + 0.1 * randn(number, width, seed=12)
    for only in alone:
        mask = torch.zeros(300, dtype=torch.bool)
        mask[only] = True
        yield Problem(f"only code {only} allowed", x, codes.to(dtype), mask)
    mask = _randint(0, 2, (300,), 13).bool()
    mask[: min(number, 128)] = False
    yield Problem("the nearest masked", x, codes.to(dtype), mask)


def _lists(dtype: torch.dtype, width: int, small: bool) -> Iterator[Problem]:
    """k > 1: within and past what several ranges of tiles and one pass can list."""
    codes = randn(300, width, seed=21).to(dtype)
    x = randn(3, width, seed=22)
    for k in (3, 17) if small else (2, 3, 5, 16, 17, 100, 256, 257, 300):
        yield Problem(f"the {k} nearest", x, codes, None, k)
    signs = randn(300, width, seed=23).sign().to(dtype)
    yield Problem("5 of many equally near", torch.zeros(1, width), signs, None, 5)


def _query_dtypes(dtype: torch.dtype, width: int, number: int) -> Iterator[Problem]:
    codes = randn(300, width, seed=24).to(dtype)
    between = (codes[:number].float() + codes[number : 2 * number].float()) / 2
    x = torch.cat([between, randn(number, width, seed=25)])
    for query in QUERY_DTYPES:
        yield Problem(f"{str(query).removeprefix('torch.')} queries", x.to(query), codes)
