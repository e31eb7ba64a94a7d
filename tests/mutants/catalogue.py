"""Mutants of the exact lookup and of the truncated cross-entropy: one change each that must not pass the tests named
with it."""

from __future__ import annotations

from typing import NamedTuple

CPU, PTX, BOUNDS = ("cpu_bounds", "cpu", "cpu_operator"), ("ptx",), ("gpu_bounds", "cuda")
TILES, TRUNCATION = ("tiles",), ("truncation_bounds", "truncation")
LOSS, TIES = ("cross_entropy",), ("ties",)
FILES = {
    "cpu_bounds": "tests/spae_ops/test_nearest_code_cpu_bounds.py",
    "cpu": "tests/spae_ops/test_nearest_code_cpu.py",
    "cpu_operator": "tests/spae_ops/test_nearest_code_cpu_operator.py",
    "tiles": "tests/spae_ops/test_tiles.py",
    "cross_entropy": "tests/spae_ops/test_distance_cross_entropy_cpu.py",
    "ties": "tests/spae_ops/test_distance_cross_entropy_ties.py",
    "truncation": "tests/spae_ops/test_distance_cross_entropy_truncation.py",
    "truncation_bounds": "tests/spae_ops/test_distance_cross_entropy_bounds.py",
    "gpu_bounds": "tests/spae_ops/test_nearest_code_gpu_bounds.py",
    "cuda": "tests/spae_ops/test_nearest_code_cuda.py",
    "triton": "tests/spae_ops/test_nearest_code_triton.py",
    "ptx": "tests/spae_ops/test_ptx.py",
}


