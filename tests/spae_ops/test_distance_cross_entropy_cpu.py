"""The compiled distance cross-entropy against float64 and against materialising torch: every instruction set here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from spae_ops import CodeIndex, _extension, distance_cross_entropy, squared_distance
from spae_ops.cross_entropy import cpu, reference

if _extension.reason() is not None:
    pytest.skip(f"needs the compiled operators: {_extension.reason()}", allow_module_level=True)

# AVX-VNNI has nothing for this op that AVX2 has not, and AMX nothing that others have not.
INSTRUCTION_SETS = [
    name for name in _extension.load().instruction_sets() if not name.startswith(("avxvnni", "amx"))
]


# Every row truncated too, with the instruction sets that have an int8 screen: S may then be all codes.
WAYS = [
    (name, way) for name in INSTRUCTION_SETS for way in ("auto", "on") if (name, way) != ("portable", "on")
]


@pytest.fixture(params=WAYS, ids="-".join)
def isa(request, monkeypatch):
    name, truncate = request.param
    monkeypatch.setenv("SPAE_ISA", name)
    monkeypatch.setenv("SPAE_TRUNCATE", truncate)
    return name


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def targets(count, num_codes, seed=2):
    return torch.randint(num_codes, (count,), generator=torch.Generator().manual_seed(seed))


def ours(x, codes, target, temperature):
    return cpu.loss_and_gradient(x, codes, cpu.prepare(codes), target, temperature, True)


def in_float64(x, codes, target, temperature) -> tuple[Tensor, Tensor]:
    """loss and gradient, from distances as differences."""
    x, codes = x.double(), codes.double()
    distance = torch.cdist(x, codes, compute_mode="donot_use_mm_for_euclid_dist").square()
    probability = torch.softmax(-distance / temperature, 1)
    loss = torch.nn.functional.cross_entropy(-distance / temperature, target, reduction="none")
    return loss, 2 / temperature * (probability @ codes - codes[target])


def materialising(x, codes, target, temperature, *, centred: bool) -> tuple[Tensor, Tensor]:
    """The same in fp32, by torch's matrix product and autograd."""
    mean = codes.float().mean(0) * centred
    x, codes = (x.float() - mean).requires_grad_(), codes.float() - mean
    logits = torch.addmm(codes.square().sum(1), x, codes.T, beta=-1 / temperature, alpha=2 / temperature)
    loss = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


def check(x, codes, target, temperature):
    """The error is no more than that of fp32 torch in its better form, and a few roundings of the largest square."""
    loss, gradient = ours(x, codes, target, temperature)
    assert loss.dtype == gradient.dtype == torch.float32
    wanted_loss, wanted_gradient = in_float64(x, codes, target, temperature)
    theirs = [materialising(x, codes, target, temperature, centred=c) for c in (False, True)]

    mean = codes.double().mean(0)
    radius = (codes.double() - mean).norm(dim=1).amax()
    reach = (x.double() - mean).norm(dim=1).amax() + radius
    rounding = 4 * 2**-24 * reach.square() / temperature
    peer = min((t[0] - wanted_loss).abs().amax() for t in theirs)
    assert ((loss - wanted_loss).abs() <= peer + 1e-6 * wanted_loss.abs() + 1e-6 + rounding).all()
    peer = min((t[1] - wanted_gradient).abs().amax() for t in theirs)
    scale = 2 / temperature * radius
    error = (gradient - wanted_gradient).abs()
    assert (error <= peer + 1e-6 * wanted_gradient.abs() + scale * (1e-6 + rounding.clamp_max(1))).all()


def test_rows_beyond_the_screens_range(isa):
    """Their scores would overflow, of both signs; framed, they are still in fp32's range."""
    codes, x, target = gaussian(300, 64) * 2.0**-40, torch.full((1, 64), 2.0**86), torch.tensor([5])
    prepared = cpu.prepare(codes)
    assert cpu.num_evaluated(x, codes, prepared, target, 1e50).tolist() == [-1]
    loss, _ = cpu.loss_and_gradient(x, codes, prepared, target, 1e50, False)
    assert loss.item() == pytest.approx(reference_loss(x, codes, target, 1e50), rel=1e-6)


