"""The Triton search: its answers in the interpreter, its compilation.

The interpreter is chosen when triton is first imported, so those tests run in a process of their own.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spae.testing import oracles, strategies

pytest.importorskip("triton", reason="needs triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    from spae_ops.lookup import tensor_cores
    from spae_ops.lookup import triton as implementation


def test_answers_in_the_interpreter(run_interpreted):
    run_interpreted(__file__)


class TestInterpreted:
    __test__ = INTERPRETED

    @pytest.fixture(autouse=True)
    def poison(self, monkeypatch):
        """Memory that was not written holds NaN, or the largest integer."""
        # Programs are what takes time in the interpreter; test_every_configuration has as many as a device.
        monkeypatch.setattr(implementation, "ROWS_PER_FRAME", 64)
        torch.use_deterministic_algorithms(True)
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.empty(3).isnan().all()
        yield
        torch.use_deterministic_algorithms(False)

    @settings(max_examples=20)
    @given(
        problem=strategies.lookups(max_queries=4, max_codes=140, widths=(1, 17, 40)),
        k=st.sampled_from((1, 1, 3)),
    )
    def test_hard_lookups(self, problem, k):
        x, codes, mask = problem
        check(x, codes, mask, min(k, len(codes) if mask is None else int(mask.sum())))

    @pytest.mark.parametrize("kind", strategies.KINDS)
    def test_every_kind(self, kind):
        rng = np.random.default_rng(len(kind))
        codes = strategies._values(kind, (140, 33), rng)
        check(strategies._queries(kind, 4, codes, rng), codes)

    @pytest.mark.parametrize("num_codes", [1, 127, 128, 129, 257])
    @pytest.mark.parametrize("width", [1, 17, 40])
    def test_sizes_around_the_tile(self, num_codes, width):
        generator = torch.Generator().manual_seed(num_codes + width)
        codes = torch.randn(num_codes, width, generator=generator)
        check(torch.randn(3, width, generator=generator), codes)

    @pytest.mark.parametrize("width", [63, 64, 65, 576, 640, 1536])
    def test_widths(self, width):
        codes = torch.randn(130, width, generator=torch.Generator().manual_seed(width))
        check(torch.cat([codes[:2] + 1e-3, torch.randn(2, width)]), codes)

    @pytest.mark.parametrize("x_dtype", strategies.DTYPES)
    @pytest.mark.parametrize("dtype", strategies.DTYPES)
    def test_dtypes(self, dtype, x_dtype):
        generator = torch.Generator().manual_seed(7)
        codes = torch.randn(140, 24, generator=generator).to(dtype)
        check(torch.randn(4, 24, generator=generator).to(x_dtype), codes)

    @pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0)])
    @pytest.mark.parametrize("num_queries", [3, 70])
    def test_every_configuration(self, capability, num_queries, monkeypatch):
        monkeypatch.undo()
        monkeypatch.setattr(implementation, "capability", lambda device: capability)
        codes = torch.randn(300, 100, generator=torch.Generator().manual_seed(1))
        check(codes[torch.arange(num_queries)] * 1.01, codes)

    def test_chunks_of_queries_and_passes_over_candidates(self, monkeypatch):
        monkeypatch.setattr(tensor_cores, "SUMMARY_BYTES", (1, 1))
        monkeypatch.setattr(tensor_cores, "LIST_LIMIT", 2)
        codes = torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
        check(codes[torch.arange(130)] + 1e-4, codes)
        check(codes[:2] * 1.1, codes, None, 5)
        check(codes[:2] * 1.1, codes[:3], None, 3)

    def test_more_answers_than_ranges_of_tiles_allow(self):
        codes = torch.randn(300, 4, generator=torch.Generator().manual_seed(3))
        check(codes[:1], codes, None, tensor_cores.SPLIT_LIMIT + 1)

    def test_no_queries(self):
        check(torch.empty(0, 5), torch.randn(7, 5))
        check(torch.empty(0, 5), torch.randn(7, 5), None, 2)

    def test_ties_and_thousands_of_duplicates(self):
        check(torch.zeros(2, 3), torch.ones(1100, 3), None, 2)
        mask = torch.zeros(1100, dtype=torch.bool)
        mask[[700, 1000]] = True
        check(torch.zeros(2, 3), torch.ones(1100, 3), mask)

    @pytest.mark.parametrize("only", [0, 127, 128, 299])
    def test_one_allowed_code(self, only):
        mask = torch.zeros(300, dtype=torch.bool)
        mask[only] = True
        check(torch.randn(3, 20), torch.randn(300, 20), mask)

    def test_huge_and_tiny_values(self):
        codes = torch.tensor([[1e30, 0.0], [0.0, 1e30], [3e38, -3e38], [1e-30, 0.0], [0.0, 1e-44]])
        check(torch.tensor([[2e30, 0.0], [0.0, 0.0], [3e38, -2e38], [0.9e30, 0.9e30], [1e-44, 0.0]]), codes)
        tiny = torch.randint(-3, 4, (140, 5)).float() * 2.0**-149
        check(torch.cat([tiny[:2], torch.full((1, 5), 3e38), torch.ones(1, 5)]), tiny)
        check(torch.full((2, 5), 1e-3), torch.zeros(140, 5))

    def test_nothing_is_framed_as_subnormal(self):
        """Around half precision's least normal number; the residuals measured say what was dropped."""
        width, least = 40, tensor_cores.LEAST
        steps = torch.tensor([0.0, 2.0**-24, 0.5, 0.99, 1 - 2.0**-24, 1.0, 1.001, 3.0]) * least
        codes = steps[torch.randint(0, 8, (130, width), generator=torch.Generator().manual_seed(6))]
        codes *= torch.randn(130, width, generator=torch.Generator().manual_seed(7)).sign()
        codes[0, 0] = 2.0**14
        for rows, queries in ((codes, False), (codes * 2.0**-31, True)):
            out = torch.empty(256, 64, dtype=torch.float16)
            measured = torch.empty(3 + queries, 256)
            frame = torch.tensor([0.0] * width + [2.0 if queries else 1.0], dtype=torch.float64)
            implementation.KERNELS.frame(rows, frame, out, measured)
            back = measured[3, :130].double() if queries else torch.ones(130, dtype=torch.float64)
            seen, exact = out[:130, :width].double(), rows.double() * frame[-1] / back[:, None]
            assert (seen[seen != 0].abs() >= least).all()
            assert (seen[exact.abs() >= least] != 0).all()
            residual, found = ((exact - seen).norm(dim=1) * back), measured[1, :130].double()
            assert (residual <= found).all()
            assert (found <= residual * (1 + 2.0**-19) + exact.norm(dim=1) * back * 2.0**-52).all()

    @pytest.mark.parametrize("scale", [1.0, 2.0**-120, 2.0**100])
    def test_bisectors_to_the_last_bit(self, scale):
        """Queries in the middle of two codes, and one step of the format to either side."""
        rng = np.random.default_rng(4)
        codes = torch.from_numpy(rng.standard_normal((130, 40)) + 3).float() * scale
        middle = ((codes[:2].double() + codes[2:4].double()) / 2).float()
        x = torch.cat([middle, middle.nextafter(codes[2:4]), middle.nextafter(codes[:2])])
        mask = torch.zeros(130, dtype=torch.bool)
        mask[:4] = True
        check(x, codes, mask)

    def test_bound_holds_and_decides(self):
        """The largest w of a tile is within the slack of its code's score, and most random rows are decided."""
        generator = torch.Generator().manual_seed(5)
        codes, x = torch.randn(500, 96, generator=generator), torch.randn(40, 96, generator=generator)
        index = tensor_cores.Index(codes, *implementation.prepare(codes))
        summary = tensor_cores.screen(implementation.KERNELS, x, index)
        shift, scale = index.frame[:-1], index.frame[-1]
        q, c = (x.double() - shift) * scale, (codes.double() - shift) * scale
        scores = q @ c.T - c.square().sum(1) / 2
        a, b, own = index.bounds.double()[:, :, None]
        n = len(x)
        norms, residuals, owns, _ = summary.measured[:, :n]
        slack = norms * a + residuals * b + owns + own
        for nth, w in enumerate(summary.scores[:, :, :n]):
            exact = torch.stack([tile.topk(2, 1).values[:, nth] for tile in scores.split(128, 1)])
            room = slack + 1.125 * 2.0**-16 * w.abs()
            assert ((w - exact).abs() <= room).all()
            assert (room < 2e-3 * norms * index.bounds[1][:, None]).all()
        ids, sqdist = torch.empty(n, 1, dtype=torch.int64), torch.empty(n, 1, dtype=torch.float64)
        decided = tensor_cores.certify(implementation.KERNELS, x, index, summary, ids, sqdist).isinf()
        assert decided.float().mean() > 0.8
        assert (ids[decided, 0].numpy() == oracles.topk_codes(x, codes, 1)[0][decided, 0]).all()

    def test_through_the_public_functions(self):
        import spae_ops

        x, codes = torch.randn(2, 3, 12), torch.randn(140, 12)
        rows = {row.name: row for row in spae_ops.implementations("nearest_code")}
        assert rows["triton"].available
        index = spae_ops.CodeIndex(codes, impl="triton")
        found = spae_ops.nearest_code(x, index, impl="triton")
        assert torch.equal(found.ids, spae_ops.nearest_code(x, codes, impl="reference").ids)
        assert spae_ops.CodeIndex(codes).impl != "triton"  # "auto" never takes the interpreter


