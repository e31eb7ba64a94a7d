"""The Triton pyramid ops: bit for bit the plain ones in the interpreter, their compilation for GPUs."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spae.testing import strategies
from spae_ops import Pyramid, layer_queries, nearest_code, pyramid_dequantize, pyramid_quantize
from spae_ops.quantize import reference

pytest.importorskip("triton", reason="needs triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    from spae_ops.quantize import triton as implementation

# More places than a program takes, and layers out of order.
PYRAMIDS = [
    Pyramid.square(8, (1, 2, 4, 8, 8)),
    Pyramid((45,), ((45,), (9,), (15,), (45,))),
    Pyramid((5, 4, 6), ((1, 2, 2), (5, 4, 6), (5, 2, 3))),
]
SMALL = Pyramid.square(4, (1, 2, 4, 4))
RULES = ["saq", "rq"]


def test_answers_in_the_interpreter(run_interpreted):
    run_interpreted(__file__)


class TestInterpreted:
    __test__ = INTERPRETED

    @pytest.fixture(autouse=True)
    def poison(self, monkeypatch):
        """Memory that was not written holds NaN, or the largest integer."""
        # Programs are what takes time in the interpreter.
        monkeypatch.setattr(implementation, "BLOCKS", implementation.BLOCKS | {"PLACES": 64, "BLOCK": 128})
        torch.use_deterministic_algorithms(True)
        assert torch.empty(3).isnan().all()
        yield
        torch.use_deterministic_algorithms(False)

    @settings(max_examples=8)
    @given(data=st.data(), rule=st.sampled_from(RULES), masked=st.booleans())
    def test_any_pyramid(self, data, rule, masked):
        pyramid = data.draw(strategies.pyramids())
        codes = data.draw(strategies.codebooks(max_codes=40, widths=(1, 3, 70)))
        z = data.draw(strategies.latents(pyramid, codes))
        check(z, codes, pyramid, rule, torch.arange(len(codes)) % 2 == 0 if masked else None)

    @pytest.mark.parametrize(("pyramid", "rule"), [*zip(PYRAMIDS, ["saq", "rq", "saq"], strict=True)])
    def test_more_places_and_channels_than_a_block(self, pyramid, rule, monkeypatch):
        monkeypatch.undo()
        check(random(2, 65, *pyramid.shape), random(50, 65, seed=1), pyramid, rule)

    @pytest.mark.parametrize("dtype", strategies.DTYPES)
    @pytest.mark.parametrize("z_dtype", strategies.DTYPES)
    def test_dtypes(self, z_dtype, dtype):
        check(random(2, 5, 4, 4).to(z_dtype), random(50, 5, seed=1).to(dtype), SMALL, "saq")

    @pytest.mark.parametrize("memory", ["channels last", "strided", "turned"])
    def test_memory_formats(self, memory):
        z = random(2, 5, 4, 4)
        if memory == "channels last":
            z = z.contiguous(memory_format=torch.channels_last)
        elif memory == "strided":
            z = random(4, 10, 9, 9)[::2, ::2, 1::2, 1::2]
        else:
            z = z.mT.contiguous().mT
        codes = random(50, 10, seed=1)[:, ::2]
        check(z, codes, SMALL, "saq")

    def test_zeros_keep_their_signs(self):
        codes = torch.tensor([[0.0, -0.0, 1.0], [-0.0, -0.0, -1.0]])
        z = torch.tensor([0.0, -0.0, -0.0])[None, :, None, None].expand(1, 3, 4, 4)
        check(z, codes, SMALL, "rq")

    @pytest.mark.filterwarnings("ignore:overflow encountered")
    def test_sums_beyond_float32_and_below_its_normal_numbers(self):
        codes = torch.tensor([[1e-42, 3e38], [3e-42, 3e38]])
        ids = torch.tensor([[0, 1, 1, 0]])
        pyramid = Pyramid((2,), ((2,), (2,)))
        check_gathers(torch.full((1, 2, 2), 2e-42), ids, codes, pyramid, "saq")
        check_gathers(torch.full((1, 2, 2), 2e-42), ids, codes, pyramid, "rq")

    @pytest.mark.parametrize("dtype", [*strategies.DTYPES, torch.float64])
    def test_gradients_of_any_dtype(self, dtype):
        for layer in range(PYRAMIDS[1].num_layers):
            grad = random(3, PYRAMIDS[1].tokens_per_layer[layer], 70, seed=layer).to(dtype)
            for rule in RULES if dtype.itemsize > 2 else ["rq"]:
                got = implementation.layer_queries_backward(grad, PYRAMIDS[1], layer, rule)
                assert_equal_bits(got, reference.layer_queries_backward(grad, PYRAMIDS[1], layer, rule))

    def test_no_images(self):
        check(random(0, 5, 4, 4), random(9, 5), SMALL, "saq")

    def test_through_the_public_functions(self, monkeypatch):
        import spae_ops

        for op in ("pyramid_dequantize", "layer_queries"):
            rows = {row.name: row for row in spae_ops.implementations(op)}
            assert rows["triton"].available
        pyramid, codes, z = SMALL, random(50, 6, seed=1), random(2, 6, 4, 4)
        expected = pyramid_quantize(z, codes, pyramid, impl="reference")
        gathers = []
        monkeypatch.setattr(implementation, "_queries", _noted(implementation._queries, gathers))
        got = pyramid_quantize(z, codes, pyramid, impl="triton")
        assert len(gathers) == len(pyramid.rounds())
        assert torch.equal(got.ids, expected.ids)
        assert_equal_bits(got.quantized, expected.quantized)
        in_double = pyramid_quantize(z.double(), codes, pyramid, impl="triton")
        assert torch.equal(in_double.ids, expected.ids)

        back = pyramid_dequantize(got.ids, codes, pyramid, impl="triton")
        assert_equal_bits(back.quantized, expected.quantized)

        slopes = []
        for impl in ("reference", "triton"):
            tracked = z.clone().requires_grad_()
            query = layer_queries(tracked, got.ids, codes, pyramid, 3, impl=impl)
            slopes.append((query.detach(), *torch.autograd.grad(query.square().sum(), tracked)))
        assert len(gathers) == len(pyramid.rounds()) + 1
        for plain, ours in zip(*slopes, strict=True):
            assert_equal_bits(ours, plain)


def _noted(function, calls):
    def wrapped(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    return wrapped


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_equal_bits(got, expected):
    assert got.dtype == expected.dtype
    assert got.is_contiguous()
    assert torch.equal(got, expected)
    assert torch.equal(got.signbit(), expected.signbit())


def check(z, codes, pyramid, rule, mask=None):
    def lookup(query, layers):
        return nearest_code(query, codes, mask=mask).ids

    ids, quantized = implementation.quantize(z, codes, pyramid, rule, lookup)
    expected = reference.quantize(z, codes, pyramid, rule, lookup)
    assert torch.equal(ids, expected[0])
    assert_equal_bits(quantized, expected[1])
    check_gathers(z, ids, codes, pyramid, rule)


def check_gathers(z, ids, codes, pyramid, rule):
    for fill in ("nearest", "zero"):
        for layers in {1, pyramid.num_layers}:
            kept = pyramid.upto(layers)
            arguments = ids[:, : kept.num_tokens], codes, kept, rule, fill
            assert_equal_bits(implementation.dequantize(*arguments), reference.dequantize(*arguments))
    for layer in range(pyramid.num_layers):
        arguments = z, ids[:, : pyramid.num_tokens_upto(layer)], codes, pyramid, layer, rule
        query = implementation.layer_queries(*arguments)
        assert_equal_bits(query, reference.layer_queries(*arguments))
        arguments = query, pyramid, layer, rule  # any values will do
        assert_equal_bits(
            implementation.layer_queries_backward(*arguments), reference.layer_queries_backward(*arguments)
        )


COMPILE = r"""
from spae_ops.quantize import triton as implementation

