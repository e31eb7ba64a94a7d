from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

import spae_ops
from spae.testing import oracles, strategies
from spae_ops import CodeIndex, nearest_code, squared_distance, topk_codes
from spae_ops.code_index import as_table

IMPLS = [i.name for i in spae_ops.implementations("nearest_code") if i.available]
every_impl = pytest.mark.parametrize("impl", IMPLS)


@every_impl
@given(problem=strategies.lookups(), k=st.integers(1, 5))
def test_exact_ids_and_distances(impl, problem, k):
    x, codes, mask = problem
    k = min(k, len(codes) if mask is None else int(mask.sum()))
    ids, sqdist = topk_codes(x, codes, k, mask=mask, impl=impl)
    expected, distances = oracles.topk_codes(x, codes, k, mask)
    assert (ids.numpy() == expected).all()
    assert (sqdist.numpy() == distances.astype(np.float32)).all()
    nearest = nearest_code(x, codes, mask=mask, impl=impl)
    assert torch.equal(nearest.ids, ids[:, 0])
    assert torch.equal(nearest.sqdist, sqdist[:, 0])


@given(problem=strategies.lookups(max_codes=8, max_queries=4, widths=(1, 3, 33)))
def test_definition_is_the_squared_distance(problem):
    """Against rational arithmetic: within a few roundings of the true value, in every case."""
    x, codes, _ = problem
    for q in x.double():
        for c in codes.double():
            exact = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(q.tolist(), c.tolist(), strict=True))
            got = Fraction(float(squared_distance(q[None], c[None])[0]))
            assert abs(got - exact) <= exact * Fraction(3 * len(q) + 8, 2**53)


@given(problem=strategies.lookups())
def test_torch_and_numpy_definitions_agree_to_the_bit(problem):
    x, codes, _ = problem
    expected = oracles.squared_distances(x, codes)
    for row, q in enumerate(x):
        assert (squared_distance(q.expand_as(codes), codes).numpy() == expected[row]).all()


