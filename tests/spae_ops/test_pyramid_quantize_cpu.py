"""The compiled pyramid ops against the plain ones, bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spae.testing import strategies
from spae_ops import CodeIndex, Pyramid, _extension, nearest_code, pyramid_quantize
from spae_ops.quantize import cpu, reference

if _extension.reason() is not None:
    pytest.skip(f"needs the compiled operators: {_extension.reason()}", allow_module_level=True)

RULES = st.sampled_from(("saq", "rq"))
PAPER = Pyramid.square(16, (1, 2, 4, 8, 16, 16))
# More places than a thread takes at a time, in pieces that do not come out even; and layers out of order.
PYRAMIDS = [
    PAPER,
    Pyramid((45,), ((45,), (9,), (15,), (45,))),
    Pyramid((7, 9), ((7, 3), (1, 9), (7, 9), (7, 9), (7, 9))),
    Pyramid((5, 4, 6), ((1, 2, 2), (5, 4, 6), (5, 2, 3))),
]


def channels_last(z):
    return z.movedim(1, -1).contiguous().movedim(-1, 1)


def strided(z):
    wide = torch.full((2 * len(z), *[2 * size + 1 for size in z.shape[1:]]), torch.nan, dtype=z.dtype)
    inner = wide[(slice(None, None, 2), *[slice(1, None, 2)] * (z.ndim - 1))]
    return inner.copy_(z)


def turned(z):
    """With the axes of the grid the wrong way round in memory."""
    axes = [0, 1, *range(z.ndim - 1, 1, -1)]
    return z.permute(axes).contiguous().permute(axes)


MEMORY = {"contiguous": torch.clone, "channels last": channels_last, "strided": strided, "turned": turned}


def numbers(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_equal_bits(got, expected):
    assert got.dtype == expected.dtype
    assert torch.equal(got, expected)
    assert torch.equal(got.signbit(), expected.signbit())


@given(data=st.data(), rule=RULES, masked=st.booleans(), memory=st.sampled_from(list(MEMORY)))
def test_any_pyramid(data, rule, masked, memory):
    pyramid = data.draw(strategies.pyramids())
    codes = data.draw(strategies.codebooks(max_codes=40, widths=(1, 3, 33)))
    z = MEMORY[memory](data.draw(strategies.latents(pyramid, codes)))
    mask = torch.arange(len(codes)) % 2 == 0 if masked else None

    def lookup(query, layers):
        return nearest_code(query, codes, mask=mask).ids

    ids, quantized = cpu.quantize(z, codes, pyramid, rule, lookup)
    expected = reference.quantize(z, codes, pyramid, rule, lookup)
    assert torch.equal(ids, expected[0])
    assert_equal_bits(quantized, expected[1])
    for fill in ("nearest", "zero"):
        assert_equal_bits(
            cpu.dequantize(ids, codes, pyramid, rule, fill),
            reference.dequantize(ids, codes, pyramid, rule, fill),
        )
    for layer in range(pyramid.num_layers):
        before = ids[:, : pyramid.num_tokens_upto(layer)]
        assert_equal_bits(
            cpu.layer_queries(z, before, codes, pyramid, layer, rule),
            reference.layer_queries(z, before, codes, pyramid, layer, rule),
        )


@pytest.mark.parametrize("pyramid", PYRAMIDS, ids=lambda p: f"{p.ndim}D-{p.num_tokens}")
@pytest.mark.parametrize("rule", ["saq", "rq"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_memory_formats_and_dtypes(pyramid, rule, dtype):
    codes = numbers(300, 37, dtype=dtype)
    z = 2 * numbers(3, 37, *pyramid.shape, dtype=dtype, seed=1)
    index = CodeIndex(codes, impl="cpu")
    for layers in {1, pyramid.num_layers - 1, pyramid.num_layers}:
        expected = pyramid_quantize(z, codes, pyramid, rule=rule, num_layers=layers, impl="reference")
        for memory in MEMORY.values():
            got = pyramid_quantize(memory(z), index, pyramid, rule=rule, num_layers=layers, impl="cpu")
            assert torch.equal(got.ids, expected.ids)
            assert_equal_bits(got.quantized, expected.quantized)
            assert torch.equal(got.covered, expected.covered)


def test_latents_of_another_dtype_than_the_codes():
    codes = numbers(100, 8)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        z = numbers(2, 8, 16, 16, seed=1).to(dtype)
        expected = pyramid_quantize(z, codes, PAPER, impl="reference")
        got = pyramid_quantize(z, codes, PAPER, impl="cpu")
        assert torch.equal(got.ids, expected.ids)
        assert_equal_bits(got.quantized, expected.quantized)


def test_any_number_of_threads():
    codes, z = numbers(500, 24), numbers(5, 24, 16, 16, seed=1)
    index, threads = CodeIndex(codes, impl="cpu"), torch.get_num_threads()
    answers = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            answers.append(pyramid_quantize(z, index, PAPER, impl="cpu"))
    finally:
        torch.set_num_threads(threads)
    for other in answers[1:]:
        assert torch.equal(other.ids, answers[0].ids)
        assert_equal_bits(other.quantized, answers[0].quantized)


def test_subnormal_sums_survive_flushing():
    """Sums of subnormal codes are what they are, whatever the process does with subnormals."""
    codes = torch.tensor([[1e-42], [3e-42]])
    z = torch.full((1, 1, 2), 2e-42)
    pyramid = Pyramid((2,), ((2,), (2,)))
    ids = torch.tensor([[0, 1, 1, 0]])
    features = cpu.dequantize(ids, codes, pyramid, "saq", "nearest")
    queries = cpu.layer_queries(z, ids, codes, pyramid, 1, "saq")
    assert features.count_nonzero() == queries.count_nonzero() == 2
    if not torch.set_flush_denormal(True):
        pytest.skip("needs a processor that can flush subnormals")
    try:
        flushed = cpu.dequantize(ids, codes, pyramid, "saq", "nearest")
        again = cpu.layer_queries(z, ids, codes, pyramid, 1, "saq")
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(flushed, features)
    assert torch.equal(again, queries)


def test_tables_made_in_inference_mode_serve_training():
    """A pyramid's tables are kept: it must not matter where they were first asked for."""
    pyramid = Pyramid((11,), ((1,), (11,)))
    codes, z = numbers(20, 3), numbers(2, 3, 11, seed=1)
    with torch.inference_mode():
        expected = pyramid_quantize(z, codes, pyramid)
    got = pyramid_quantize(z.requires_grad_(), codes, pyramid)
    assert torch.equal(got.ids, expected.ids)
    (got.quantized * z * got.covered).sum().backward()
    assert torch.equal(z.grad, got.quantized)
    got.covered.zero_()
    assert pyramid_quantize(z, codes, pyramid).covered.all()


