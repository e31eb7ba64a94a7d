"""The compiled CPU search beside its answers: the memory that it takes, and its errors."""

from __future__ import annotations

import os

import pytest
import torch

from spae_ops import _extension
from spae_ops.lookup import cpu

if _extension.reason() is not None:
    pytest.skip(f"needs the compiled operators: {_extension.reason()}", allow_module_level=True)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_prepared_memory_is_the_table_and_a_quarter():
    codes = gaussian(4096, 128)
    size = sum(tensor.numel() * tensor.element_size() for tensor in cpu.prepare(codes))
    assert size <= 1.29 * codes.numel() * 4


RESIDENT = """
import torch
from spae_ops.lookup import cpu

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

for n, num_codes, width, k, threads in ((50_000, 512, 32, 1, 16), (3000, 4096, 64, 33, 64), (100, 9000, 16, 4096, 4)):
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(n)
    x, codes = (torch.randn(rows, width, generator=generator) for rows in (n, num_codes))
    prepared = cpu.prepare(codes)
    cpu.search(x[:256], codes, prepared, None, 1)  # starts the threads
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = status("VmRSS")
    found = cpu.search(x, codes, prepared, None, k)
    print((n, num_codes, k, threads), status("VmHWM") - before - n * (12 * k + 8), n * num_codes * 4)
"""


def test_resident_memory_does_not_grow_with_queries_answers_or_threads(run_python):
    """Beyond the results: 16 MiB, and an eightieth of an fp32 [N, K]. Counted by the kernel, all allocators' together."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("needs Linux's /proc/self/clear_refs")
    result = run_python(RESIDENT)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        extra, whole = map(int, line.rpartition(")")[2].split())
        assert extra < (16 << 20) + whole / 80, line


def test_errors_name_the_argument(monkeypatch):
    codes = gaussian(40, 8)
    prepared = cpu.prepare(codes)
    with pytest.raises(RuntimeError, match="x must be"):
        cpu.search(gaussian(3, 9), codes, prepared, None, 1)
    with pytest.raises(RuntimeError, match="k must be in"):
        cpu.search(gaussian(3, 8), codes, prepared, None, 41)
    with pytest.raises(RuntimeError, match="k must be in"):
        cpu.search(gaussian(3, 8), codes, prepared, torch.zeros(40, dtype=torch.bool), 1)
    with pytest.raises(RuntimeError, match="not prepared for these codes"):
        cpu.search(gaussian(3, 8), gaussian(80, 8), prepared, None, 1)
    with pytest.raises(RuntimeError, match="codes must be finite"):
        cpu.prepare(torch.full((4, 4), float("inf")))
    with pytest.raises(RuntimeError, match="codes must be"):
        cpu.prepare(codes.double())
    monkeypatch.setenv("SPAE_ISA", "abacus")
    with pytest.raises(RuntimeError, match="isa must be"):
        cpu.search(gaussian(3, 8), codes, prepared, None, 1)
    monkeypatch.delenv("SPAE_ISA")
    monkeypatch.setenv("SPAE_SCREEN", "sieve")
    with pytest.raises(RuntimeError, match="screen must be"):
        cpu.search(gaussian(3, 8), codes, prepared, None, 1)
    monkeypatch.delenv("SPAE_SCREEN")
    monkeypatch.setenv("SPAE_PRUNE", "hard")
    with pytest.raises(RuntimeError, match="prune must be"):
        cpu.search(gaussian(3, 8), codes, prepared, None, 1)


def test_extension_failure_is_remembered_and_told(monkeypatch):
    calls = []

    def missing(name):
        calls.append(name)

    _extension._attempt.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(_extension.importlib.util, "find_spec", missing)
            assert "was not built" in (_extension.reason() or "")
            with pytest.raises(RuntimeError, match="was not built"):
                _extension.load()
            assert "was not built" in (cpu.unavailable(torch.device("cpu")) or "")
            assert calls == ["spae_ops._C"]
    finally:
        _extension._attempt.cache_clear()
    assert cpu.unavailable(torch.device("cpu")) is None
    assert "cpu tensors" in (cpu.unavailable(torch.device("meta")) or "")