def reference_loss(x, codes, target, temperature) -> float:
    return reference.loss_and_gradient(x, codes, [], target, temperature, False)[0].item()


@pytest.mark.parametrize("width", [1, 2, 3, 7, 16, 31, 33, 100, 129, 576])
def test_widths(isa, width):
    check(gaussian(37, width, seed=1), gaussian(300, width), targets(37, 300), 1.0 + width)


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 31, 33, 47, 48, 49, 97, 600])
def test_query_counts(isa, count):
    x, codes, target = gaussian(count, 20, seed=1), gaussian(700, 20), targets(count, 700)
    if count:
        check(x, codes, target, 5.0)
    else:
        loss, gradient = ours(x, codes, target, 5.0)
        assert loss.shape == (0,)
        assert gradient.shape == (0, 20)


@pytest.mark.parametrize("num_codes", [1, 2, 15, 16, 17, 31, 33, 127, 128, 129, 255, 257, 2500])
def test_codebook_sizes_around_tiles(isa, num_codes):
    check(gaussian(23, 24, seed=1), gaussian(num_codes, 24), targets(23, num_codes), 3.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("table_dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision(isa, dtype, table_dtype):
    check(gaussian(50, 72, seed=1).to(dtype), gaussian(999, 72).to(table_dtype), targets(50, 999), 10.0)


@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("norm", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("kind", ["random", "near", "common mean", "duplicates"])
def test_temperatures_and_norms(isa, kind, norm, temperature):
    width = 40
    codes, target = gaussian(1500, width), targets(60, 1500)
    if kind == "duplicates":
        codes[750:] = codes[:750].clone()
    x = (0.3 if kind == "random" else 1) * codes[target] + 0.5 * gaussian(60, width, seed=1)
    target[::3] = targets(20, 1500, seed=3)
    if kind == "common mean":
        mean = 30 * gaussian(width, seed=4)
        codes, x = codes + mean, x + mean
    check(x * norm / width**0.5, codes * norm / width**0.5, target, temperature)


def test_common_mean_costs_nothing(isa):
    """A shift of everything by 1,000 times the spread moves the loss by no more than it moves the values."""
    codes, x, target = gaussian(800, 32), gaussian(40, 32, seed=1), targets(40, 800)
    shift = torch.full((32,), 1024.0)
    moved_codes, moved = (codes + shift), (x + shift)
    expected = in_float64(moved - shift, moved_codes - shift, target, 5.0)
    for got, wanted in zip(ours(moved, moved_codes, target, 5.0), expected, strict=True):
        assert torch.allclose(got.double(), wanted, rtol=1e-5, atol=1e-6)


def test_far_and_huge_queries(isa):
    """Queries beyond the frame are evaluated in float64; where fp32 cannot tell exponents apart, so are the codes."""
    codes = gaussian(300, 12)
    x = torch.cat([gaussian(8, 12, seed=s) * 10.0**e for s, e in enumerate([-30, -3, 0, 3, 8, 18, 22, 37])])
    target = targets(len(x), 300)
    for temperature in (1e-3, 1.0, 1e3):
        loss, gradient = ours(x, codes, target, temperature)
        expected = reference.loss_and_gradient(x, codes, [], target, temperature, True)
        distance = squared_distance(x, codes[target])
        assert torch.isfinite(gradient).all()
        finite = torch.isfinite(expected[0].float())
        slack = 1e-5 * (1 + expected[0].abs()) + 1e-12 * distance / temperature
        assert ((loss - expected[0]).abs() <= slack)[finite].all()


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e15, 1e18])
def test_magnitudes_scale_with_the_temperature(isa, size):
    codes, x, target = gaussian(200, 8), gaussian(30, 8, seed=1), targets(30, 200)
    codes, x = (codes * size), (x * size)
    temperature = 2.0 * size**2 if size > 1e-20 else 1e-3
    loss, gradient = ours(x, codes, target, temperature)
    wanted_loss, wanted_gradient = in_float64(x, codes, target, temperature)
    assert torch.allclose(loss.double(), wanted_loss, rtol=1e-5, atol=1e-6)
    scale = 2 * float(codes.double().norm(dim=1).amax()) / temperature
    assert torch.allclose(gradient.double(), wanted_gradient, rtol=1e-4, atol=1e-6 * scale)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 5.0])