Z, CODES = torch.zeros(2, 3, 4), torch.zeros(5, 3)
IDS, AT, CHAINS = torch.zeros(2, 6, dtype=torch.int64), torch.arange(4), torch.tensor([[0], [1], [-1], [5]])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"z": Z.double()}, r"z must be a CPU tensor \[B, 3, P\] of float32"),
        ({"z": Z[:1]}, r"z must be .* with ids \[B, n\]"),
        ({"z": Z[:, :2]}, r"z must be a CPU tensor \[B, 3, P\]"),
        ({"ids": IDS + 5}, r"ids must hold codes in \[0, 5\)"),
        ({"ids": IDS - 1}, r"ids must hold codes in \[0, 5\)"),
        ({"ids": IDS.int()}, r"ids must be a contiguous 2-D CPU int64 tensor"),
        ({"codes": CODES.double()}, r"codes must be a contiguous 2-D CPU tensor of float32"),
        ({"positions": AT + 1}, r"positions must lie in \[0, 4\)"),
        ({"positions": AT[:3]}, r"chains must be \[3, J\] like the positions"),
        ({"chains": CHAINS + 1}, r"chains must hold tokens in \[0, 6\) or -1"),
        ({"chains": CHAINS - 1}, r"chains must hold tokens in \[0, 6\) or -1"),
    ],
)
def test_the_operator_checks_what_it_reads(changed, message):
    given = {"z": Z, "ids": IDS, "codes": CODES, "positions": AT, "chains": CHAINS}
    assert torch.ops.spae_ops.pyramid_queries_cpu(*given.values(), True).shape == (2, 4, 3)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.spae_ops.pyramid_queries_cpu(*(given | changed).values(), True)
