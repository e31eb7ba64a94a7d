"""One contestant in a process of its own, which answers JSON lines: `python -m benchmarks.worker`.

It loads its library and the codes, says that it is ready, and serves requests until its input ends:

    {"prepare": true}                                      prepare the codes, measure time and memory
    {"inputs": FILE, "parameters": {..}, "answers": FILE}  answer once, measure both, write the answers
    {"seconds": 0.2, "calls": 10}                          a turn: time calls on the same inputs
    {"codes": FILE}                                        other codes from now on, to be prepared
    {"forget": true}                                       codes, inputs and what was prepared are let go

Inputs and answers are arrays in .npz files; every input has a row for each query, or image, in its first
dimension.
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

from benchmarks.contestants import Contestant
from benchmarks.registry import find

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

    def array(self, values: np.ndarray) -> Any:
        """Real values in the contest's dtype, integers as they are."""
        if self.torch is None:
            return values
        tensor = self.torch.from_numpy(values).to(self.contestant.device)
        return tensor.to(getattr(self.torch, self.dtype)) if tensor.is_floating_point() else tensor

    def numpy(self, answer: Any) -> np.ndarray:
        if self.torch is None or not isinstance(answer, self.torch.Tensor):
            return np.asarray(answer)
        answer = answer.detach().cpu()
        return (answer.float() if answer.dtype == self.torch.bfloat16 else answer).numpy()

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


class Task:
    """A contestant, its codes, and the inputs and parameters it was last given."""

    def __init__(self, machine: Machine, codes: str | None) -> None:
        self.machine = machine
        self.codes: Any = None
        self.call: Any = None
        self.inputs: list[Any] = []
        self.parameters: dict[str, Any] = {}
        if codes is not None:
            self.load(codes)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "codes" in request:
            return self.load(**request)
        if "forget" in request:
            return self.forget()
        if "prepare" in request:
            return self.prepare()
        return self.check(**request) if "inputs" in request else self.turn(**request)

    def load(self, codes: str) -> dict[str, Any]:
        self.codes = self.machine.array(np.load(codes))
        return {}

    def forget(self) -> dict[str, Any]:
        self.codes, self.call, self.inputs = None, None, []
        self.machine.held()  # which gives freed memory back
        return {}

    def prepare(self) -> dict[str, Any]:
        before = self.machine.held()
        start = time.perf_counter()
        self.call = self.machine.contestant.prepare(self.codes)
        self.machine.finish()
        seconds = time.perf_counter() - start
        after = self.machine.held()
        kept = None if before is None or after is None else max(0, after - before)
        return {"prepare_seconds": seconds, "prepared_bytes": kept}

    def check(self, inputs: str, parameters: dict[str, Any], answers: str) -> dict[str, Any]:
        with np.load(inputs) as arrays:
            self.inputs = [self.machine.array(arrays[name]) for name in arrays.files]
        self.parameters = parameters
        # Libraries load and start threads on first use, which is no memory of this case.
        self._run(self._few(1))
        self.machine.finish()
        before = self.machine.held()
        start = time.perf_counter()
        found = self._run(self.inputs)
        self.machine.finish()
        seconds = time.perf_counter() - start
        peak = None if before is None else max(0, self.machine.peak() - before)
        if found is not None:
            np.savez(answers, *map(self.machine.numpy, found if isinstance(found, tuple) else (found,)))
        return {"peak_bytes": peak, "seconds": seconds}

    def _few(self, rows: int) -> list[Any]:
        return [values[:rows] for values in self.inputs]

    def _run(self, inputs: list[Any]) -> Any:
        return self.call(*inputs, **self.parameters)

    def turn(self, seconds: float, calls: int) -> dict[str, Any]:
        """Up to `calls` samples within about `seconds`, after calls that only wake threads and caches."""
        few = WARM_ROWS if self.inputs[0].ndim < 3 else 1  # queries, or images and latents
        warm = self.inputs if self.machine.cuda else self._few(few)
        once = self._time(warm, 1)
        # On a GPU one sample is a burst of calls, long enough for the clock and the queue of launches.
        burst = max(1, math.ceil(BURST / once)) if self.machine.cuda else 1
        if self.machine.cuda:
            self._time(warm, burst)
        samples = [self._time(self.inputs, burst)]
        while len(samples) < calls and sum(samples) * burst < seconds:
            samples.append(self._time(self.inputs, burst))
        self.machine.release()
        return {"samples": samples}

    def _time(self, inputs: list[Any], calls: int) -> float:
        self.machine.finish()
        start = time.perf_counter()
        for _ in range(calls):
            self._run(inputs)
        self.machine.finish()
        return (time.perf_counter() - start) / calls


def serve(arguments: argparse.Namespace, requests: TextIO, replies: TextIO) -> None:
    def reply(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=replies, flush=True)

    try:
        contestant = find(arguments.question, arguments.contestant, arguments.device, arguments.also)
        task = Task(Machine(contestant, arguments.dtype, arguments.threads), arguments.codes)
        reply({"ready": True})
    except Exception as error:
        reply({"error": _reason(error)})
        return
    for line in requests:
        try:
            reply(task.answer(json.loads(line)))
        except Exception as error:
            reply({"error": _reason(error)})


def _reason(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--question", required=True)
    parser.add_argument("--contestant", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--also", type=Path)
    parser.add_argument("codes", nargs="?", help="the codebook, an .npy file (default: none yet)")
    arguments = parser.parse_args()
    # What libraries print must not come between the replies: standard output becomes standard error.
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        serve(arguments, sys.stdin, replies)


if __name__ == "__main__":
    main()