def test_certain_targets_do_not_cancel(isa, temperature):
    """A target that takes nearly all of the probability."""
    codes = torch.cat([torch.zeros(1, 4), 3 + gaussian(50, 4).abs()])
    x, target = 0.01 * gaussian(20, 4, seed=1), torch.zeros(20, dtype=torch.int64)
    loss, gradient = ours(x, codes, target, temperature)
    distance = (x.double()[:, None] - codes.double()).square().sum(-1) / temperature
    odds = torch.exp(distance[:, :1] - distance[:, 1:])
    assert odds.sum(1).amax() < 0.1
    assert torch.allclose(loss.double(), torch.log1p(odds.sum(1)), rtol=1e-5, atol=0)
    share = odds / (1 + odds.sum(1, keepdim=True))
    wanted = 2 / temperature * share @ codes[1:].double()
    assert torch.allclose(gradient.double(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().min()))


def test_single_code(isa):
    loss, gradient = ours(gaussian(5, 3), gaussian(1, 3, seed=1), torch.zeros(5, dtype=torch.int64), 1e-3)
    assert (loss == 0).all()
    assert (gradient == 0).all()


def test_without_gradient_the_loss_is_the_same(isa):
    codes, x, target = gaussian(900, 30), gaussian(70, 30, seed=1), targets(70, 900)
    loss, gradient = cpu.loss_and_gradient(x, codes, cpu.prepare(codes), target, 3.0, False)
    assert gradient.shape == (0, 30)
    assert torch.equal(loss, ours(x, codes, target, 3.0)[0])


@pytest.mark.parametrize("temperature", [0.01, 1.0, 50.0])
def test_same_bits_on_every_run_and_thread_count(isa, temperature):
    """Enough rows for several groups and enough codes for several chunks."""
    codes, target = gaussian(5000, 600), targets(300, 5000)
    x = 0.5 * codes[target] + gaussian(300, 600, seed=1) * 0.2
    prepared, threads, results = cpu.prepare(codes), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            results.append(cpu.loss_and_gradient(x, codes, prepared, target, temperature, True))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_uninitialised_memory_is_never_read(isa):
    """torch.empty filled with NaN, and a codebook and rows that fill neither panels nor vectors."""
    codes, x, target = gaussian(77, 13), gaussian(19, 13, seed=1), targets(19, 77)
    expected = ours(x, codes, target, 2.0)
    torch.use_deterministic_algorithms(True)  # fills empty tensors
    try:
        got = ours(x, codes, target, 2.0)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_flushed_subnormals_change_nothing(isa):
    codes, x, target = gaussian(300, 16) * 1e-40, gaussian(20, 16, seed=1) * 1e-40, targets(20, 300)
    expected = ours(x, codes, target, 1e-3)
    if not torch.set_flush_denormal(True):
        pytest.skip("needs a processor that can flush subnormals")
    try:
        got = ours(x, codes, target, 1e-3)
    finally:
        torch.set_flush_denormal(False)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


OUT_OF_MEMORY = r"""
#include <atomic>
#include <cstdlib>
#include <new>

static std::atomic<long> refused{0};
static std::atomic<int> left{0};

extern "C" void refuse(long size, int times) { refused = size, left = times; }

void* operator new(std::size_t size) {
  if (left > 0 && size % refused == 0 && left-- > 0) throw std::bad_alloc();
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
"""
ONE_WORKER_FAILS = """
import ctypes, sys, torch
from spae_ops.cross_entropy import cpu
width = 1000  # four rows, or what a vector holds, take a multiple of 16,000 bytes
codes, x, target = torch.randn(5000, width), torch.randn(4, width), torch.arange(4)
prepared, library = cpu.prepare(codes), ctypes.CDLL(sys.argv[1])
torch.set_num_threads(2)
expected = cpu.loss_and_gradient(x, codes, prepared, target, 50.0, True)
for times in (1, 2):
    library.refuse(ctypes.c_long(16 * width), times)
    try:
        cpu.loss_and_gradient(x, codes, prepared, target, 50.0, True)
    except RuntimeError:
        pass
    else:
        raise AssertionError
    library.refuse(ctypes.c_long(1), 0)
    got = cpu.loss_and_gradient(x, codes, prepared, target, 50.0, True)
    assert all(map(torch.equal, got, expected))
"""