def check(x, codes, mask=None, k=1):
    ids, sqdist = implementation.search(x, codes, implementation.prepare(codes), mask, k)
    expected, distances = oracles.topk_codes(x, codes, k, mask)
    assert (ids.numpy() == expected).all()
    with np.errstate(over="ignore"):
        assert (sqdist.numpy() == distances.astype(np.float32)).all()


def test_missing_triton_is_an_import_error_that_says_so(run_python):
    result = run_python(
        "import sys; sys.modules['triton'] = None\n"
        "import spae_ops\n"
        "try:\n    import spae_ops.lookup.triton\n"
        "except ImportError as error:\n    assert 'needs triton 3.6 or later' in str(error), error\n"
        "else:\n    raise AssertionError\n"
    )
    assert result.returncode == 0, result.stderr


def test_cpu_tensors_need_the_interpreter(run_python):
    result = run_python(
        "import sys, torch, spae_ops\n"
        "assert 'triton' not in sys.modules\n"
        "from spae_ops.lookup import triton\n"
        "reason = triton.unavailable(torch.device('cpu'))\n"
        "assert reason == 'runs on CUDA tensors; on CPU only with TRITON_INTERPRET=1', reason\n"
        "assert triton.unavailable(torch.device('meta')) == 'runs on CUDA tensors, got meta'\n"
    )
    assert result.returncode == 0, result.stderr


