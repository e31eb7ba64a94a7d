"""`nearest_code` on NVIDIA GPUs, in Triton: an fp16 screen with a proven error bound, float64 for the rest.

The method, its proof and what it assumes of the tensor cores are in `tensor_cores.py`. Both are examined on
the device that is to run them, before "auto" takes them there (`spae_ops.admission`). Nothing here has run on
one yet: the kernels are tested in Triton's interpreter (TRITON_INTERPRET=1 in the environment when triton is
first imported) and compiled for sm_80, sm_90 and sm_100.
"""

# Launch options, and arguments given by unpacking, are beyond pyright.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from spae_ops.lookup import tensor_cores
from spae_ops.lookup.tensor_cores import Index, Prepared, Summary

try:
    import triton
    from triton.tools.tensor_descriptor import TensorDescriptor

    from spae_ops.lookup import triton_kernel as kernels
except ImportError as error:
    raise ImportError(f"needs triton 3.6 or later, pip install 'triton>=3.6': {error}") from error

LAYOUT = "triton/1"
ROWS_PER_FRAME = 4
OPTIONS = {"enable_fp_fusion": True}  # it changes no answer; unset, some versions of triton warn about it
FRAME = {"num_warps": 4, "maxnreg": 128}
RESOLVE = {"BLOCK": 8, "TILES": 64, "num_warps": 2, "maxnreg": 192}
INTERPRETED = not isinstance(kernels.screen, triton.runtime.JITFunction)


class Config(NamedTuple):
    """How `screen` is compiled. descriptors: tiles come by tensor descriptors (TMA), not by pointers."""

    block_m: int
    block_k: int
    num_warps: int
    num_stages: int
    max_registers: int
    descriptors: bool


def config(capability: tuple[int, int], num_queries: int) -> Config:
    """The configuration for a compute capability: at least two programs fit each of its multiprocessors.

    So one program's comparisons run while another's matrix products do.
    """
    if capability[0] in (9, 10, 11):
        return Config(64, 64, 4, 4, 168, True) if num_queries <= 64 else Config(128, 64, 8, 3, 128, True)
    if capability in ((8, 0), (8, 7)):  # 164 KiB of shared memory; the others of 8 and 12 have 100
        return Config(64, 32, 4, 4, 168, False) if num_queries <= 64 else Config(128, 32, 8, 4, 128, False)
    return Config(64, 32, 4, 3, 168, False)


def unavailable(device: torch.device | None) -> str | None:
    """Why this implementation cannot run on `device` (None: on this machine), or None where it can."""
    if device is not None and device.type not in ("cpu", "cuda"):
        return f"runs on CUDA tensors, got {device.type}"
    if INTERPRETED:
        return None
    if device is not None and device.type == "cpu":
        return "runs on CUDA tensors; on CPU only with TRITON_INTERPRET=1"
    if not torch.cuda.is_available():
        return "needs a CUDA device; without one, TRITON_INTERPRET=1 runs it on CPU tensors"
    if torch.version.hip is not None:
        return "needs an NVIDIA GPU: the error bound is stated for its tensor cores"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"needs compute capability 8.0 or higher, got {capability[0]}.{capability[1]}"
    return None


class Kernels:
    """`tensor_cores.Kernels` in Triton."""

    def row_block(self, device: torch.device, num_queries: int) -> int:
        return config(capability(device), num_queries).block_m

    def frame(self, x: Tensor, frame: Tensor, out: Tensor, measured: Tensor) -> None:
        rows, padded = out.shape
        width = x.shape[1]
        queries = len(measured) == 4
        kernels.frame_rows[(rows // ROWS_PER_FRAME,)](
            x, frame, frame[-1:], out, *measured[:3], measured[-1], len(x), width,
            (3 * triton.cdiv(width, 32) + 9) * 2.0**-53,
            WIDTH=padded, ROWS=ROWS_PER_FRAME, BLOCK=min(256, triton.next_power_of_2(padded)),
            QUERIES=queries, **FRAME, **OPTIONS,
        )  # fmt: skip

    def screen(self, queries: Tensor, index: Index, inverse: Tensor, scores: Tensor) -> None:
        _, tiles, rows = scores.shape
        chosen = config(capability(queries.device), rows)
        blocks = rows // chosen.block_m
        step = tensor_cores.tiles_per_split(blocks, tiles, 2 * self.processors(queries.device))
        operands = [queries, index.table]
        if chosen.descriptors:
            shapes = [chosen.block_m, chosen.block_k], [tensor_cores.TILE, chosen.block_k]
            operands = [
                TensorDescriptor.from_tensor(t, shape) for t, shape in zip(operands, shapes, strict=True)
            ]
        kernels.screen[(blocks, triton.cdiv(tiles, step))](
            *operands, inverse, index.bias, *scores, rows, tiles, step,
            WIDTH=index.table.shape[1], BLOCK_M=chosen.block_m, BLOCK_K=chosen.block_k,
            DESCRIPTORS=chosen.descriptors, num_warps=chosen.num_warps, num_stages=chosen.num_stages,
            maxnreg=chosen.max_registers, **OPTIONS,
        )  # fmt: skip

    def certify(
        self, x: Tensor, index: Index, summary: Summary, threshold: Tensor, ids: Tensor, sqdist: Tensor
    ) -> None:
        _, tiles, rows = summary.scores.shape
        block = 8 if len(x) <= 2048 else 32
        kernels.certify[(triton.cdiv(len(x), block),)](
            x, index.codes, *summary.scores, index.bounds, *summary.measured[:3], threshold, ids, sqdist,
            len(x), x.shape[1], rows, tiles, ROWS=block, TILES=1024 // block, num_warps=4, **OPTIONS,
        )  # fmt: skip

    def resolve(
        self,
        x: Tensor,
        index: Index,
        summary: Summary,
        threshold: Tensor,
        after: tuple[Tensor, Tensor] | None,
        out: tuple[Tensor, Tensor],
        tiles_per_range: int,
    ) -> None:
        _, tiles, rows = summary.scores.shape
        n, ranges, k = out[0].shape
        last = (threshold, threshold) if after is None else after
        kernels.resolve[(n, ranges)](
            x, index.codes, *summary.scores, index.bounds, index.bias, *summary.measured[:3], threshold,
            *last, *out, x.shape[1], rows, tiles, tiles_per_range, k,
            LIST=triton.next_power_of_2(k), AFTER=after is not None, FINAL=ranges == 1, **RESOLVE, **OPTIONS,
        )  # fmt: skip

    def merge(self, partial: tuple[Tensor, Tensor], threshold: Tensor, out: tuple[Tensor, Tensor]) -> None:
        n, ranges, k = partial[0].shape
        kernels.merge[(n,)](
            *partial, threshold, *out, ranges * k, k, SIZE=triton.next_power_of_2(ranges * k),
            num_warps=1, **OPTIONS,
        )  # fmt: skip

    def processors(self, device: torch.device) -> int:
        return processors(device)


KERNELS = Kernels()


def prepare(codes: Tensor) -> Prepared:
    """What every later search needs to know of the codes: `tensor_cores.prepare`."""
    return tensor_cores.prepare(KERNELS, codes)


def search(
    x: Tensor, codes: Tensor, prepared: Prepared, mask: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """The k nearest allowed codes of every query: `tensor_cores.search`."""
    return tensor_cores.search(KERNELS, x, codes, prepared, mask, k)


@lru_cache
def capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def processors(device: torch.device) -> int:
    """How many multiprocessors a device has."""
    # The interpreter has none; a few make it take the paths that a device takes for few queries.
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