def test_a_worker_without_memory_leaves_nobody_waiting(tmp_path):
    source, library = tmp_path / "refuse.cpp", tmp_path / "refuse.so"
    source.write_text(OUT_OF_MEMORY)
    compiler = shutil.which("c++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs c++ and LD_PRELOAD")
    subprocess.run(
        [compiler, "-std=c++20", "-shared", "-fPIC", source, "-o", library], check=True, timeout=120
    )
    result = subprocess.run(
        [sys.executable, "-c", ONE_WORKER_FAILS, library],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-4000:]


def test_index_is_reused_and_float64_is_the_reference():
    codes, x, target = gaussian(90, 6), gaussian(10, 6, seed=1), targets(10, 90)
    index = CodeIndex(codes, impl="cpu")
    assert torch.equal(distance_cross_entropy(x, index, target), distance_cross_entropy(x, codes, target))
    with_other_index = distance_cross_entropy(x, CodeIndex(codes, impl="reference"), target, impl="cpu")
    assert torch.equal(distance_cross_entropy(x, index, target), with_other_index)
    in_double = distance_cross_entropy(x.double(), index, target)
    assert torch.equal(in_double, distance_cross_entropy(x.double(), codes, target, impl="reference"))
    with pytest.raises(RuntimeError, match="takes float32 or float16 or bfloat16, got float64"):
        distance_cross_entropy(x.double(), index, target, impl="cpu")


@pytest.mark.parametrize(
    ("name", "same"), [("amx", "avx512"), ("amx-emulated-avx512", "avx512"), ("amx-emulated", "portable")]
)
def test_names_of_amx_mean_the_vector_instructions_beside_it(monkeypatch, name, same):
    if name not in _extension.load().instruction_sets():
        pytest.skip(f"needs {name}, which this processor has not")
    codes, x, target = gaussian(200, 24), gaussian(9, 24, seed=1), targets(9, 200)
    prepared, results = cpu.prepare(codes), []
    for isa in (name, same):
        monkeypatch.setenv("SPAE_ISA", isa)
        results.append(cpu.loss_and_gradient(x, codes, prepared, target, 1.0, True))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_errors_name_the_argument(monkeypatch):
    codes, x, target = gaussian(40, 8), gaussian(3, 8), targets(3, 40)
    prepared = cpu.prepare(codes)
    for message, arguments in [
        ("x must be", (gaussian(3, 9), codes, prepared, target, 1.0)),
        ("not prepared for these codes", (x, gaussian(80, 8), prepared, target, 1.0)),
        (r"target must be .* \[3\]", (x, codes, prepared, target[:2], 1.0)),
        (r"target must hold ids in \[0, 40\)", (x, codes, prepared, target + 40, 1.0)),
        ("temperature must be", (x, codes, prepared, target, 0.0)),
    ]:
        with pytest.raises(RuntimeError, match=message):
            cpu.loss_and_gradient(*arguments, True)
    monkeypatch.setenv("SPAE_TRUNCATE", "a little")
    with pytest.raises(RuntimeError, match="truncate must be auto, on or off, got 'a little'"):
        cpu.loss_and_gradient(x, codes, prepared, target, 1.0, True)
    monkeypatch.setenv("SPAE_ISA", "abacus")
    with pytest.raises(RuntimeError, match="isa must be"):
        cpu.loss_and_gradient(x, codes, prepared, target, 1.0, True)