COMPILE = r"""
from spae_ops.lookup import tensor_cores
from spae_ops.lookup import triton as implementation

kernels = implementation.kernels
TYPES = dict(
    x="*bf16", codes="*fp32", first="*fp32", second="*fp32", bounds="*fp32", bias="*fp32", norms="*fp32",
    residuals="*fp32", owns="*fp32", threshold="*fp32", after="*fp64", after_ids="*i64", ids="*i64", sqdist="*fp64",
    shift="*fp64", scale="*fp64", out="*fp16", extra="*fp32", inverse="*fp32", definition_error="fp32",
    partial_ids="*i64", partial="*fp64",
)

rows = []
for queries, widths in ((4096, (256, 640, 768, 1536)), (64, (640,))):
    for width in widths:
        c = implementation.config(divmod(capability, 10), queries)
        types, aligned = {"queries": "*fp16", "codes": "*fp16"}, ["queries", "codes", "inverse", "bias", "first", "second", "rows"]
        if c.descriptors:
            types = {"queries": f"tensordesc<fp16[{c.block_m},{c.block_k}]>", "codes": f"tensordesc<fp16[128,{c.block_k}]>"}
            aligned = aligned[2:]
        constants = dict(WIDTH=width, BLOCK_M=c.block_m, BLOCK_K=c.block_k, DESCRIPTORS=c.descriptors)
        rows.append(compiled(
            kernels.screen, constants, {**TYPES, **types}, aligned,
            num_warps=c.num_warps, num_stages=c.num_stages, maxnreg=c.max_registers,
        ))
for queries in (True, False):
    constants = dict(WIDTH=640, ROWS=implementation.ROWS_PER_FRAME, BLOCK=256, QUERIES=queries)
    rows.append(compiled(kernels.frame_rows, constants, TYPES, **implementation.FRAME))
for block in (8, 32):
    rows.append(compiled(kernels.certify, dict(ROWS=block, TILES=1024 // block), TYPES, num_warps=4))

def ones(kernel):  # a launch makes constants of integers that are 1
    return {name: 1 for name in kernel.arg_names if name in ("N", "D", "tiles", "tiles_per_split", "k")}

for size in (1, 16, tensor_cores.LIST_LIMIT):
    options = dict(implementation.RESOLVE)
    constants = dict(LIST=size, BLOCK=options.pop("BLOCK"), TILES=options.pop("TILES"), AFTER=size > 16, FINAL=size > 1)
    if size == 1:
        rows.append(compiled(kernels.resolve, {**ones(kernels.resolve), **constants}, TYPES, **options))
        constants["k"] = 1
    rows.append(compiled(kernels.resolve, constants, TYPES, **options))
rows.append(compiled(kernels.merge, dict(SIZE=1024), TYPES, num_warps=1))
rows.append(compiled(kernels.merge, dict(SIZE=64, k=1), TYPES, num_warps=1))
constants = {**ones(kernels.certify), "ROWS": 8, "TILES": 128}
rows.append(compiled(kernels.certify, constants, TYPES, num_warps=4))
for queries in (True, False):
    constants = {**ones(kernels.frame_rows), "WIDTH": 64, "ROWS": implementation.ROWS_PER_FRAME, "BLOCK": 64, "QUERIES": queries}
    rows.append(compiled(kernels.frame_rows, constants, TYPES, **implementation.FRAME))
c = implementation.config(divmod(capability, 10), 1)
constants = dict(WIDTH=64, BLOCK_M=c.block_m, BLOCK_K=c.block_k, DESCRIPTORS=c.descriptors, tiles=1, tiles_per_split=1)
rows.append(compiled(
    kernels.screen, constants, {**TYPES, **types}, aligned,
    num_warps=c.num_warps, num_stages=c.num_stages, maxnreg=c.max_registers,
))
"""


@pytest.mark.parametrize(("capability", "shared_per_processor"), [(80, 164), (90, 228), (100, 228)])
def test_compiles_without_spills(capability, shared_per_processor, compile_kernels):
    rows = compile_kernels(COMPILE, capability)
    screens = [row for row in rows if row["kernel"] == "screen"]
    assert len(screens) == 6
    for row in rows:
        assert row["spills"] == 0, row
        assert row["shared"] <= (shared_per_processor - 1) * 1024, row
    for row in screens:
        assert row["matrix"] > 0, row
        # Two programs to a multiprocessor: 1 KiB of shared memory is reserved for each.
        assert 2 * (row["shared"] + 1024) <= shared_per_processor * 1024, row
        assert 2 * row["warps"] * 32 * (-(-row["registers"] // 8) * 8) <= 65536, row