@every_impl
def test_ties_go_to_the_lowest_id(impl):
    codes = torch.tensor([[3.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert nearest_code(torch.zeros(1, 2), codes, impl=impl).ids.tolist() == [1]
    assert topk_codes(torch.zeros(1, 2), codes, 4, impl=impl).ids.tolist() == [[1, 2, 3, 0]]
    mask = torch.tensor([True, False, True, True])
    assert nearest_code(torch.zeros(1, 2), codes, mask=mask, impl=impl).ids.tolist() == [2]
    same = torch.ones(5000, 3)
    assert topk_codes(torch.zeros(2, 3), same, 3, impl=impl).ids.tolist() == [[0, 1, 2]] * 2


@every_impl
def test_exact_midpoints_far_from_the_origin_tie(impl):
    """|q|^2 - 2<q,c> + |c|^2 in float64 would break these ties by rounding."""
    rng = np.random.default_rng(0)
    centre = rng.integers(-(2**20), 2**20, 48)
    steps = rng.integers(-50, 51, (64, 48))
    pair = np.stack([centre + steps, centre - steps], 1)
    codes = torch.from_numpy(pair.reshape(-1, 48)).float()
    for i in range(64):
        allowed = torch.zeros(128, dtype=torch.bool)
        allowed[2 * i : 2 * i + 2] = True
        query = torch.from_numpy(centre).float()[None]
        assert nearest_code(query, codes, mask=allowed, impl=impl).ids.item() == 2 * i


@every_impl
@pytest.mark.parametrize("num_codes", [1, 2, 2047, 2048, 2049, 4097])
@pytest.mark.parametrize("width", [1, 17, 40])
def test_odd_sizes(impl, num_codes, width):
    generator = torch.Generator().manual_seed(num_codes + width)
    codes = torch.randn(num_codes, width, generator=generator)
    x = torch.randn(33, width, generator=generator)
    assert (nearest_code(x, codes, impl=impl).ids.numpy() == oracles.topk_codes(x, codes, 1)[0][:, 0]).all()


@every_impl
@pytest.mark.parametrize("width", [576, 640, 1536])
def test_real_widths(impl, width):
    generator = torch.Generator().manual_seed(width)
    codes = torch.randn(700, width, generator=generator)
    x = torch.cat([torch.randn(40, width, generator=generator), codes[:30] + 1e-3])
    assert (nearest_code(x, codes, impl=impl).ids.numpy() == oracles.topk_codes(x, codes, 1)[0][:, 0]).all()


@every_impl
def test_huge_values_do_not_overflow_the_screening(impl):
    codes = torch.tensor([[1e30, 0.0], [0.0, 1e30], [3e38, -3e38], [1e-30, 0.0]])
    x = torch.tensor([[2e30, 0.0], [0.0, 0.0], [3e38, -2e38], [0.9e30, 0.9e30]])
    assert (nearest_code(x, codes, impl=impl).ids.numpy() == oracles.topk_codes(x, codes, 1)[0][:, 0]).all()


@every_impl
def test_shapes_and_types(impl):
    codes = torch.randn(50, 8)
    for shape in [(8,), (0, 8), (3, 8), (2, 3, 8), (2, 0, 8)]:
        for dtype in strategies.DTYPES:
            ids, sqdist = nearest_code(torch.randn(shape).to(dtype), codes, impl=impl)
            assert ids.shape == sqdist.shape == shape[:-1]
            assert (ids.dtype, sqdist.dtype) == (torch.int64, torch.float32)
            assert topk_codes(torch.randn(shape).to(dtype), codes, 4, impl=impl).ids.shape == (*shape[:-1], 4)
    strided = torch.randn(8, 6).T
    expected = nearest_code(strided.contiguous(), codes, impl=impl)
    assert torch.equal(nearest_code(strided, codes, impl=impl).ids, expected.ids)
    assert not nearest_code(torch.randn(2, 8, requires_grad=True), codes, impl=impl).sqdist.requires_grad


@every_impl
def test_index_equals_tensor_and_runs_repeat(impl):
    codes, x = torch.randn(3000, 24), torch.randn(500, 24)
    index = CodeIndex(codes, impl=impl)
    first = nearest_code(x, index, impl=impl)
    for again in (
        nearest_code(x, index, impl=impl),
        nearest_code(x, codes, impl=impl),
        nearest_code(x, index),
    ):
        assert torch.equal(again.ids, first.ids)
        assert torch.equal(again.sqdist, first.sqdist)


@every_impl
def test_no_matrix_of_all_distances(impl):
    """Peak memory of a lookup stays far below one fp32 [N, K] matrix."""
    num_queries = 256 if impl == "reference" else 4096  # the definition takes its time
    codes, x = torch.randn(30_000, 8), torch.randn(num_queries, 8)
    index = CodeIndex(codes, impl=impl)
    with torch.profiler.profile(profile_memory=True) as profile:
        nearest_code(x, index, impl=impl)
    live = peak = 0
    for event in sorted(_memory_events(profile), key=lambda e: e[0]):
        live += event[1]
        peak = max(peak, live)
    assert 0 < peak < num_queries * 30_000 * 4 / 4


def _memory_events(profile):
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            yield event.start_ns(), event.nbytes()


def test_common_mean_and_lattice_under_autocast():
    """A caller's autocast must not reach the screening."""
    codes, x = torch.randn(400, 32) + 100, torch.randn(64, 32) + 100
    expected = nearest_code(x, codes).ids
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_code(x, codes).ids, expected)


GOOD = torch.zeros(2, 4)
CODES = torch.randn(6, 4)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (
            ValueError,
            r"x: expected shape \[\.\., 4\].*got \[2, 3\]",
            lambda: nearest_code(torch.zeros(2, 3), CODES),
        ),
        (
            TypeError,
            "x: expected dtype float32 or float16 or bfloat16, got int64",
            lambda: nearest_code(GOOD.long(), CODES),
        ),
        (TypeError, "x: expected dtype .*got float64", lambda: nearest_code(GOOD.double(), CODES)),
        (TypeError, "x: expected a torch.Tensor, got ndarray", lambda: nearest_code(GOOD.numpy(), CODES)),
        (ValueError, r"codes: expected shape \[K, D\], got \[4\]", lambda: nearest_code(GOOD, CODES[0])),
        (ValueError, r"codes: expected a codebook with K >= 1", lambda: nearest_code(GOOD, CODES[:0])),
        (ValueError, r"codes: expected finite values", lambda: nearest_code(GOOD, CODES / 0)),
        (
            ValueError,
            r"codebook: expected finite values.* 1 of 6 rows: 2",
            lambda: CodeIndex(_with_nan(CODES, 2)),
        ),
        (
            ValueError,
            r"x: expected finite values.* 1 of 2 rows: 1",
            lambda: nearest_code(_with_nan(GOOD, 1), CODES),
        ),
        (
            ValueError,
            r"mask: expected shape \[6\]",
            lambda: nearest_code(GOOD, CODES, mask=torch.ones(5, dtype=torch.bool)),
        ),
        (
            TypeError,
            r"mask: expected dtype bool, got float32",
            lambda: nearest_code(GOOD, CODES, mask=torch.ones(6)),
        ),
        (
            ValueError,
            r"mask: expected at least one True",
            lambda: nearest_code(GOOD, CODES, mask=torch.zeros(6, dtype=torch.bool)),
        ),
        (ValueError, r"k: expected at most the 6 codes", lambda: topk_codes(GOOD, CODES, 7)),
        (ValueError, r"k: expected an integer of at least 1, got 0", lambda: topk_codes(GOOD, CODES, 0)),
        (ValueError, r"impl: expected 'auto' or one of", lambda: nearest_code(GOOD, CODES, impl="magic")),
        (ValueError, r"op: expected one of", lambda: spae_ops.implementations("magic")),
        (
            ValueError,
            r"x: expected the codebook's device meta, got cpu",
            lambda: nearest_code(GOOD, CODES.to("meta")),
        ),
    ],
)
def test_errors_name_the_argument(error, message, call):
    with pytest.raises(error, match=message):
        call()


