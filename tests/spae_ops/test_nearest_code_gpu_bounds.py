"""Inputs that need the constants of the GPU bound, and sizes that need 64-bit offsets: CUDA's kernels on the emulator,
Triton's in its interpreter.

The proof, and what N, R, G and the other names stand for, is in `spae_ops/lookup/tensor_cores.py`. Where a constant
can be taken out here, the test shows that the answer is then wrong; `make mutants` takes out the others.
"""

from __future__ import annotations

import mmap
import os
import sys

import pytest
import torch

from spae.testing import oracles
from spae_ops.lookup import cuda, tensor_cores

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
UNIT = 2.0**-24
MAP_NORESERVE = 0x4000  # Linux's; Python has a name for it from 3.13 on
ROUNDED_UP = 1 + 2.0**-16  # what `prepare` inflates a tile's factors by


def randn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def nearest(x, codes, k=1):
    return torch.from_numpy(oracles.topk_codes(x, codes, k)[0])


def sums_at_their_worst(terms: int, bits: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A query [1, width] and codes [130, width] of scores around zero, with which every step of the tensor cores that
    adds `terms` products at `bits` bits cuts off nearly all it can: of the nearest code, 129, what counts for it, of
    the next, 128, what counts against it.

    A product of 1 comes first. Beside it a step keeps multiples of `cut`, then, of their sum, multiples of 2^-23.
    """
    cut, small = 2.0**-bits, 2.0**-12
    below, twice = (
        1 - 2.0**-11,
        2 - 2.0**-10,
    )  # exact in half precision, just below what the cut would keep more of
    lost = 2 ** (bits - 23) - 1  # multiples that the second cut takes
    step = torch.full((terms,), below)
    step[:lost] = twice
    query = torch.full((width,), small)
    query[0], query[-1] = 1, 2.0**-5
    codes = randn(130, width).sign() * 2.0**-6
    codes[129] = step.repeat(width // terms) * cut / small
    codes[128] = -below * cut / small
    codes[128:, :terms] = 0
    codes[128:, 0] = 1
    # The last element brings the runner-up as near as can be without being nearer.
    tries = codes[128].repeat(4096, 1)
    tries[:, -1] = (torch.arange(4096) * 2.0**-18).half()
    codes[129, -1] = 0
    query /= 2
    scores = oracles_scores(query, torch.cat([codes[129:], tries]))
    farther = (scores[1:] < scores[0]).nonzero()[:, 0]
    codes[128] = tries[farther[scores[1:][farther].argmax()]]
    return query[None], codes


def oracles_scores(query: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """<q, c> - |c|^2 / 2, exact for these."""
    return codes.double() @ query.double() - codes.double().square().sum(1) / 2


@pytest.mark.parametrize("share", [0, 1 / 8])
def test_sums_at_their_worst(gpu, request, share):
    """G: the answer is right, and wrong with an eighth of it."""
    gpu()
    width = 1024
    terms, bits = {"sm_80": (8, 24), "sm_90a": (16, 25)}[request.node.callspec.params["gpu"]]
    x, codes = sums_at_their_worst(terms, bits, width)
    assert nearest(x, codes).item() == 129
    prepared = cuda.prepare(codes)
    assert cuda.search(x, codes, prepared, None, 1)[0].item() == 129
    bounds = prepared.bounds.clone()
    bounds[0] -= (1 - share) * width * 2.0**-22 * bounds[1]
    assert cuda.search(x, codes, prepared._replace(bounds=bounds), None, 1)[0].item() == 128


def roundings_that_add_up(of_queries: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A query [1, 64] and codes [130, 64]: 129 is nearest, and rounding to half precision takes what makes it so.

    The two nearest codes have 32 elements each, where the query, or the code, has numbers of the same sum: 129's a bit
    less than half a unit above 1, all rounded down; 128's 1 and, in 15 of 32, a unit above it, which are exact.
    """
    unit = 2.0**-10
    rounds, exact = torch.full((32,), 1 + 0.49 * unit), torch.ones(32)
    exact[:15] += unit
    query, codes = torch.full((64,), 2.0), randn(130, 64).sign() / 4
    codes[128:] = 0
    codes[129, :32] = codes[128, 32:] = 1
    if of_queries:
        query = torch.cat([rounds, exact])
    else:
        codes[129, :32], codes[128, 32:] = rounds, exact
    return query[None], codes


def test_queries_that_half_precision_rounds(gpu, monkeypatch):
    """R_q N_t: right with it, wrong without."""
    gpu()
    x, codes = roundings_that_add_up(of_queries=True)
    assert nearest(x, codes).item() == 129
    prepared, frame = cuda.prepare(codes), cuda.Kernels.frame
    assert cuda.search(x, codes, prepared, None, 1)[0].item() == 129

    def without(self, x, into, out, measured):
        frame(self, x, into, out, measured)
        measured[1] = 0

    monkeypatch.setattr(cuda.Kernels, "frame", without)
    assert cuda.search(x, codes, prepared, None, 1)[0].item() == 128


def test_codes_that_half_precision_rounds(gpu):
    """N_q R_t: right with it, wrong without."""
    gpu()
    x, codes = roundings_that_add_up(of_queries=False)
    assert nearest(x, codes).item() == 129
    prepared = cuda.prepare(codes)
    assert cuda.search(x, codes, prepared, None, 1)[0].item() == 129
    bounds = prepared.bounds.clone()
    bounds[0] = (64 * 2.0**-22 + 4 * UNIT) * bounds[1]
    assert cuda.search(x, codes, prepared._replace(bounds=bounds), None, 1)[0].item() == 128


@pytest.mark.parametrize("width", [40, 130])
def test_tiles_factors_are_what_the_bound_adds(gpu, width):
    """bounds [3, T], from the table and the codes in float64: R_t + (G + 4u) N_t, N_t, and 3u N_t^2 + 2^-100."""
    gpu()
    codes = randn(300, width) * 10.0 ** torch.linspace(-2, 1, 300)[:, None]
    prepared = cuda.prepare(codes)
    padded = prepared.table.shape[1]
    exact, seen = torch.zeros(2, 384, padded, dtype=torch.float64)
    exact[:300, :width] = (codes.double() - prepared.frame[:-1]) * prepared.frame[-1]
    seen[:] = prepared.table
    largest = torch.maximum(exact.norm(dim=1), seen.norm(dim=1)).view(3, 128).amax(1)
    residual = (exact - seen).norm(dim=1).view(3, 128).amax(1)
    own = 3 * UNIT * largest**2 + 2.0**-100
    needed = torch.stack([residual + (padded * 2.0**-22 + 4 * UNIT) * largest, largest, own])
    assert (prepared.bounds.double() >= needed * ROUNDED_UP * (1 - UNIT)).all()
    assert (prepared.bounds.double() <= needed * (1 + 2.0**-9)).all()


def columns_that_mislead() -> torch.Tensor:
    """Codes [128, 8] of which 127 is nearest to zero by 127 units in the last place of its score.

    Its column takes as many from it, and from the next, 0, nothing.
    """
    codes = randn(128, 8).sign() * 12_000
    first = 23_170.0
    biases = 2.0**28 + 32 * (128 * 3 + torch.tensor([127, 0]))
    codes[[0, 127]] = 0
    codes[[0, 127], 0] = first
    codes[[0, 127], 1] = (2 * biases - first**2).sqrt().float()
    return codes


def queries_that_round() -> tuple[torch.Tensor, torch.Tensor]:
    """Queries so large beside the codes that these tie or change places in float64; all exact in half precision."""
    codes = torch.cat([1 - (randn(50, 5).abs() * 8).round() * 2.0**-11, randn(80, 5, seed=1).sign() / 2])
    return torch.cat([randn(8, 5, seed=e).abs().half().float() * 2.0**e for e in (43, 41)]), codes


def test_columns_that_mislead(gpu):
    """2^-16 |w|, of which a quarter would not do."""
    gpu()
    x, codes = torch.zeros(1, 8), columns_that_mislead()
    assert nearest(x, codes, 2).tolist() == [[127, 0]]
    assert cuda.search(x, codes, cuda.prepare(codes), None, 1)[0].item() == 127


def test_distances_that_round(gpu, monkeypatch):
    """(e/2) N_q^2: right with it, wrong without."""
    gpu()
    x, codes = queries_that_round()
    prepared, frame = cuda.prepare(codes), cuda.Kernels.frame
    assert torch.equal(cuda.search(x, codes, prepared, None, 1)[0], nearest(x, codes))

    def without(self, x, into, out, measured):
        frame(self, x, into, out, measured)
        measured[2] = 0

    monkeypatch.setattr(cuda.Kernels, "frame", without)
    assert not torch.equal(cuda.search(x, codes, prepared, None, 1)[0], nearest(x, codes))


def sparse(*shape, dtype):
    """Zeros that take memory only where they are written."""
    size = torch.Size(shape).numel() * torch.empty((), dtype=dtype).element_size()
    if sys.platform != "linux":
        pytest.skip("needs Linux, to map memory that is not there")
    try:
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    except OSError as error:
        pytest.skip(f"needs {size >> 30} GiB of addresses: {error}")
    return torch.frombuffer(memory, dtype=dtype).view(shape)


ROWS, TILES = 1 << 20, (1 << 11) + 1  # whose summaries have more than 2^31 elements


class TestLastBlocks:
    """The last blocks of launches whose offsets need more than 32 bits."""

    @pytest.fixture(autouse=True)
    def last_blocks(self, gpu, cuda_emulator):
        gpu()
        cuda_emulator.emulator_run_last(1)
        yield
        cuda_emulator.emulator_run_last(0)

    def test_screen(self, gpu, cuda_emulator):
        hopper = cuda._capability(torch.device("cpu")) == (9, 0)
        queries, table = randn(128, 64).half(), randn(128, 64, seed=1).half()
        whole = [sparse(n, 64, dtype=torch.float16) for n in (ROWS, TILES * 128)]
        for tensor, part in zip(whole, (queries, table), strict=True):
            tensor[-128:] = part
        inverse, bias = torch.ones(ROWS), torch.zeros(TILES * 128)
        scores, expected = sparse(2, TILES, ROWS, dtype=torch.float32), torch.empty(2, 1, 128)
        screen = torch.ops.spae_ops.nearest_code_cuda_screen
        screen(queries, table, inverse[:128], bias[:128], expected, 1, 1, hopper)
        screen(*whole, inverse, bias, scores, 1, 2**31 - 1, hopper)
        assert torch.equal(scores[:, -1, -128:], expected[:, 0])

    def test_certify_and_resolve(self):
        x, codes = randn(ROWS, 3), randn(TILES * 128, 3, seed=1)
        scores = sparse(2, TILES, ROWS, dtype=torch.float32)
        scores[0, -1, -8:] = torch.tensor(10.0).view(torch.int32).add(5).view(torch.float32)
        bounds, measured, bias = torch.zeros(3, TILES), torch.zeros(4, ROWS), torch.zeros(TILES * 128)
        index = tensor_cores.Index(codes, torch.empty(0), bias, bounds, torch.empty(0))
        summary = tensor_cores.Summary(scores, measured)
        for act in ("certify", "resolve"):
            threshold, ids = torch.ones(ROWS), torch.zeros(ROWS, 1, dtype=torch.int64)
            sqdist = torch.zeros(ROWS, 1, dtype=torch.float64)
            if act == "certify":
                cuda.KERNELS.certify(x, index, summary, threshold, ids, sqdist)
            else:
                cuda.KERNELS.resolve(
                    x, index, summary, threshold, None, (ids[:, None], sqdist[:, None]), TILES
                )
            assert (ids[-4:] == (TILES - 1) * 128 + 5).all(), act
            assert torch.allclose(sqdist[-4:, 0], (x[-4:] - codes[ids[-1, 0]]).double().square().sum(1)), act

    def test_frame(self):
        rows = 1 << 26
        x, out = sparse(rows, 40, dtype=torch.bfloat16), sparse(rows, 64, dtype=torch.float16)
        measured = sparse(4, rows, dtype=torch.float32)
        x[-1] = 1
        cuda.KERNELS.frame(x, torch.tensor([0.0] * 40 + [1.0], dtype=torch.float64), out, measured)
        assert (out[-1, :40] * measured[3, -1] == 1).all()
        assert not out[-1, 40:].any()
        assert measured[0, -1] == pytest.approx(40**0.5)


def test_triton_in_the_interpreter(run_interpreted):
    pytest.importorskip("triton", reason="needs triton")
    run_interpreted(__file__)


class TestInterpreted:
    __test__ = INTERPRETED

    @pytest.mark.parametrize("problem", [columns_that_mislead, queries_that_round])
    def test_the_same_in_triton(self, problem, monkeypatch):
        from spae_ops.lookup import triton

        monkeypatch.setattr(triton, "ROWS_PER_FRAME", 64)  # programs are what takes time
        made = problem()
        x, codes = made if isinstance(made, tuple) else (torch.zeros(1, 8), made)
        x = x[:8]
        assert torch.equal(triton.search(x, codes, triton.prepare(codes), None, 1)[0], nearest(x, codes))
