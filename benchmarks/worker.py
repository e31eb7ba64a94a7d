"""One contestant in a process of its own, which answers JSON lines: `python -m benchmarks.worker`.

It loads its library and the codes, says that it is ready, and serves requests until its input ends:

    {"prepare": true}                    prepare the codes, measure time and memory
    {"queries": FILE, "ids": FILE}       look the queries up once, measure the memory, write the ids
    {"seconds": 0.2, "calls": 10}        a turn: time calls on the same queries
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks.registry import Contestant, find

WARM_ROWS = 64
BURST = 0.002


class Machine:
    """Where a contestant's arrays lie, its clock and its memory: NumPy or torch on a CPU, torch on a GPU."""

    def __init__(self, contestant: Contestant, dtype: str, threads: int) -> None:
        self.contestant, self.dtype = contestant, dtype
        self.cuda = contestant.device == "cuda"
        self.torch: Any = None
        if contestant.takes == "torch":
            import torch

            torch.set_num_threads(threads)
            torch.set_grad_enabled(False)
            self.torch = torch

    def array(self, file: str) -> Any:
        values = np.load(file)
        if self.torch is None:
            return values
        return self.torch.from_numpy(values).to(self.contestant.device, getattr(self.torch, self.dtype))

    def finish(self) -> None:
        if self.cuda:
            self.torch.cuda.synchronize()

    def release(self) -> None:
        """Leaves the GPU's memory to the others; a CPU's allocator keeps little enough."""
        if self.cuda:
            self.torch.cuda.empty_cache()

    def held(self) -> int | None:
        """Bytes now in use, None where that cannot be known; the peak starts again from here."""
        gc.collect()
        self.release()
        if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)  # freed memory that malloc keeps would hide what the next call takes
        if self.cuda:
            self.torch.cuda.reset_peak_memory_stats()
            return None if self.contestant.own_memory else self.torch.cuda.memory_allocated()
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return None
        return _resident("VmRSS")

    def peak(self) -> int:
        return self.torch.cuda.max_memory_allocated() if self.cuda else _resident("VmHWM")


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s*(\d+) kB", status)
    return int(found[1]) << 10 if found else 0


class Lookup:
    """A contestant, its codes, and the queries it was last given."""

    def __init__(self, machine: Machine, codes: str) -> None:
        self.machine = machine
        self.codes = machine.array(codes)
        self.search: Any = None
        self.x: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "prepare" in request:
            return self.prepare()
        return self.check(**request) if "queries" in request else self.turn(**request)

    def prepare(self) -> dict[str, Any]:
        before = self.machine.held()
        start = time.perf_counter()
        self.search = self.machine.contestant.prepare(self.codes)
        self.machine.finish()
        seconds = time.perf_counter() - start
        after = self.machine.held()
        kept = None if before is None or after is None else max(0, after - before)
        return {"prepare_seconds": seconds, "prepared_bytes": kept}

    def check(self, queries: str, ids: str) -> dict[str, Any]:
        self.x = self.machine.array(queries)
        # Libraries load and start threads on first use, which is no memory of this lookup.
        self.search(self.x[:1])
        self.machine.finish()
        before = self.machine.held()
        found = self.search(self.x)
        self.machine.finish()
        peak = None if before is None else max(0, self.machine.peak() - before)
        if found is not None:
            np.save(ids, np.asarray(found.cpu() if hasattr(found, "cpu") else found, np.int64))
        return {"peak_bytes": peak}

    def turn(self, seconds: float, calls: int) -> dict[str, Any]:
        """Up to `calls` samples within about `seconds`, after calls that only wake threads and caches."""
        warm = self.x if self.machine.cuda else self.x[:WARM_ROWS]
        once = self._time(warm, 1)
        # On a GPU one sample is a burst of calls, long enough for the clock and the queue of launches.
        burst = max(1, math.ceil(BURST / once)) if self.machine.cuda else 1
        if self.machine.cuda:
            self._time(warm, burst)
        samples = [self._time(self.x, burst)]
        while len(samples) < calls and sum(samples) * burst < seconds:
            samples.append(self._time(self.x, burst))
        self.machine.release()
        return {"samples": samples}

    def _time(self, x: Any, calls: int) -> float:
        self.machine.finish()
        start = time.perf_counter()
        for _ in range(calls):
            self.search(x)
        self.machine.finish()
        return (time.perf_counter() - start) / calls


def serve(arguments: argparse.Namespace, requests: TextIO, replies: TextIO) -> None:
    def reply(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=replies, flush=True)

    try:
        contestant = find(arguments.contestant, arguments.device, arguments.also)
        lookup = Lookup(Machine(contestant, arguments.dtype, arguments.threads), arguments.codes)
        reply({"ready": True})
    except Exception as error:
        reply({"error": _reason(error)})
        return
    for line in requests:
        try:
            reply(lookup.answer(json.loads(line)))
        except Exception as error:
            reply({"error": _reason(error)})


def _reason(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--contestant", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--also", type=Path)
    parser.add_argument("codes", help="the codebook, an .npy file")
    arguments = parser.parse_args()
    # What libraries print must not come between the replies: standard output becomes standard error.
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        serve(arguments, sys.stdin, replies)


if __name__ == "__main__":
    main()
