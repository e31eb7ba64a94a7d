"""Adversarial queries by the million, counted: every implementation of the lookup against the float64 definition.

    python tests/torture/queries.py --queries 10000000 --small 20000 --minutes 60

Batches of problems that break quantizers: bisectors of close codes to one ulp, duplicates, lattices, large common
means, subnormals, every exponent, the largest values, codes an ulp apart, masks, odd sizes, all dtypes. A batch
follows from its number, so that a run goes on where the last one stopped (the counts are kept in --out, a JSON file;
the same as a table beside it), and a wrong answer can be made again from what is written down.

On a machine's own scale: the CPU's instruction sets, each with its screens in turn, AMX's emulated tiles among them, and
plain torch. At a small scale, for they run a thousand times slower: CUDA's kernels in the emulator, Triton's in its
interpreter.

Exit status 1 if an id or a squared distance differs in a bit.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import numpy as np
import torch
from torch import Tensor

from spae.testing import oracles, strategies
from spae_ops import _extension
from spae_ops.lookup import cpu
from spae_ops.lookup import torch as plain

HERE = Path(__file__).parent
SEED = 20
LANES = 32
CHUNK = 1 << 15  # pairs of rows evaluated at a time: a lane of them stays in the cache
SCREENS = (("", ""), ("fp32", "off"), ("int8", "off"), ("int8", "on"))  # SPAE_SCREEN and SPAE_PRUNE
FLOAT16 = ("gaussian", "lattice", "duplicates", "close pairs", "an ulp apart", "signs", "bisector")
KINDS = (*FLOAT16, "decades", "common mean", "subnormal", "exponents", "largest", "outlier")
CHECKED = 8  # batches whose definition is evaluated a second time, by the oracle

Search = Callable[[Tensor, Tensor, Tensor | None, int], tuple[Tensor, Tensor]]


class Scale(NamedTuple):
    """How large a batch is: its pairs of a query and a code, the most queries, and what K and D may be."""

    pairs: int
    queries: int
    codes: tuple[int, ...]
    widths: tuple[int, ...]


FULL = Scale(
    1 << 21,
    16384,
    (2, 31, 64, 64, 65, 96, 127, 128, 200, 257, 512, 2000),
    (1, 2, 3, 7, 8, 16, 17, 31, 33, 40, 64),
)
SMALL = Scale(1 << 13, 64, (1, 64, 127, 129, 140), (1, 2, 17, 33, 40))


class Batch(NamedTuple):
    """A problem and its answer by the definition: ids int64 and squared distances float32 [N, k]."""

    kind: str
    x: Tensor
    codes: Tensor
    mask: Tensor | None
    k: int
    ids: np.ndarray
    sqdist: np.ndarray


def make(number: int, scale: Scale) -> Batch:
    rng = np.random.default_rng((SEED, number, scale.pairs))
    kind = KINDS[number % len(KINDS)]
    count, width = int(rng.choice(scale.codes)), int(rng.choice(scale.widths))
    dtypes = strategies.DTYPES if kind in FLOAT16 else (torch.float32, torch.bfloat16)
    codes = values(kind, (count, width), rng).to(dtypes[rng.integers(len(dtypes))])
    queries = min(scale.queries, max(1, scale.pairs // count))
    x = between(kind, queries, codes.float(), rng)
    if rng.random() < 0.25:
        x = x.to(dtypes[rng.integers(len(dtypes))])
    x = x.nan_to_num(posinf=0, neginf=0)
    mask = None
    if rng.random() < 0.3:
        mask = torch.from_numpy(rng.random(count) < rng.choice([0.1, 0.5, 0.9]))
        mask[rng.integers(count)] = True
    allowed = count if mask is None else int(mask.sum())
    k = min(int(rng.choice([1, 1, 1, 1, 2, 5])), allowed)
    distances = definition(x, codes)
    if number < CHECKED:
        rows = slice(0, 64)
        assert (distances[rows] == oracles.squared_distances(x[rows], codes)).all(), "the definitions differ"
    if mask is not None:
        distances[:, ~mask.numpy()] = np.inf
    # Both take the lowest of equal ones first.
    ids = distances.argmin(1)[:, None] if k == 1 else distances.argsort(1, kind="stable")[:, :k]
    with np.errstate(over="ignore"):
        sqdist = np.take_along_axis(distances, ids, 1).astype(np.float32)
    return Batch(kind, x, codes, mask, k, ids, sqdist)


def values(kind: str, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    if kind in strategies.KINDS:
        return strategies._values(kind, size, rng)
    rows = torch.from_numpy(rng.standard_normal(size)).float()
    if kind == "close pairs":
        rows[1::2] = rows[: 2 * (len(rows) // 2) : 2] * (1 + 2.0 ** -rng.integers(3, 20))
    elif kind == "an ulp apart":
        rows = rows[:1].expand(size).contiguous()
        steps = torch.from_numpy(rng.integers(-1, 2, size)).float()
        rows = torch.where(steps == 0, rows, rows.nextafter(rows + steps))
    elif kind == "signs":
        rows = rows.sign()
    elif kind == "exponents":
        rows = rows * 2.0 ** torch.from_numpy(rng.integers(-120, 120, (size[0], 1))).float()
    elif kind == "largest":
        rows = rows / rows.abs().max() * 3.3e38
    elif kind == "outlier":
        rows[0, 0] = 2.0 ** rng.integers(10, 40)
    return rows


def between(kind: str, number: int, codes: Tensor, rng: np.random.Generator) -> Tensor:
    """Queries on codes, beside them, and in the middle of two, as the format can say it and an ulp from there."""
    if kind == "signs":
        return torch.from_numpy(rng.integers(-1, 2, (number, codes.shape[1]))).float() / 2
    if kind == "lattice":
        return strategies._queries(kind, number, codes, rng)
    first = torch.from_numpy(rng.integers(len(codes), size=number))
    other = torch.from_numpy(rng.integers(len(codes), size=number))
    near = (first ^ 1).clamp_max(len(codes) - 1)  # of a close pair
    second = torch.where(torch.from_numpy(rng.random(number) < 0.5), near, other)
    a, b = codes[first], codes[second]
    middle = ((a.double() + b.double()) / 2).float()
    steps = torch.from_numpy(rng.integers(-1, 2, middle.shape)) * torch.from_numpy(
        rng.integers(0, 2, (number, 1))
    )
    limit = torch.full_like(middle, torch.inf)
    middle = torch.where(
        steps > 0, middle.nextafter(limit), torch.where(steps < 0, middle.nextafter(-limit), middle)
    )
    noise = torch.from_numpy(rng.standard_normal(a.shape)).float() * (a - b).abs().clamp_max(1e38)
    choice = torch.from_numpy(rng.random((number, 1)))
    return torch.where(choice < 0.6, middle, torch.where(choice < 0.7, a, a + 0.3 * noise))


def definition(x: Tensor, codes: Tensor) -> np.ndarray:
    """All squared distances [N, K], bit for bit those of `spae_ops.squared_distance`, a lane at a time."""
    q, c = x.double(), codes.double().T.contiguous()
    out = torch.empty(len(q), len(codes), dtype=torch.float64)
    rows = max(1, CHUNK // len(codes))
    for start in range(0, len(q), rows):
        block = q[start : start + rows].T.contiguous()
        lanes: list[Tensor | None] = [None] * LANES
        for d in range(len(block)):
            t = block[d][:, None] - c[d]
            high = ((t.view(torch.int64) + (1 << 26)) & -(1 << 27)).view(torch.float64)
            low = t - high
            lane = lanes[d % LANES]
            total = high * high if lane is None else lane + high * high
            lanes[d % LANES] = total.add_((2 * high).mul_(low)).add_(low.mul_(low))
        half = LANES // 2
        while half:  # a lane that holds nothing adds nothing
            pairs = zip(lanes[:half], lanes[half:], strict=True)
            lanes = [a if a is None or b is None else a + b for a, b in pairs]
            half //= 2
        assert lanes[0] is not None
        out[start : start + rows] = lanes[0]
    return out.numpy()


def on_cpu(isa: str) -> Search:
    turn = 0

    def search(x: Tensor, codes: Tensor, mask: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
        nonlocal turn
        turn += 1
        screen, prune = SCREENS[turn % len(SCREENS)]
        os.environ.update(SPAE_ISA=isa, SPAE_SCREEN=screen, SPAE_PRUNE=prune)
        return cpu.search(x, codes, cpu.prepare(codes), mask, k)

    return search


def on_torch(x: Tensor, codes: Tensor, mask: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    return plain.search(x, codes, plain.prepare(codes), mask, k)


def emulated() -> dict[str, Search]:
    """CUDA's kernels on the emulator that their tests use."""
    import ctypes

    from spae_ops.lookup import cuda

    sys.path.insert(0, str(HERE.parent / "spae_ops"))
    tests = importlib.import_module("conftest")
    _extension.load()
    file = tests._build_emulator(os.environ.get("CXX", "g++"))
    torch.ops.load_library(file)
    emulator = ctypes.CDLL(str(file))
    cuda.Kernels.processors = lambda self, device: 2

    def on(capability: tuple[int, int], terms: int, bits: int) -> Search:
        seed = 0

        def search(x: Tensor, codes: Tensor, mask: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
            nonlocal seed
            seed += 1
            cuda._capability = lambda device: capability
            emulator.emulator_configure(seed, terms, bits)
            return cuda.search(x, codes, cuda.prepare(codes), mask, k)

        return search

    return {f"cuda, {name} emulated": on(*how) for name, how in tests.GPUS.items()}


def interpreted() -> dict[str, Search]:
    from spae_ops.lookup import triton

    def search(x: Tensor, codes: Tensor, mask: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
        return triton.search(x, codes, triton.prepare(codes), mask, k)

    triton.ROWS_PER_FRAME = 64
    return {"triton, interpreted": search}


def on_cpus() -> dict[str, Search]:
    """Instruction sets of this processor, and those that are emulated."""
    return {f"cpu, {isa}": on_cpu(isa) for isa in _extension.load().instruction_sets()}


def run(
    state: dict[str, Any], searches: dict[str, Search], scale: Scale, wanted: int, deadline: float, out: Path
) -> None:
    """Batch after batch to each of the searches that still lacks it, until all have answered `wanted` queries."""
    for name in searches:
        state.setdefault(
            name, {"batches": 0, "queries": 0, "wrong": 0, "seconds": 0.0, "kinds": {}, "first": []}
        )
    saved = time.monotonic()
    while True:
        open_ = [name for name in searches if state[name]["queries"] < wanted]
        if not open_ or time.monotonic() > deadline:
            break
        number = min(state[name]["batches"] for name in open_)
        batch = make(number, scale)
        for name in open_:
            if state[name]["batches"] == number:
                ask(state[name], searches[name], batch, number)
        if time.monotonic() - saved > 20:
            save(state, out)
            saved = time.monotonic()
    save(state, out)


def ask(record: dict[str, Any], search: Search, batch: Batch, number: int) -> None:
    began = time.perf_counter()
    ids, sqdist = search(batch.x, batch.codes, batch.mask, batch.k)
    record["seconds"] += time.perf_counter() - began
    wrong = np.flatnonzero(((ids.numpy() != batch.ids) | (sqdist.numpy() != batch.sqdist)).any(1))
    record["batches"] = number + 1
    record["queries"] += len(batch.x)
    record["kinds"][batch.kind] = record["kinds"].get(batch.kind, 0) + len(batch.x)
    record["wrong"] += len(wrong)
    for row in wrong[: max(0, 20 - len(record["first"]))].tolist():
        got = ids[row].tolist(), sqdist[row].tolist()
        expected = batch.ids[row].tolist(), batch.sqdist[row].tolist()
        record["first"].append({"batch": number, "row": row, "expected": expected, "got": got})


def save(state: dict[str, Any], out: Path) -> None:
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(state, indent=1) + "\n")
    os.replace(partial, out)
    lines = [
        "# Adversarial queries",
        "",
        "`make adversarial`: ids and squared distances against the float64 definition, bit for bit. A query counts once",
        "an implementation; `tests/torture/queries.py` says how they are made.",
        "",
        "| implementation | queries | wrong | batches |",
        "|---|--:|--:|--:|",
        *(f"| {name} | {r['queries']:,} | {r['wrong']:,} | {r['batches']:,} |" for name, r in state.items()),
        "",
        "Queries of each kind, by implementation:",
        "",
        "| kind | " + " | ".join(state) + " |",
        "|---" + "|--:" * len(state) + "|",
        *(
            f"| {kind} | " + " | ".join(f"{r['kinds'].get(kind, 0):,}" for r in state.values()) + " |"
            for kind in KINDS
        ),
    ]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--queries", type=int, default=10_000_000, help="for each of the CPU's and torch")
    parser.add_argument("--small", type=int, default=20_000, help="for each of the emulated and interpreted")
    parser.add_argument("--minutes", type=float, default=60, help="stop after these")
    parser.add_argument("--only", nargs="*", default=[], help="parts of implementations' names; default all")
    parser.add_argument("--out", type=Path, default=Path("results/adversarial.json"))
    arguments = parser.parse_args()
    state: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    # The slowest last; each until it is done or its share of the time is over.
    emulator = {**emulated(), **interpreted()} if arguments.small else {}  # built before the time begins
    began = time.monotonic()
    turns = [
        (lambda: emulator, SMALL, arguments.small, 0.2),
        (on_cpus, FULL, arguments.queries, 0.75),
        (lambda: {"torch": on_torch}, FULL, arguments.queries, 1),
    ]
    for searches, scale, wanted, share in turns:
        chosen = {
            name: search
            for name, search in (searches() if wanted else {}).items()
            if not arguments.only or any(part in name for part in arguments.only)
        }
        run(state, chosen, scale, wanted, began + 60 * arguments.minutes * share, arguments.out)
    for name, record in state.items():
        print(f"{name}: {record['queries']:,} queries, {record['wrong']:,} wrong, {record['seconds']:.0f} s")
    return int(any(record["wrong"] for record in state.values()))


if __name__ == "__main__":
    sys.exit(main())
