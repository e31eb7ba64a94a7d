"""The bound that the Triton and CUDA screens rest on, against the models of tensor cores it cites."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spae_ops.lookup import frame, tensor_cores

# Terms a step adds, bits below the largest exponent that it keeps, what the docstring says is needed of G.
MODELS = {"V100": (4, 23, 0.75), "A100": (8, 24, 0.35), "H100, H200, B200": (16, 25, 0.17)}


@pytest.mark.parametrize("width", [64, 256, 1536])
@pytest.mark.parametrize("gpu", MODELS)
def test_accumulation_bound(gpu, width):
    """G = W 2^-22 of the proof covers the sums, and so does the part of it that the docstring states."""
    terms, bits, share = MODELS[gpu]
    rng = np.random.default_rng(width + bits)
    worst = 0.0
    for low, high in ((1.0, 2.0), (-2.0, 2.0), (1.99, 2.0), (0.0, 2.0), (1.0, 1.01)):
        q, c = (rng.uniform(low, high, (500, width)).astype(np.float16).astype(float) for _ in range(2))
        error = np.abs(accumulate(q, c, terms, bits) - (q * c).sum(1))
        worst = max(worst, (error / np.sqrt((q * q).sum(1) * (c * c).sum(1))).max())
    assert 0 < worst <= share * width * 2.0**-22 <= width * 2.0**-22


@pytest.mark.parametrize("gpu", MODELS)
def test_the_bound_needs_normal_factors_and_holds_for_all(gpu):
    """Where each step has a large element of the query, its small ones are lost beside a subnormal of the code."""
    terms, bits, _ = MODELS[gpu]
    rng = np.random.default_rng(bits)

    def worst(exponents):
        q, c = rng.integers(1024, 2048, (2, 500, 64)) / 1024
        q *= rng.choice([0.25, 2.0**14, -(2.0**14)], q.shape, p=[0.9, 0.05, 0.05])
        c = (c * 2.0 ** rng.choice(exponents, c.shape)).astype(np.float16).astype(float)
        error = np.abs(accumulate(q, c, terms, bits) - (q * c).sum(1))
        return (error / np.sqrt((q * q).sum(1) * (c * c).sum(1))).max()

    least = int(np.log2(tensor_cores.LEAST))
    for exponents in ([least], [least, least + 1], range(least, 15)):
        assert worst(exponents) <= 64 * 2.0**-22
    assert worst([least - 10]) > 64 * 2.0**-22


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("count", [1, 2, 7, 254, 300])
def test_the_shift_is_the_median_without_an_operator_that_cuda_refuses(count):
    """`use_deterministic_algorithms` makes median along a dimension an error on CUDA."""
    codes = torch.randn(count, 5, generator=torch.Generator().manual_seed(count)) + 100
    with Calls() as calls:
        shift = frame.shift_of(codes)
    sample = codes[torch.arange(min(count, 255)) * count // min(count, 255)]
    assert torch.equal(shift, sample.double().median(0).values)
    assert not calls.names & {"aten.median.dim", "aten.median.dim_values", "aten.kthvalue.default"}


def accumulate(q, c, terms, bits):
    """Rows' inner products: cut to multiples of 2^(x - bits), x the largest exponent, of a product its factors' sum.

    Subnormal factors have the exponent -14.
    """
    products, exponents = q * c, exponent(q, -14) + exponent(c, -14)
    total = np.zeros(len(q))
    for start in range(0, q.shape[1], terms):
        block = slice(start, start + terms)
        largest = np.maximum(exponents[:, block].max(1), exponent(total))
        step = 2.0 ** (largest - bits)[:, None]
        exact = np.trunc(products[:, block] / step).sum(1) + np.trunc(total / step[:, 0])
        exact *= step[:, 0]
        last = 2.0 ** (exponent(exact) - 23)
        total = np.trunc(exact / last) * last
    return total


def exponent(values, lowest=-126):
    """e of |values| in [1, 2) 2^e, at least `lowest`; very low for zero."""
    return np.where(values == 0, -500.0, np.maximum(np.frexp(values)[1] - 1.0, lowest))