kernels = implementation.kernels
POINTERS = dict(ids="*i64", positions="*i64", sources="*i64", chains="*i64", codes="*fp32", out="*fp32")
SIZES = dict(implementation.BLOCKS)
launch = dict(num_warps=SIZES.pop("num_warps"))
aligned = ["z", "ids", "codes", "positions", "sources", "chains", "out", "grad", "D", "places", "image_stride"]

rows = []
for average, z, codes, ones in (
    (True, "*fp32", "*fp32", {}), (True, "*fp32", "*fp32", {"place_stride": 1}), (True, "*bf16", "*fp16", {"stride": 1}),
    (True, "*fp32", "*fp32", {"length": 1, "row": 1}), (False, "*fp32", "*fp32", {}), (False, "*fp16", "*bf16", {"D": 1}),
):
    constants, types = {**SIZES, **ones, "AVERAGE": average}, {**POINTERS, "z": z, "codes": codes}
    rows.append(compiled(kernels.queries, constants, types, aligned, **launch))
for average, nearest, codes in ((True, True, "*fp32"), (True, False, "*bf16"), (False, True, "*fp32")):
    constants = {**SIZES, "AVERAGE": average, "NEAREST": nearest}
    rows.append(compiled(kernels.features, constants, {**POINTERS, "codes": codes}, aligned, **launch))
for average, dtype in ((True, "*fp32"), (True, "*fp64"), (False, "*bf16")):
    types = {**POINTERS, "grad": dtype, "out": dtype}
    rows.append(compiled(kernels.queries_backward, {**SIZES, "AVERAGE": average}, types, aligned, **launch))
"""


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_compiles_without_spills(capability, compile_kernels):
    rows = compile_kernels(COMPILE, capability)
    assert len(rows) == 12
    for row in rows:
        assert row["spills"] == 0, row
        assert row["registers"] <= 128, row
        assert row["shared"] <= 48 * 1024, row


def test_nothing_imports_it_before_it_is_asked_for(run_python):
    result = run_python(
        "import sys, torch, spae_ops\n"
        "from spae_ops._dispatch import PYRAMID\n"
        "for device in ('cpu', 'cuda'):\n"
        "    assert PYRAMID.resolve('layer_queries', 'auto', torch.device(device))[0] != 'triton'\n"
        "assert 'triton' not in sys.modules\n"
    )
    assert result.returncode == 0, result.stderr