class Mutant(NamedTuple):
    """`old`, which occurs once in `file`, becomes `new`. `survives` says why it may pass, where it does."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    survives: str = ""


H, CPU_DIR, CUDA_DIR = (
    "csrc/nearest_code/cpu/nearest_code.h",
    "csrc/nearest_code/cpu/",
    "csrc/nearest_code/cuda/",
)
PTX_H, SM80, SM90A, ROWS = (CUDA_DIR + name for name in ("ptx.cuh", "sm80.cu", "sm90a.cu", "rows.cu"))
CROSS_ENTROPY = "csrc/distance_cross_entropy/"
TRUNCATE, PROBLEM, EXACT = (CROSS_ENTROPY + name for name in ("truncate.cpp", "problem.h", "exact.cpp"))
TILES_H, SCHEDULE = "csrc/simd/tiles.h", "csrc/simd/tile_schedule.h"
BOUND, TRITON = "spae_ops/lookup/tensor_cores.py", "spae_ops/lookup/triton_kernel.py"

MUTANTS = [
    # The CPU bound (nearest_code.h).
    Mutant("gamma_D = 0", H, "n / (1.0 - n) + 7 * kUnit", "0 * n + 7 * kUnit", CPU),
    Mutant("0.9 gamma_D", H, "n / (1.0 - n) + 7 * kUnit", "0.9 * n / (1.0 - n) + 7 * kUnit", CPU),
    Mutant("A without 7u", H, "n / (1.0 - n) + 7 * kUnit", "n / (1.0 - n)", CPU),
    Mutant("B = 0", H, "kCodeSlope = 3 * kUnit", "kCodeSlope = 0 * kUnit", CPU),
    Mutant("A8 = 0", H, "kIntegerSlope = 32 * kUnit", "kIntegerSlope = 0 * kUnit", CPU),
    Mutant("e = 0 in E_q", H, "return 0.5 * e * norm", "return 0 * e * norm", CPU),
    Mutant("2 (D + 4) h dropped", H, "+ 2.0 * static_cast<double>(width + 4) * kTiny", "", CPU),
    Mutant("evaluated thresholds without E_q", H, "- rounding - slack)", "- rounding - 0 * slack)", CPU),
    Mutant("lower_k takes the slopes once", CPU_DIR + "screens.cpp", "return 2.0 * (slopes_", "return (slopes_", CPU),
    Mutant("R_q dropped", CPU_DIR + "screens.cpp", "round_up(residual + kInteger", "round_up(0 * residual + kInteger", CPU),
    Mutant("2^-11 of prefixes dropped", CPU_DIR + "prepare.cpp", " * (1.0 + 0x1p-11));", ");", CPU),
    Mutant("2u N of r_k dropped", CPU_DIR + "prepare.cpp", "2 * kUnit * norm + quantize", "quantize", CPU),
    # AMX's tiles: their check, and their last step.
    Mutant("tiles' check starts at 0", TILES_H, "kCheckStart = 1 << 28", "kCheckStart = 0", TILES),
    Mutant("tiles are not checked", SCHEDULE, "whole &= equal(", "whole |= equal(", TILES),
    Mutant("a tile's last step adds up twice", "csrc/simd/packed_tiles.cpp", "skip = step * kLineWords - begin", "skip = 0 * begin", TILES),
    # The cut of truncated cross-entropies (distance_cross_entropy.h), and the thresholds that its codes reach. The bounds
    # of the scores are those of lookups, above.
    Mutant("25 bits are cut", PROBLEM, "kCutBits = 26", "kCutBits = 25", TRUNCATION),
    Mutant("log K of the cut dropped", PROBLEM, "gap(std::log(static_cast<double>(input.codes.count())) +", "gap(", TRUNCATION),
    Mutant("codes beyond the cut are kept", EXACT, "/ temperature <= problem_.gap", "/ temperature <= 2 * problem_.gap", TRUNCATION),
    Mutant("codes are summed as they are found", EXACT, "return a.code < b.code;", "return false;", TRUNCATION),
    Mutant("a threshold without tau G", TRUNCATE, "(nearest + problem_.in.temperature * problem_.gap)", "nearest", TRUNCATION),
    Mutant("a running threshold without tau G", TRUNCATE, "lower - reach_)", "lower - 0 * reach_)", TRUNCATION),
    Mutant("half of tau G in running thresholds", TRUNCATE, "reach_ = 0.5 *", "reach_ = 0.25 *", TRUNCATION),
    Mutant("a running threshold without the scores' margin", TRUNCATE, "scores[best] - screen_", "scores[best] - 0 * screen_", TRUNCATION),
    Mutant("a running threshold with half of the scores' margin", TRUNCATE, "scores[best] - screen_", "scores[best] - 0.5 * screen_", TRUNCATION),
    Mutant("a running threshold without E_q", TRUNCATE, "- 2 * bound.slack", "- 0 * bound.slack", TIES),
    Mutant("the target sets running thresholds", TRUNCATE, "if (code == problem_.in.target[bound.query] || code >= count_)", "if (code >= count_)", TRUNCATION),
    Mutant("the target sets the first threshold", TRUNCATE, "if (first + j != target && (code", "if ((code", TRUNCATION),
    Mutant("the target is summed", TRUNCATE, "&& first + j != problem_.in.target[row.query])", ")", TRUNCATION),
    Mutant("roundings of |Q|^2 dropped", H, "rounding = static_cast<double>(width + 8)", "rounding = 0 * static_cast<double>(width + 8)", TRUNCATION),
    Mutant("rows beyond the range are screened, cross-entropy", TRUNCATE, "screened = norm <= kMaxScreenNorm", "screened = norm <= 0x1p1000", LOSS),
    Mutant(
        "2^-48 of the cut dropped",
        TRUNCATE,
        "kRoundings = 1 + 0x1p-48",
        "kRoundings = 1",
        TRUNCATION,
        "It is for the proof to be short. In a threshold the cut's roundings, 5w of it, are half as much in units of "
        "scores, and the term for those of |Q|^2, (D + 8) w (|Q|^2 + s^2 S), has at least 6w s^2 S to spare. In a running "
        "threshold they are below 2^-47 of what separates scores at all (2.1 N_q N_k + N_k^2), of which int8's A8 and B "
        "have 12u and 0.8u to spare.",
    ),
    # The GPU bound (tensor_cores.py) and where the kernels evaluate it.
    Mutant("G = 0", BOUND, "gamma = padded * 2.0**-22", "gamma = 0", BOUNDS),
    Mutant("G / 8", BOUND, "gamma = padded * 2.0**-22", "gamma = padded * 2.0**-25", BOUNDS),
    Mutant("4u N_q N_t dropped", BOUND, "(gamma + 4 * unit) * n", "gamma * n", BOUNDS),
    Mutant("R_t dropped", BOUND, "r + (gamma", "(gamma", BOUNDS),
    Mutant("3u N^2 dropped", BOUND, "3 * unit * n * n", "0 * n", BOUNDS),
    Mutant("column slack / 4, CUDA", CUDA_DIR + "kernels.h", "0x1.2p-16f", "0x1.2p-18f", BOUNDS),
    Mutant("column slack / 4, Triton", BOUND, "1.125 * 2.0**-16", "1.125 * 2.0**-18", ("gpu_bounds", "triton")),
    Mutant("own slack 0, CUDA", ROWS, "usable ? slack : kUnscreened", "usable ? 0 * slack : kUnscreened", BOUNDS),
    Mutant("own slack 0, Triton", TRITON, "(0.5 * definition_error", "(0.0 * definition_error", ("gpu_bounds", "triton")),
    Mutant("queries beyond the range are screened", ROWS, "usable ? slack : kUnscreened", "usable ? slack : slack", BOUNDS),
    Mutant("norms not inflated", CUDA_DIR + "kernels.h", "kInflation = 1 + 0x1p-20", "kInflation = 1", BOUNDS),
    Mutant("subnormals framed", CUDA_DIR + "kernels.h", "kLeast = 0x1p-14", "kLeast = 0", BOUNDS),
    Mutant("R_q N_t dropped", ROWS, "residual_ * factors[summary_.tiles]", "0 * factors[summary_.tiles]", BOUNDS),
    # What the emulator knows of the hardware, and its scale.
    Mutant("wgmma_fence removed", SM90A, "    ptx::wgmma_fence();\n", "", BOUNDS),
    Mutant("mbarrier_init_fence removed", SM90A, "    ptx::mbarrier_init_fence();\n", "", BOUNDS),
    Mutant("248 consumer registers", SM90A, "kConsumerRegisters = 232", "kConsumerRegisters = 248", BOUNDS),
    Mutant("launch without its stream", CUDA_DIR + "kernels.h", "  config.stream = stream;\n", "", BOUNDS),
    Mutant("not the current stream", CUDA_DIR + "operators.cpp", "cudaStream_t>(stream);", "cudaStream_t>(nullptr);", BOUNDS),
    Mutant(
        "32-bit summary offset, sm_80",
        SM80,
        "const int64_t target = int64_t{tile} * screen.rows + row + local;",
        "const auto target = static_cast<int>(int64_t{tile} * screen.rows + row + local);",
        BOUNDS,
    ),
    Mutant(
        "32-bit summary offset, sm_90a",
        SM90A,
        "const int64_t target = int64_t{tile + half} * screen.rows + row + 8 * h;",
        "const auto target = static_cast<int>(int64_t{tile + half} * screen.rows + row + 8 * h);",
        BOUNDS,
    ),
    Mutant(
        "32-bit summary offset, certify and resolve",
        ROWS,
        "const int64_t source = int64_t{tile} * summary_.rows + row_;",
        "const auto source = static_cast<int>(int64_t{tile} * summary_.rows + row_);",
        BOUNDS,
    ),
    Mutant("32-bit offset of rows", ROWS, "offset_(row * matrix.width)", "offset_(static_cast<int>(row * matrix.width))", BOUNDS),
    Mutant("32-bit offset of framed rows", ROWS, "out[row * arguments.padded + d]", "out[static_cast<int>(row * arguments.padded + d)]", BOUNDS),
    # Instructions as ptx.cuh spells them.
    Mutant("wgmma.fence empty", PTX_H, "wgmma.fence.sync.aligned;", "", PTX),
    Mutant("fence.mbarrier_init empty", PTX_H, "fence.mbarrier_init.release.cluster;", "", PTX),
    Mutant("fence.proxy empty", PTX_H, "fence.proxy.async.shared::cta;", "", PTX),
    Mutant("cp.async's operands swapped", PTX_H, "[%0], [%1], 16;", "[%1], [%0], 16;", PTX),
    Mutant("cp.async waits for others", PTX_H, "cp.async.wait_group %0;", "cp.async.wait_group 3;", PTX),
    Mutant("ldmatrix's matrices swapped", PTX_H, "{%0, %1, %2, %3}, [%4];", "{%0, %2, %1, %3}, [%4];", PTX),
    Mutant("mma's a swapped", PTX_H, "{%4, %5, %6, %7}, {%8, %9}", "{%4, %6, %5, %7}, {%8, %9}", PTX),
    Mutant("mma's b swapped", PTX_H, "{%8, %9}, ", "{%9, %8}, ", PTX),
    Mutant("TMA's row and column swapped", PTX_H, "{%3, %4}], [%2];", "{%4, %3}], [%2];", PTX),
    Mutant("wgmma's a and b swapped", PTX_H, "%128, %129, accumulate", "%129, %128, accumulate", PTX),
    Mutant("wgmma subtracts", PTX_H, "accumulate, 1, 1, 0, 0;", "accumulate, 1, -1, 0, 0;", PTX),
    Mutant("wgmma's sums shifted", PTX_H, "SPAE_D32(0), SPAE_D32(32)", "SPAE_D32(32), SPAE_D32(0)", PTX),
    Mutant("mbarrier's count and address swapped", PTX_H, '"r"(barrier), "r"(count)', '"r"(count), "r"(barrier)', PTX),
    Mutant("bar.sync's operands swapped", PTX_H, "bar.sync %0, %1;", "bar.sync %1, %0;", PTX),
    Mutant("waits for the other parity", PTX_H, "@done bra finished;", "@!done bra finished;", PTX),
]  # fmt: skip
