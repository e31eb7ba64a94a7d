"""The examination of a `Search`: known answers, the definition's bits, the matrix unit, determinism."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spae_ops.admission import matrix_unit, problems
from spae_ops.admission.problems import Problem
from spae_ops.admission.wrong import Void, Wrong
from spae_ops.lookup import tensor_cores

REPEATS = 5


def examine(implementation: Any, device: torch.device, dtype: torch.dtype, width: int) -> str:
    """What was found of a `Search` on `device`, for codes of `dtype` and `width`; devices other than GPUs,
    where kernels are emulated, get smaller problems.

    Raises:
        Wrong: an answer is wrong, or what its proof assumes does not hold.
        Void: the examination could not have failed.
    """
    small, top = device.type != "cuda", -(-width // 64) * 64
    notes = [_screened(implementation, device, dtype, width)] if hasattr(implementation, "KERNELS") else []
    count = 0
    # The widest and the narrowest too that run the same variants of the kernels.
    for each in (width,) if small else dict.fromkeys((width, top, top - 63)):
        for problem in problems.adversarial(dtype, each, small=small):
            check(implementation, device, problem, problems.answer(problem))
            count += len(problem.x)
    _fill(implementation, device, dtype, width)
    return ", ".join([f"{count} adversarial queries", *notes])


def check(
    implementation: Any, device: torch.device, problem: Problem, expected: tuple[Tensor, Tensor]
) -> None:
    """Compares an answer, ids and sqdist, with what is expected, bit for bit."""
    name, x, codes, mask, k = problem
    codes = codes.to(device)
    prepared = implementation.prepare(codes)
    mask = None if mask is None else mask.to(device)
    compare(name, implementation.search(x.to(device), codes, prepared, mask, k), expected)


def compare(name: str, found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    ids, sqdist = found[0].cpu(), found[1].cpu()
    wanted = expected[1].to(sqdist.dtype)
    _same(f"{name}, ids", ids, expected[0])
    _same(f"{name}, squared distances", sqdist, wanted)


def _same(name: str, found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise Wrong(
            f"{name}: expected {expected.dtype} {list(expected.shape)}, got {found.dtype} {list(found.shape)}"
        )
    wrong = (found != expected).any(1).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        column = int((found[row] != expected[row]).nonzero()[0])
        values = expected[row, column].item(), found[row, column].item()
        raise Wrong(
            f"{name}: {len(wrong)} of {len(found)} rows are wrong, row {row} first: "
            f"expected {values[0]!r}, got {values[1]!r}"
        )


def _screened(implementation: Any, device: torch.device, dtype: torch.dtype, width: int) -> str:
    """What holds for kernels that screen with matrix units."""
    top = -(-width // 64) * 64
    if top > tensor_cores.MAX_SCREEN_WIDTH:
        return "too wide to be screened"
    share = matrix_unit.probe(implementation.KERNELS, device, top)
    problem = matrix_unit.worst_case(dtype, top)
    check(implementation, device, problem, problems.answer(problem))
    _decides(implementation.KERNELS, device, dtype, width)
    _float64(implementation.KERNELS, device, dtype, width)
    note = f"the matrix unit off by up to {share:.3f} of the bound"
    if matrix_unit.control_fails(implementation, device, dtype, top):
        return f"{note}, without which answers are wrong"
    if share > matrix_unit.control_needs(top):
        raise Void(f"{note}, but answers without it are right: the examination could not have failed")
    return f"{note}, too exact for answers without it to be wrong"


def _float64(kernels: Any, device: torch.device, dtype: torch.dtype, width: int) -> None:
    """Squared distances before they are rounded to float32, of rows decided by screening and not."""
    small = device.type != "cuda"
    for number in (1, 3):
        problem = problems.exponents(dtype, width, 12 if small else 128)._replace(k=number)
        index = _index(kernels, problem, device)
        ids = torch.empty(len(problem.x), number, dtype=torch.int64, device=device)
        with tensor_cores.on_device(ids):
            found = tensor_cores._search_rows(kernels, problem.x.to(device), index, number, ids)
        compare(f"{problem.name}, float64, k = {number}", (ids, found), problems.answer(problem))


def _decides(kernels: Any, device: torch.device, dtype: torch.dtype, width: int) -> None:
    """Random queries are mostly decided by screening alone, else these examinations leave that path out."""
    codes = problems.randn(300, width, seed=61)
    x = codes[:40] + 0.1 * problems.randn(40, width, seed=62)
    problem = Problem("random queries", x, codes.to(dtype))
    index = _index(kernels, problem, device)
    x = x.to(device)
    ids = torch.empty(len(x), 1, dtype=torch.int64, device=device)
    sqdist = torch.empty(len(x), 1, dtype=torch.float64, device=device)
    with tensor_cores.on_device(x):
        summary = tensor_cores.screen(kernels, x, index)
        decided = tensor_cores.certify(kernels, x, index, summary, ids, sqdist).isinf()
    share = float(decided.float().mean())
    if share < 0.5:
        raise Wrong(f"{problem.name}: screening decides {share:.0%} of them, expected at least half")
    expected, rows = problems.answer(problem), decided.cpu()
    compare(
        "rows decided by screening",
        (ids.cpu()[rows], sqdist.cpu()[rows]),
        (expected[0][rows], expected[1][rows]),
    )


def _index(kernels: Any, problem: Problem, device: torch.device) -> tensor_cores.Index:
    codes = problem.codes.to(device)
    return tensor_cores.Index(codes, *tensor_cores.prepare(kernels, codes))


def _fill(implementation: Any, device: torch.device, dtype: torch.dtype, width: int) -> None:
    """The largest problem, again and again: the same bits each time."""
    kernels = getattr(implementation, "KERNELS", None)
    processors = 1 if kernels is None else kernels.processors(device)
    problem = problems.filling(dtype, width, processors)
    x, codes = problem.x.to(device), problem.codes.to(device)
    prepared = implementation.prepare(codes)
    expected = problems.screened_answer(problem)
    for repeat in range(REPEATS if device.type == "cuda" else 2):
        found = implementation.search(x, codes, prepared, None, 1)
        compare(f"{problem.name}, time {repeat + 1}", found, expected)
