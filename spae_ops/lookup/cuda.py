"""`nearest_code` on NVIDIA GPUs, in CUDA C++: an fp16 screen with a proven error bound, float64 for the rest.

The method, its proof and what it assumes of the tensor cores are in `tensor_cores.py`; the kernels in
`csrc/nearest_code/cuda`. Both are examined on the device that is to run them, before "auto" takes them there
(`spae_ops.admission`). Nothing here has run on one yet: the kernels are tested on a CPU, by an emulator of
the instructions they use, and compiled for sm_80 to sm_120 and sm_90a.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from spae_ops import _extension
from spae_ops.lookup import tensor_cores
from spae_ops.lookup.tensor_cores import Index, Prepared, Summary

LAYOUT = "cuda/1"
ROW_BLOCK = 128


def unavailable(device: torch.device | None) -> str | None:
    """Why this implementation cannot run on `device` (None: on this machine), or None where it can."""
    if device is not None and device.type != "cuda":
        return f"runs on CUDA tensors, got {device.type}"
    if (reason := _extension.reason()) is not None:
        return reason
    if not getattr(_extension.load(), "with_cuda", False):
        return (
            "spae_ops was built without CUDA: its build needs a torch with CUDA and nvcc, and "
            "skips them if nvcc fails; `SPAE_REQUIRE_EXT=1 pip install --no-build-isolation -v .` says why"
        )
    built = _built_for()
    if not torch.cuda.is_available():
        return "needs a CUDA device" + (f" of {_spelled(built)}" if built else "")
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"needs compute capability 8.0 or higher, got {major}.{minor}"
    if built and not _serves(built, (major, minor)):
        return (
            f"spae_ops was built for {_spelled(built)}, got {major}.{minor}; "
            "`SPAE_REQUIRE_EXT=1 pip install --no-build-isolation -v .` builds it for all that nvcc knows"
        )
    return None


def _built_for() -> list[tuple[int, int]]:
    """The compute capabilities of the extension's binaries, ascending; none where it does not say."""
    listed = getattr(_extension.load(), "cuda_architectures", "")
    return [divmod(int(number), 10) for number in listed.split(",") if number]


def _serves(built: list[tuple[int, int]], capability: tuple[int, int]) -> bool:
    """A binary runs on GPUs of its major version, from its minor one on. The newest one's PTX, which the
    driver compiles, runs on all later GPUs."""
    own = any(major == capability[0] and minor <= capability[1] for major, minor in built)
    return own or capability > built[-1]


def _spelled(built: list[tuple[int, int]]) -> str:
    return f"compute capability {', '.join(f'{major}.{minor}' for major, minor in built)} or later"


def prepare(codes: Tensor) -> Prepared:
    """What every later search needs to know of the codes: `tensor_cores.prepare`.

    Raises:
        RuntimeError: the extension is not available.
    """
    _extension.load()
    return tensor_cores.prepare(KERNELS, codes)


def search(
    x: Tensor, codes: Tensor, prepared: Prepared, mask: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """The k nearest allowed codes of every query: `tensor_cores.search`.

    Raises:
        RuntimeError: the extension is not available, the arguments do not fit, or a launch failed.
    """
    _extension.load()
    return tensor_cores.search(KERNELS, x, codes, prepared, mask, k)


class Kernels:
    """`tensor_cores.Kernels` in CUDA C++."""

    def row_block(self, device: torch.device, num_queries: int) -> int:
        return ROW_BLOCK

    def frame(self, x: Tensor, frame: Tensor, out: Tensor, measured: Tensor) -> None:
        torch.ops.spae_ops.nearest_code_cuda_frame(x, frame, out, measured)

    def screen(self, queries: Tensor, index: Index, inverse: Tensor, scores: Tensor) -> None:
        device, tiles = queries.device, scores.shape[1]
        hopper, processors = _capability(device)[0] == 9, self.processors(device)
        # Blocks take tiles of 256 codes on Hopper, one block to a multiprocessor; of 128, and two, elsewhere.
        width, slots = (2, processors) if hopper else (1, 2 * processors)
        blocks = len(queries) // ROW_BLOCK
        step = width * tensor_cores.tiles_per_split(blocks, tensor_cores.ceil_div(tiles, width), slots)
        torch.ops.spae_ops.nearest_code_cuda_screen(
            queries, index.table, inverse, index.bias, scores, step, processors, hopper
        )

    def certify(
        self, x: Tensor, index: Index, summary: Summary, threshold: Tensor, ids: Tensor, sqdist: Tensor
    ) -> None:
        torch.ops.spae_ops.nearest_code_cuda_certify(
            x, index.codes, summary.scores, index.bounds, summary.measured, threshold, ids, sqdist
        )

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
        last = (None, None) if after is None else after
        screened = (summary.scores, index.bounds, summary.measured, index.bias)
        torch.ops.spae_ops.nearest_code_cuda_resolve(
            x, index.codes, *screened, threshold, *last, *out, tiles_per_range
        )

    def merge(self, partial: tuple[Tensor, Tensor], threshold: Tensor, out: tuple[Tensor, Tensor]) -> None:
        torch.ops.spae_ops.nearest_code_cuda_merge(*partial, threshold, *out)

    def processors(self, device: torch.device) -> int:
        return torch.cuda.get_device_properties(device).multi_processor_count


KERNELS = Kernels()


@lru_cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