def _with_nan(values, row):
    values = values.clone()
    values[row, 1] = torch.nan
    return values


def test_unavailable_implementation_raises_with_its_reason(monkeypatch):
    from spae_ops.lookup import reference

    monkeypatch.setattr(reference, "unavailable", lambda device: "it is away today")
    with pytest.raises(
        RuntimeError, match=r"impl: 'reference' cannot run nearest_code on cpu: it is away today"
    ):
        nearest_code(GOOD, CODES, impl="reference")
    rows = {i.name: i for i in spae_ops.implementations("nearest_code")}
    assert rows["reference"] == ("reference", False, "it is away today")


@every_impl
def test_opcheck(impl):
    index = CodeIndex(CODES, impl=impl)
    arguments = (torch.randn(3, 4), *as_table(index), None)
    torch.library.opcheck(torch.ops.spae_ops.nearest_code, (*arguments, impl))
    torch.library.opcheck(torch.ops.spae_ops.topk_codes, (*arguments, 2, impl))


def test_compile_fullgraph_with_dynamic_queries():
    torch._dynamo.reset()
    index = CodeIndex(torch.randn(60, 16))
    counter = CompileCounterWithBackend("inductor")

    @torch.compile(fullgraph=True, dynamic=True, backend=counter)
    def run(x):
        ids, sqdist = nearest_code(x * 2, index)
        return ids, sqdist + 1, topk_codes(x, index, 3).ids

    frames = []
    for n in (5, 17, 64):
        x = torch.randn(n, 16)
        ids, sqdist, top = run(x)
        assert torch.equal(ids, nearest_code(x * 2, index).ids)
        assert torch.equal(sqdist, nearest_code(x * 2, index).sqdist + 1)
        assert torch.equal(top, topk_codes(x, index, 3).ids)
        frames.append(counter.frame_count)
    assert len(set(frames)) == 1, "recompiles with the number of rows"
