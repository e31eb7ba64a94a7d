"""Matrix tiles of the CPU search (AMX): one schedule, on the processor's tiles where it has them and on an emulation
everywhere. The emulation runs in test_nearest_code_cpu.py, like every instruction set; this is about what is its own:
edges, lost registers, and how AMX comes to be taken."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from spae.testing import oracles
from spae_ops import CodeIndex, Pyramid, _extension, implementations, nearest_code, pyramid_quantize
from spae_ops.lookup import cpu

if _extension.reason() is not None:
    pytest.skip(f"needs the compiled operators: {_extension.reason()}", allow_module_level=True)

_C = _extension.load()
EMULATED = [name for name in _C.instruction_sets() if name.startswith("amx-emulated")]
NO_AMX = f"needs AMX: {_C.amx_status()}"
HERE = [
    pytest.param("amx", marks=pytest.mark.skipif("amx" not in _C.instruction_sets(), reason=NO_AMX)),
    *EMULATED,
]
ALL = 0xFF  # registers


@pytest.fixture(params=HERE)
def isa(request, monkeypatch):
    monkeypatch.setenv("SPAE_ISA", request.param)
    monkeypatch.setenv("SPAE_SCREEN", "int8")
    monkeypatch.setenv("SPAE_PRUNE", "off")
    return request.param


@pytest.fixture(params=EMULATED)
def emulated(request, monkeypatch):
    """The name of a set whose registers can lose their data; after the test they are as new."""
    monkeypatch.setenv("SPAE_ISA", request.param)
    monkeypatch.setenv("SPAE_SCREEN", "int8")
    monkeypatch.setenv("SPAE_PRUNE", "off")
    _C.lose_tiles(-1, 0, 0, 0)
    yield request.param
    _C.lose_tiles(-1, 0, 0, 0)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(x, codes, mask=None, k=1):
    ids, _ = cpu.search(x, codes, cpu.prepare(codes), mask, k)
    np.testing.assert_array_equal(ids.numpy(), oracles.topk_codes(x, codes, k, mask)[0])


@pytest.mark.parametrize("count", [14, 15, 16, 29, 30, 31, 45, 46, 60, 61])
def test_query_counts_around_registers_and_blocks(isa, count):
    check(gaussian(count, 70, seed=1), gaussian(97, 70), k=2)


@pytest.mark.parametrize("width", [3, 4, 5, 60, 61, 63, 64, 65, 127, 128, 129, 257, 321])
def test_widths_around_steps(isa, width, monkeypatch):
    """Rows of less than one step, of whole steps, and with a last one that overlaps the one before; prefixes, too."""
    codes = gaussian(65, width)
    queries = torch.cat([gaussian(17, width, seed=1), codes[::4] + 0.1 * gaussian(17, width, seed=2)])
    check(queries, codes)
    monkeypatch.setenv("SPAE_PRUNE", "on")
    check(queries, codes, k=3)


def test_masks_choose_the_tiles(isa):
    mask = torch.zeros(400, dtype=torch.bool)
    mask[[3, 70, 71, 200, 399]] = True
    check(gaussian(40, 33, seed=1), gaussian(400, 33), mask=mask, k=5)


def test_lookups_and_pyramids(isa):
    codes, z = gaussian(300, 20), gaussian(3, 20, 4, 4, seed=1)
    index, pyramid = CodeIndex(codes, impl="cpu"), Pyramid.square(4, (1, 2, 4))
    expected = pyramid_quantize(z, codes, pyramid, impl="reference")
    assert torch.equal(pyramid_quantize(z, index, pyramid).ids, expected.ids)
    x = z.movedim(1, -1)
    assert torch.equal(nearest_code(x, index).ids, nearest_code(x, codes, impl="reference").ids)


@pytest.mark.parametrize("name", HERE)
def test_the_self_test_passes(name):
    """On all that differs: each implementation's bits are the emulation's."""
    assert _C.tiles_agree(name) is True


# A step's products are (sums, queries, codes) = (0, 4, 6), (1, 4, 7), (2, 5, 6), (3, 5, 7), operands loaded when first
# needed: what is in use before each of them.
IN_USE = [{0, 1, 2, 3, *operands} for operands in ((4, 6), (4, 6, 7), (5, 6, 7), (5, 7))]


@pytest.mark.parametrize("register", range(8))
def test_the_self_test_finds_one_wrong_line(emulated, register):
    """Of a query, which no check line covers, or of codes."""
    for product, in_use in enumerate(IN_USE):
        _C.lose_tiles(12 + product, 1 << register, 0, 0)  # of the second tile, a full block, rows of one step
        assert _C.tiles_agree(emulated) is (register not in in_use)


@pytest.mark.parametrize("prune", ["off", "on"])
@pytest.mark.parametrize("fill", [0, 0x55])
def test_lost_registers_are_noticed_and_change_no_answer(emulated, monkeypatch, prune, fill):
    """Any register, or all of them, before any product: the check fails if it was in use, and ids stay right."""
    monkeypatch.setenv("SPAE_PRUNE", prune)
    width, codes = 70, gaussian(100, 70)
    steps = 1 if prune == "on" else 2
    queries = codes[:20] + 0.3 * gaussian(20, width, seed=1)  # one block of two registers
    prepared = cpu.prepare(codes)
    expected = cpu.search(queries, codes, prepared, None, 2)
    tiles, products = 4, 4 * steps
    for after in range(tiles * products):
        for registers in (*range(8), ALL):
            _C.lose_tiles(-1, 0, 0, 0)
            _C.lose_tiles(after, ALL if registers == ALL else 1 << registers, -1, fill)
            found = cpu.search(queries, codes, prepared, None, 2)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), (after, registers)
            in_use = registers == ALL or registers in IN_USE[after % 4]
            assert _C.tiles_lost(emulated) is in_use, (after, registers)


def test_a_short_block_is_checked_too(emulated):
    codes, queries = gaussian(100, 70), gaussian(7, 70, seed=1)
    for after in range(4 * 2 * 2):
        _C.lose_tiles(-1, 0, 0, 0)
        _C.lose_tiles(after, ALL, -1, 0)
        check(queries, codes)
        assert _C.tiles_lost(emulated)


def test_threads_and_groups_survive_a_loss(emulated):
    codes, queries = gaussian(1000, 40), gaussian(200, 40, seed=1)
    prepared, threads = cpu.prepare(codes), torch.get_num_threads()
    _C.lose_tiles(777, ALL, -1, 0)
    try:
        torch.set_num_threads(2)
        found = cpu.search(queries, codes, prepared, None, 1)[0]
    finally:
        torch.set_num_threads(threads)
    assert _C.tiles_lost(emulated)
    np.testing.assert_array_equal(found.numpy(), oracles.topk_codes(queries, codes, 1)[0])


def test_after_a_loss_no_tiles_are_taken(emulated):
    codes, queries = gaussian(100, 40), gaussian(20, 40, seed=1)
    _C.lose_tiles(0, ALL, -1, 0)
    check(queries, codes)
    assert _C.tiles_lost(emulated)
    _C.lose_tiles(0, ALL, -1, 0)
    check(queries, codes)
    assert _C.tiles_agree(emulated) is False  # the loss is still to come: the search multiplied no tiles


def test_amx_is_listed_as_it_is(monkeypatch):
    (row,) = [row for row in implementations("nearest_code") if row.name == "cpu"]
    status, sets = _C.amx_status(), _C.instruction_sets()
    assert row.instructions.endswith(f" (AMX: {status})")
    assert "emulated" not in row.instructions
    assert ("amx" in sets) is status.startswith("permitted, self-test passed")
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and "amx_int8" not in cpuinfo.read_text():
        assert status == "this processor has none" or status.startswith("not compiled")
    assert not sets[0].startswith("amx-emulated")  # "auto" takes the first
    monkeypatch.setenv("SPAE_AMX", "off")
    assert _C.amx_status() == "turned off by SPAE_AMX"
    assert _C.instruction_sets() == [name for name in sets if name != "amx"]
    monkeypatch.setenv("SPAE_ISA", "amx")
    with pytest.raises(RuntimeError, match="isa must be one of"):
        cpu.search(gaussian(2, 8), gaussian(9, 8), cpu.prepare(gaussian(9, 8)), None, 1)


def test_machine_code_of_amx():
    """The registers of every product as the schedule has them, and shapes that are read from static storage."""
    if _C.amx_status().startswith("not compiled"):
        pytest.skip(f"needs a compiler that knows AMX: {_C.amx_status()}")
    if shutil.which("objdump") is None:
        pytest.skip("needs objdump")
    command = ["objdump", "-d", "--no-show-raw-insn", _C.__file__]
    code = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    if "ldtilecfg" not in code:
        pytest.skip("needs an objdump that knows AMX")
    found = re.findall(r"\b(tdpbsud|ldtilecfg|tileloadd|tilestored|tilerelease)\b *([^#\n]*)", code)
    named = {name: {operands.strip() for other, operands in found if other == name} for name, _ in found}
    products = {
        f"%tmm{6 + panel},%tmm{4 + half},%tmm{2 * half + panel}" for half in (0, 1) for panel in (0, 1)
    }
    assert named["tdpbsud"] == products
    assert {operands[-5:] for operands in named["tileloadd"]} == {f"%tmm{t}" for t in range(8)}
    assert {operands[:5] for operands in named["tilestored"]} == {f"%tmm{t}" for t in range(4)}
    assert not any("%rsp" in operands or "%rbp" in operands for operands in named["ldtilecfg"])
    starts = sum(name == "ldtilecfg" for name, _ in found)
    assert starts >= 3
    assert sum(name == "tilerelease" for name, _ in found) >= starts
