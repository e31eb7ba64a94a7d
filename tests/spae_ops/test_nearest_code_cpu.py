"""The compiled CPU search against a NumPy evaluation of the definition: every instruction set here, both screens,
and pruning by a prefix."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from spae_ops import _extension
from spae_ops.lookup import cpu

if _extension.reason() is not None:
    pytest.skip(f"needs the compiled operators: {_extension.reason()}", allow_module_level=True)

INSTRUCTION_SETS = _extension.load().instruction_sets()


# SPAE_SCREEN and SPAE_PRUNE
SCREENS = {"fp32": ("fp32", "off"), "int8": ("int8", "off"), "pruned": ("int8", "on")}


def choose(monkeypatch, screen):
    for name, value in zip(("SPAE_SCREEN", "SPAE_PRUNE"), SCREENS[screen], strict=True):
        monkeypatch.setenv(name, value)


@pytest.fixture(params=SCREENS)
def screen(request, monkeypatch):
    choose(monkeypatch, request.param)
    return request.param


@pytest.fixture(params=INSTRUCTION_SETS)
def isa(request, screen, monkeypatch):
    monkeypatch.setenv("SPAE_ISA", request.param)
    return request.param


def definition(q: np.ndarray, c: np.ndarray) -> np.ndarray:
    """sqdist64 of float64 rows q, c [..., D]: three exact products a dimension, 32 lanes, a tree."""
    t = q - c
    hi = ((t.view(np.int64) + (1 << 26)) & ~((1 << 27) - 1)).view(np.float64)
    lo = t - hi
    width = t.shape[-1]
    acc = np.zeros((*t.shape[:-1], 32))
    for start in range(0, width, 32):
        stop = min(start + 32, width)
        h, low, lanes = hi[..., start:stop], lo[..., start:stop], slice(0, stop - start)
        acc[..., lanes] += h * h
        acc[..., lanes] += (2 * h) * low
        acc[..., lanes] += low * low
    w = 16
    while w:
        acc = acc[..., :w] + acc[..., w : 2 * w]
        w //= 2
    return acc[..., 0]


def oracle(x: torch.Tensor, codes: torch.Tensor, mask: torch.Tensor | None, k: int):
    """ids int64 [N, k] and distances float32 [N, k] straight from the definition, row by row."""
    queries, table = x.double().numpy(), codes.double().numpy()
    allowed = np.arange(len(table)) if mask is None else np.flatnonzero(mask.numpy())
    ids = np.empty((len(queries), k), np.int64)
    sqdist = np.empty((len(queries), k), np.float32)
    scale = 2.0 ** -np.ceil(np.log2(max(np.abs(table).max(), np.abs(queries).max(initial=0), 1e-300)))
    norms = np.sqrt(((table[allowed] * scale) ** 2).sum(1))
    for row, q in enumerate(queries):
        # Plain float64 is off by far less than this; what it cannot tell apart, the definition decides.
        rough = np.square((table[allowed] - q) * scale).sum(1)
        margin = 1e-11 * (np.sqrt(((q * scale) ** 2).sum()) + norms.max()) ** 2
        near = allowed[rough <= np.partition(rough, k - 1)[k - 1] + margin]
        exact = definition(q[None], table[near])
        order = np.lexsort((near, exact))[:k]
        ids[row], sqdist[row] = near[order], exact[order]
    return ids, sqdist


def check(x, codes, mask=None, k=1):
    prepared = cpu.prepare(codes)
    ids, sqdist = cpu.search(x, codes, prepared, mask, k)
    assert ids.dtype == torch.int64
    assert sqdist.dtype == torch.float32
    with np.errstate(over="ignore"):  # a distance beyond fp32 is returned as inf
        expected_ids, expected_sqdist = oracle(x, codes, mask, k)
    np.testing.assert_array_equal(ids.numpy(), expected_ids)
    np.testing.assert_array_equal(sqdist.numpy(), expected_sqdist)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lattice(*shape, values, seed=0):
    return torch.randint(0, values, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("width", [1, 2, 17, 31, 32, 33, 40, 576, 640, 1536])
def test_widths(isa, width):
    check(gaussian(37, width, seed=1), gaussian(300, width))


@pytest.mark.parametrize("count", [0, 1, 2, 5, 11, 12, 13, 25, 64, 600])
def test_query_counts(isa, count):
    check(gaussian(count, 40, seed=1), gaussian(700, 40))


@pytest.mark.parametrize("codes", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 257])
def test_codebook_sizes_around_panels(isa, codes):
    check(gaussian(23, 24, seed=1), gaussian(codes, 24))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("table_dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision(isa, dtype, table_dtype):
    check(gaussian(50, 72, seed=1).to(dtype), gaussian(999, 72).to(table_dtype), k=3)


def test_half_precision_extremes(isa):
    tiny, largest = 2.0**-24, 65504.0
    values = torch.tensor([0.0, -0.0, tiny, -tiny, 1.0, 1.0 + 2.0**-10, largest, -largest]).half()
    codes = values[torch.randint(0, 8, (200, 5), generator=torch.Generator().manual_seed(0))]
    check(codes[:40].flip(0).contiguous(), codes, k=4)


@pytest.mark.parametrize("k", [1, 2, 10, 40, 333])
def test_topk(isa, k):
    check(gaussian(30, 33, seed=1), gaussian(333, 33), k=k)
    check(lattice(30, 6, values=3, seed=1), lattice(333, 6, values=3), k=k)


def test_lattice_ties(isa):
    check(lattice(200, 4, values=4, seed=1), lattice(1500, 4, values=4))
    check(lattice(50, 4, values=4, seed=1) + 0.5, lattice(1500, 4, values=4), k=5)


def test_duplicated_rows(isa):
    check(gaussian(20, 48, seed=1), gaussian(10, 48).repeat(90, 1), k=3)
    check(gaussian(9, 48, seed=1), gaussian(1, 48).expand(3000, 48).contiguous())
    check(gaussian(9, 48, seed=1), gaussian(1, 48).expand(3000, 48).contiguous(), k=50)


def test_queries_that_are_codes(isa):
    codes = gaussian(2000, 64)
    prepared = cpu.prepare(codes)
    ids, sqdist = cpu.search(codes, codes, prepared, None, 1)
    assert torch.equal(ids[:, 0], torch.arange(2000))
    assert not sqdist.any()


def test_norms_over_decades(isa):
    scales = 10.0 ** torch.linspace(-3, 3, 900)[:, None]
    codes = gaussian(900, 30) * scales[torch.randperm(900, generator=torch.Generator().manual_seed(3))]
    queries = torch.cat([gaussian(20, 30, seed=s) * 10.0**s for s in range(-4, 5)])
    check(queries, codes)
    check(codes[::7].contiguous(), codes, k=3)


@pytest.mark.parametrize("mean", [1e4, -3e6])
def test_common_mean(isa, screen, mean):
    codes = gaussian(800, 96) + mean
    queries = gaussian(60, 96, seed=1) + mean
    check(queries, codes)
    if screen == "pruned":
        queries = codes[::10] + 0.1 * (queries[:1] - mean)
        check(queries, codes)
    assert cpu.num_rescored(queries, codes, cpu.prepare(codes)).double().mean() < 4


@pytest.mark.parametrize("size", [1e-45, 3e-42, 1e-38, 1e-30, 1e15, 1e30, 2e37])
def test_magnitudes(isa, size):
    codes, queries = gaussian(500, 20) * size, gaussian(40, 20, seed=1) * size
    assert torch.cat([codes, queries]).isfinite().all()
    check(queries, codes)
    check(queries, codes, k=4)


def test_queries_far_above_and_below_the_codes(isa):
    codes = gaussian(400, 12)
    exponents = [-44, -30, -8, 8, 20, 30, 37]
    queries = torch.cat([gaussian(10, 12, seed=e + 50) * 10.0**e for e in exponents])
    check(queries, codes)
    check(queries, codes * 1e-37, k=2)
    check(queries, codes * 1e37, k=2)


def test_largest_floats(isa):
    largest = torch.finfo(torch.float32).max
    codes = torch.where(gaussian(200, 9) > 0, largest, -largest)
    queries = torch.where(gaussian(30, 9, seed=1) > 0, largest, -largest)
    check(queries, codes, k=2)
    check(torch.zeros(2, 9), codes)


def test_zero_codes_and_zero_queries(isa):
    check(torch.zeros(3, 8), torch.zeros(70, 8), k=2)
    check(gaussian(3, 8), torch.zeros(70, 8))
    check(-torch.zeros(3, 8), gaussian(70, 8))


@pytest.mark.parametrize("width", [3, 64, 600])
def test_bisectors(isa, width):
    """Midpoints of two codes, rounded, and their neighbours a few units in the last place away."""
    codes = gaussian(64, width)
    i, j = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(2))
    middle = ((codes[i].double() + codes[j].double()) / 2).float()
    # Codes only a hair apart from their pair: nothing but float64 tells them from each other.
    near = codes + gaussian(64, width, seed=5) * 1e-6
    queries = [middle]
    for direction in (codes[i], codes[j]):
        moved = middle.clone()
        for _ in range(3):
            moved = torch.nextafter(moved, direction)
            queries.append(moved)
    check(torch.cat(queries), torch.cat([codes, near]), k=2)


def rotation(width: int) -> torch.Tensor:
    """The orthogonal map before rounding to int8, float64 [D, D]: x -> x @ rotation, its inverse the transpose."""
    state, signs = 1, []
    for _ in range(width):
        state = (state * 1664525 + 1013904223) % 2**32
        signs.append(-1.0 if state >> 31 else 1.0)
    blocks, left = [], width
    while left:
        block = torch.ones(1, 1, dtype=torch.float64)
        while 4 * len(block) <= left:
            for _ in range(2):
                block = (
                    torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), block) / 2**0.5
                )
        blocks.append(block)
        left -= len(block)
    return torch.tensor(signs, dtype=torch.float64)[:, None] * torch.block_diag(*blocks)


@pytest.mark.parametrize("width", [96, 600])
def test_int8_errors_that_add_up(isa, width):
    """Rounding to integers makes the nearest code look as far as nine tenths of the bound allow.

    Once rotated, the first element sets the step to 1. The other elements of code 40 are rounded down, or the
    query's are, all in the direction of the query, and a code hardly farther is not.
    """
    signs = lattice(width, values=2, seed=3) * 2 - 1
    signs[0] = 127
    back = rotation(width).T

    def row(first, rest):
        return (torch.cat([signs[:1] * first, signs[1:] * rest]).double() @ back).float()

    fillers = (lattice(64, width, values=2, seed=4) * 2 - 1) * 100
    for query, nearest, runner_up in [
        (row(1, 10), row(1, 10.49), row(1, 10.51)),
        (row(1, 10.49), row(1, 11), row(1 + 0.52 * width**0.5 / 127, 10.49)),
    ]:
        codes = fillers.clone()
        codes[40], codes[5] = nearest, runner_up
        prepared = cpu.prepare(codes)
        assert cpu.search(query[None], codes, prepared, None, 1)[0].item() == 40
        check(torch.stack([query, -query, runner_up]), codes)
        check(torch.stack([query, -query, runner_up]), codes, k=2)


def test_int8_leaves_what_it_cannot_tell_apart_to_fp32(monkeypatch):
    """Auto: codes closer to each other than int8 resolves, in trial rows, in later passes and in few rows only."""
    monkeypatch.delenv("SPAE_SCREEN", raising=False)
    close = gaussian(1, 64) + 0.03 * gaussian(4000, 64, seed=2)
    queries = close[::8] + 0.003 * gaussian(500, 64, seed=3)
    mixed = torch.cat([gaussian(90, 64, seed=4), queries, gaussian(3, 64) * 1e30])
    codes = torch.cat([close, gaussian(3000, 64, seed=1) * 4])
    # A shift would bring the close codes together around zero, where int8 resolves them.
    codes = torch.cat([codes, -codes])
    for rows in (queries, mixed, mixed[:100]):
        check(rows, codes)
        check(rows, codes, k=3)
    prepared = cpu.prepare(codes)
    monkeypatch.setenv("SPAE_SCREEN", "int8")
    crowded = cpu.num_rescored(queries, codes, prepared).double().mean()
    monkeypatch.setenv("SPAE_SCREEN", "fp32")
    assert cpu.num_rescored(queries, codes, prepared).double().mean() < 2 < crowded


@pytest.mark.parametrize("allowed", [1, 3, 40])
def test_mask(isa, allowed):
    mask = torch.zeros(500, dtype=torch.bool)
    mask[torch.randperm(500, generator=torch.Generator().manual_seed(4))[:allowed]] = True
    check(gaussian(30, 50, seed=1), gaussian(500, 50), mask=mask)
    check(gaussian(30, 50, seed=1), gaussian(500, 50), mask=mask, k=min(allowed, 7))
    check(gaussian(3, 50, seed=1) * 1e30, gaussian(500, 50), mask=mask)


def test_mask_hides_the_nearest(isa):
    codes = gaussian(600, 32)
    mask = torch.ones(600, dtype=torch.bool)
    mask[:300] = False
    check(codes[:50].contiguous(), codes, mask=mask)


@pytest.mark.parametrize("k", [1, 5])
def test_every_instruction_set_screen_and_thread_count_agrees(monkeypatch, k):
    codes = torch.cat([gaussian(3000, 64), lattice(1100, 64, values=2)])
    queries = [gaussian(500, 64, seed=1), lattice(100, 64, values=2, seed=1), gaussian(4, 64) * 1e33]
    queries = torch.cat(queries)
    threads = torch.get_num_threads()
    results = []
    try:
        for name, screen in itertools.product(INSTRUCTION_SETS, (*SCREENS, "auto")):
            monkeypatch.setenv("SPAE_ISA", name)
            if screen != "auto":
                choose(monkeypatch, screen)
            else:
                monkeypatch.delenv("SPAE_SCREEN")
                monkeypatch.delenv("SPAE_PRUNE")
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                prepared = cpu.prepare(codes)
                results.append((*cpu.search(queries, codes, prepared, None, k), *prepared))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_more_queries_than_a_pass_holds(isa):
    """8 MiB of packed queries are about 700 rows of width 3072 in fp32, 2,700 in int8."""
    codes, queries = gaussian(64, 3072), gaussian(3100, 3072, seed=1)
    ids, _ = cpu.search(queries, codes, cpu.prepare(codes), None, 1)
    distances = queries.double().square().sum(1, keepdim=True) - 2 * queries.double() @ codes.double().T
    distances += codes.double().square().sum(1)
    assert torch.equal(ids[:, 0], distances.argmin(1))


def test_flushed_subnormals_change_nothing(isa):
    codes, queries = gaussian(300, 16) * 1e-40, gaussian(20, 16, seed=1) * 1e-40
    prepared = cpu.prepare(codes)
    expected = cpu.search(queries, codes, prepared, None, 3)
    if not torch.set_flush_denormal(True):
        pytest.skip("needs a processor that can flush subnormals")
    try:
        again = cpu.search(queries, codes, cpu.prepare(codes), None, 3)
    finally:
        torch.set_flush_denormal(False)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_screen_decides_gaussian_queries_almost_alone(isa, screen):
    codes, queries = gaussian(5000, 256), gaussian(200, 256, seed=1)
    limit = {"fp32": 1.2, "int8": 5, "pruned": 1.2}[screen]
    if screen == "pruned":
        queries = codes[:200] + 0.3 * queries
    assert cpu.num_rescored(queries, codes, cpu.prepare(codes)).double().mean() < limit


def near(codes, count, noise, seed=7):
    """Queries at `noise` times the codes' typical norm from evenly spread codes."""
    chosen = codes[torch.arange(count) * (len(codes) // count)]
    return chosen + noise * codes.std() * gaussian(count, codes.shape[1], seed=seed)


@pytest.mark.parametrize("k", [1, 3])
def test_pruning_chooses_itself(monkeypatch, k):
    """On queries near codes auto prunes, which shows in the codes it evaluates; on others it leaves pruning."""
    codes = gaussian(4200, 160)
    close, far = near(codes, 100, 0.35), gaussian(100, 160, seed=8)
    prepared = cpu.prepare(codes)

    def counts(queries, prune):
        monkeypatch.setenv("SPAE_PRUNE", prune)
        return cpu.num_rescored(queries, codes, prepared, k=k).double().mean()

    for rows in (close, far, torch.cat([close, far]), torch.stack([far, close], 1).flatten(0, 1)):
        monkeypatch.setenv("SPAE_PRUNE", "auto")
        check(rows, codes, k=k)
    check(far, codes, k=k, mask=torch.arange(4200) % 3 > 0)
    assert counts(far, "on") > 1000 > 50 > counts(far, "auto")
    if k == 1:
        assert counts(close, "auto") == counts(close, "on") < 20


@pytest.mark.parametrize("width", [40, 160, 600])
def test_prefixes_that_say_nothing(isa, width):
    """All that tells the codes apart is in the tail, where the bound is attained: parallel to the query's tail, and
    longer or shorter by a few units in the last place."""
    back = rotation(width).T
    prefix = -(-width // 4 // 5) * 4 + 4
    direction = torch.cat([torch.zeros(prefix), gaussian(width - prefix)]).double() @ back
    same = torch.cat([gaussian(prefix), torch.zeros(width - prefix)]).double() @ back
    lengths = torch.cat([1 + torch.arange(-20, 21) * 2.0**-22, torch.linspace(0, 3, 60)]).double()
    codes = (same + lengths[:, None] * direction).float()
    queries = (same + torch.tensor([1.0, 1 + 2.0**-23, 0.0, -1.0, 2.9]).double()[:, None] * direction).float()
    check(queries, codes)
    check(queries, torch.cat([codes, -codes]), k=4)


@pytest.mark.parametrize("width", [1, 17, 40, 576, 640, 1536])
def test_near_codes(isa, width):
    codes = gaussian(400, width) * 10.0 ** torch.linspace(-1, 1, 400)[:, None]
    check(near(codes, 25, 0.1), codes)
    check(near(codes, 25, 0.1), codes, k=3, mask=torch.arange(400) % 2 > 0)
