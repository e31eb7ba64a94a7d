"""The CUDA search: its kernels on a CPU, by the emulator in `cuda_emulator/`, and their compilation for GPUs.

The emulator compiles csrc's own kernels and operators for CPU tensors. What it cannot show is that ptx.cuh
spells its instructions right, which is test_ptx.py's, and how fast they are.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.cpp_extension import include_paths

import spae_ops
from spae.testing import oracles, strategies
from spae_ops import _extension
from spae_ops.admission import verdicts
from spae_ops.lookup import cuda, tensor_cores

ROOT = Path(__file__).parents[2]
CSRC, EMULATOR = ROOT / "csrc", Path(__file__).parent / "cuda_emulator"
CUDA = CSRC / "nearest_code/cuda"
KERNELS = ("rows.cu", "sm80.cu", "sm90a.cu")
TORCH = [
    f"-I{CSRC}",
    "-DUSE_CUDA",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    *(f"-I{path}" for path in include_paths()),
]


def run(command, **options):
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout + result.stderr


def check(gpu, x, codes, mask=None, k=1, seed=0):
    gpu(seed)
    ids, sqdist = cuda.search(x, codes, cuda.prepare(codes), mask, k)
    expected, distances = oracles.topk_codes(x, codes, k, mask)
    assert (ids.numpy() == expected).all()
    with np.errstate(over="ignore"):
        assert (sqdist.numpy() == distances.astype(np.float32)).all()


def randn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


class TestEmulated:
    @settings(max_examples=15)
    @given(
        problem=strategies.lookups(max_queries=4, max_codes=140, widths=(1, 17, 40)),
        k=st.sampled_from((1, 1, 3)),
        seed=st.integers(0, 1000),
    )
    def test_hard_lookups(self, gpu, problem, k, seed):
        x, codes, mask = problem
        check(gpu, x, codes, mask, min(k, len(codes) if mask is None else int(mask.sum())), seed)

    @pytest.mark.parametrize("kind", strategies.KINDS)
    def test_every_kind(self, gpu, kind):
        rng = np.random.default_rng(len(kind))
        codes = strategies._values(kind, (140, 33), rng)
        check(gpu, strategies._queries(kind, 4, codes, rng), codes)

    @pytest.mark.parametrize("num_codes", [1, 127, 128, 129, 257])
    def test_sizes_around_the_tile(self, gpu, num_codes):
        for width in (1, 40):
            check(gpu, randn(3, width), randn(num_codes, width, seed=num_codes))

    @pytest.mark.parametrize("width", [63, 64, 65, 129, 640])
    def test_widths(self, gpu, width):
        codes = randn(130, width)
        check(gpu, torch.cat([codes[:2] + 1e-3, randn(2, width, seed=1)]), codes)

    @pytest.mark.parametrize("dtype", strategies.DTYPES)
    def test_dtypes(self, gpu, dtype):
        for x_dtype in strategies.DTYPES:
            check(gpu, randn(4, 24).to(x_dtype), randn(130, 24, seed=1).to(dtype))

    @pytest.mark.parametrize(("processors", "seed"), [(1, 0), (2, 1), (5, 2)])
    def test_pipelines(self, gpu, processors, seed, monkeypatch):
        """Rings go round more than twice, over several tiles and items, at whatever pace."""
        monkeypatch.setattr(cuda.Kernels, "processors", lambda self, device: processors)
        check(gpu, randn(130, 160, seed=seed), randn(600, 160, seed=seed + 1), seed=seed)

    def test_no_bank_conflicts(self, gpu, cuda_emulator):
        check(gpu, randn(2, 64), randn(130, 64))
        assert cuda_emulator.emulator_bank_conflicts() == 0

    def test_chunks_of_queries_and_passes_over_candidates(self, gpu, monkeypatch):
        monkeypatch.setattr(tensor_cores, "SUMMARY_BYTES", (1, 1))
        monkeypatch.setattr(tensor_cores, "LIST_LIMIT", 2)
        codes = randn(200, 8)
        check(gpu, codes[torch.arange(130)] + 1e-4, codes)
        check(gpu, codes[:2] * 1.1, codes, None, 5)
        check(gpu, codes[:2] * 1.1, codes[:3], None, 3)

    def test_long_lists(self, gpu):
        codes = randn(300, 4)
        check(gpu, codes[:1], codes, None, tensor_cores.SPLIT_LIMIT)
        check(gpu, codes[:2], codes, None, 100)
        check(gpu, torch.zeros(1, 4), codes.sign(), None, 300)

    def test_no_queries(self, gpu):
        check(gpu, torch.empty(0, 5), randn(7, 5))
        check(gpu, torch.empty(0, 5), randn(7, 5), None, 2)

    def test_ties_and_duplicates(self, gpu):
        check(gpu, torch.zeros(2, 3), torch.ones(600, 3), None, 2)
        mask = torch.zeros(600, dtype=torch.bool)
        mask[[300, 500]] = True
        check(gpu, torch.zeros(2, 3), torch.ones(600, 3), mask)

    @pytest.mark.parametrize("only", [0, 127, 128, 299])
    def test_one_allowed_code(self, gpu, only):
        mask = torch.zeros(300, dtype=torch.bool)
        mask[only] = True
        check(gpu, randn(3, 20), randn(300, 20, seed=1), mask)

    def test_huge_and_tiny_values(self, gpu):
        codes = torch.tensor([[1e30, 0.0], [0.0, 1e30], [3e38, -3e38], [1e-30, 0.0], [0.0, 1e-44]])
        check(
            gpu, torch.tensor([[2e30, 0.0], [0.0, 0.0], [3e38, -2e38], [0.9e30, 0.9e30], [1e-44, 0.0]]), codes
        )
        tiny = torch.randint(-3, 4, (140, 5), generator=torch.Generator().manual_seed(0)).float() * 2.0**-149
        check(gpu, torch.cat([tiny[:2], torch.full((1, 5), 3e38), torch.ones(1, 5)]), tiny)
        check(gpu, torch.full((2, 5), 1e-3), torch.zeros(140, 5))

    @pytest.mark.parametrize("scale", [1.0, 2.0**-120, 2.0**100])
    def test_bisectors_to_the_last_bit(self, gpu, scale):
        """Queries in the middle of two codes, and one step of the format to either side."""
        codes = (randn(130, 40) + 3) * scale
        middle = ((codes[:2].double() + codes[2:4].double()) / 2).float()
        x = torch.cat([middle, middle.nextafter(codes[2:4]), middle.nextafter(codes[:2])])
        mask = torch.zeros(130, dtype=torch.bool)
        mask[:4] = True
        check(gpu, x, codes, mask)

    def test_codes_that_would_be_subnormal_in_half_precision(self, gpu):
        """One row 2^28 above the others puts these exactly on half precision's subnormals, the last two decide.

        With large elements in every step of the query, tensor cores lose the products of its small ones, which
        tell these two apart, and keep a medium one, which says the opposite.
        """
        x = torch.full((1, 64), 7 * 2.0**-18)
        x[0, ::8] = torch.tensor([1.0, -1.0]).repeat(4)
        x[0, 1] = 2.0**-9
        codes = randn(130, 64).sign()  # whose median is no shift worth having
        codes[:, ::8] = -x[0, ::8]
        codes[128:] = 1
        codes[128, 1] = 0
        codes[129, (x[0] > 0) & (x[0] < 2.0**-9)] = -1
        codes *= 2.0**-24
        codes[0, 0] = 2.0**14
        check(gpu, x, codes)

    def test_nothing_is_framed_as_subnormal(self, gpu):
        """Around half precision's least normal number; the residuals measured say what was dropped."""
        gpu()
        width, least = 40, tensor_cores.LEAST
        steps = torch.tensor([0.0, 2.0**-24, 0.5, 0.99, 1 - 2.0**-24, 1.0, 1.001, 3.0]) * least
        codes = steps[torch.randint(0, 8, (130, width), generator=torch.Generator().manual_seed(6))]
        codes *= randn(130, width, seed=7).sign()
        codes[0, 0] = 2.0**14
        for rows, queries in ((codes, False), (codes * 2.0**-31, True)):
            out = torch.empty(256, 64, dtype=torch.float16)
            measured = torch.empty(3 + queries, 256)
            frame = torch.tensor([0.0] * width + [2.0 if queries else 1.0], dtype=torch.float64)
            cuda.KERNELS.frame(rows, frame, out, measured)
            back = measured[3, :130].double() if queries else torch.ones(130, dtype=torch.float64)
            seen, exact = out[:130, :width].double(), rows.double() * frame[-1] / back[:, None]
            assert (seen[seen != 0].abs() >= least).all()
            assert (seen[exact.abs() >= least] != 0).all()
            residual, found = ((exact - seen).norm(dim=1) * back), measured[1, :130].double()
            assert (residual <= found).all()
            assert (found <= residual * (1 + 2.0**-19) + exact.norm(dim=1) * back * 2.0**-52).all()

    @pytest.mark.parametrize("k", [1, 3])
    def test_distances_in_float64_are_the_definitions(self, gpu, k):
        gpu()
        codes, x = randn(140, 70) * 1e3, randn(40, 70, seed=1)
        index, ids = tensor_cores.Index(codes, *cuda.prepare(codes)), torch.empty(40, k, dtype=torch.int64)
        found = tensor_cores._search_rows(cuda.KERNELS, x, index, k, ids)
        assert (found.numpy() == oracles.topk_codes(x, codes, k)[1]).all()

    def test_scores_are_within_the_bound_and_decide(self, gpu):
        """Each tile's two largest w are within the slack of their codes' scores; most random rows are decided."""
        gpu()
        codes, x = randn(500, 96), randn(40, 96, seed=1)
        index = tensor_cores.Index(codes, *cuda.prepare(codes))
        summary = tensor_cores.screen(cuda.KERNELS, x, index)
        q, c = ((t.double() - index.frame[:-1]) * index.frame[-1] for t in (x, codes))
        scores = q @ c.T - c.square().sum(1) / 2
        a, b, own = index.bounds.double()[:, :, None]
        norms, residuals, owns, _ = summary.measured[:, : len(x)]
        slack = norms * a + residuals * b + owns + own
        for nth, w in enumerate(summary.scores[:, :, : len(x)]):
            best = torch.stack([tile.topk(2, 1).values[:, nth] for tile in scores.split(128, 1)])
            column = w.view(torch.int32) & 127
            tiles = zip(scores.split(128, 1), column.long(), strict=True)
            named = torch.stack([tile.gather(1, chosen[:, None])[:, 0] for tile, chosen in tiles])
            room = slack + tensor_cores.COLUMN_SLACK * w.abs()
            assert ((w - best).abs() <= room).all()
            assert ((w - named).abs() <= room).all()
            assert (room < 2e-3 * norms * index.bounds[1][:, None]).all()
        ids, sqdist = torch.empty(40, 1, dtype=torch.int64), torch.empty(40, 1, dtype=torch.float64)
        decided = tensor_cores.certify(cuda.KERNELS, x, index, summary, ids, sqdist).isinf()
        assert decided.float().mean() > 0.8
        assert (ids[decided, 0].numpy() == oracles.topk_codes(x, codes, 1)[0][decided, 0]).all()

    def test_what_does_not_fit_is_refused(self, gpu):
        gpu()
        codes = randn(130, 8)
        index = tensor_cores.Index(codes, *cuda.prepare(codes))
        summary = tensor_cores.screen(cuda.KERNELS, randn(2, 8), index)
        out = torch.empty(2, dtype=torch.int64), torch.empty(2, dtype=torch.float64)
        with pytest.raises(RuntimeError, match="x must be"):
            cuda.KERNELS.certify(randn(2, 9), index, summary, torch.empty(2), *out)
        with pytest.raises(RuntimeError, match="scores has the wrong"):
            cuda.KERNELS.screen(torch.empty(128, 64).half(), index, torch.ones(128), torch.empty(2, 2, 127))


def test_compiles_against_older_toolkits():
    """The driver's function is asked for by another name before CUDA 12.5; neither name exists in the other's time."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"needs a C++ compiler, {compiler} is not found")
    flags = ["-std=c++20", "-fsyntax-only", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-DSPAE_EMULATE_CUDA"]
    source = CUDA / KERNELS[2]
    for version in (12040, 12050):
        run(
            [
                compiler,
                "-x",
                "c++",
                *flags,
                f"-DCUDART_VERSION={version}",
                f"-I{EMULATOR}",
                *TORCH,
                str(source),
            ]
        )


def test_why_it_is_unavailable():
    assert cuda.unavailable(torch.device("cpu")) == "runs on CUDA tensors, got cpu"
    if _extension.reason() is None and not _extension.load().with_cuda:
        assert cuda.unavailable(None).startswith("spae_ops was built without CUDA")


@pytest.mark.parametrize(
    ("listed", "capability", "reason"),
    [
        ("80,90", (7, 5), "needs compute capability 8.0 or higher, got 7.5"),
        ("80,90", (8, 9), None),
        ("80,90", (12, 0), None),  # by the newest one's PTX
        ("80,90,100,120", (10, 3), None),
        ("80,90,100,120", (11, 0), "built for compute capability 8.0, 9.0, 10.0, 12.0 or later, got 11.0"),
        ("80,90,100,110,120", (12, 1), None),
        ("80,90", None, "needs a CUDA device of compute capability 8.0, 9.0 or later"),
        (None, (11, 0), None),  # built before it said so
        (None, None, "needs a CUDA device"),
        ("", (11, 0), None),
    ],
)
def test_what_it_was_built_for_decides_where_it_runs(monkeypatch, listed, capability, reason):
    known = {} if listed is None else {"cuda_architectures": listed}
    monkeypatch.setattr(_extension, "reason", lambda: None)
    monkeypatch.setattr(
        _extension,
        "load",
        lambda: SimpleNamespace(with_cuda=True, instruction_sets=list, amx_status=str, **known),
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(verdicts, "summary", lambda kind, name: "")  # asks the device
    said = {row.name: row.reason for row in spae_ops.implementations("nearest_code")}["cuda"]
    assert said == "" if reason is None else reason in said
    if listed is None and capability is None:
        assert said == reason


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Folder, and what ptxas says of each source's cubins: (source, architecture) -> report."""
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    folder = tmp_path_factory.mktemp("cubins")
    jobs = [(name, arch) for name in KERNELS[:2] for arch in ("80", "90", "100", "120")]
    jobs.append((KERNELS[2], "90a"))

    def compile_one(job):
        name, arch = job
        target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
        cubin = folder / f"{Path(name).stem}_{arch}.cubin"
        flags = ["-O3", "-std=c++20", "-cubin", "-Xptxas=-v", "-Werror=all-warnings", f"-I{CSRC}", target]
        return job, run(["nvcc", *flags, str(CUDA / name), "-o", str(cubin)])

    with ThreadPoolExecutor() as pool:
        return folder, dict(pool.map(compile_one, jobs))


def test_kernels_compile_without_spills(compiled):
    limits = dict(zip(KERNELS, (128, 128, 168), strict=True))
    for (name, arch), report in compiled[1].items():
        print(f"{name} for sm_{arch}:", *re.findall(r"\w+_kernel|Used \d+ registers", report))
        spills = re.findall(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report
        )
        registers = [int(number) for number in re.findall(r"Used (\d+) registers", report)]
        assert spills
        assert set(spills) == {("0", "0", "0")}, report
        assert max(registers) <= limits[name], report
        assert "C7510" not in report  # wgmma made to wait for one another


@pytest.mark.parametrize(
    ("cubin", "instructions"),
    [
        ("sm80_80", ("HMMA.16816.F32", "LDGSTS.E.BYPASS.128", "LDSM.16.M88.4")),
        ("sm90a_90a", ("HGMMA.64x256x16.F32", "UTMALDG.2D", "USETMAXREG")),
    ],
)
def test_machine_code_uses_the_tensor_cores(compiled, cubin, instructions):
    tool = shutil.which("cuobjdump")
    if tool is None and (spec := find_spec("triton")) is not None and spec.origin is not None:
        tool = str(Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump")
    if tool is None or not Path(tool).exists():
        pytest.skip("needs cuobjdump, of the CUDA toolkit or triton")
    code = run([tool, "--dump-sass", str(compiled[0] / f"{cubin}.cubin")])
    for instruction in instructions:
        assert instruction in code, instruction
    assert "LDL" not in code  # local memory


def test_operators_compile_against_cuda(compiled, tmp_path):
    """The operators as the extension's build has it, with the headers that nvcc takes."""
    plan = run(["nvcc", "--dryrun", "-x", "cu", os.devnull])
    includes = re.search(r"^#\$ INCLUDES=(.*)$", plan, re.MULTILINE)
    assert includes is not None
    command = [os.environ.get("CXX", "g++"), "-std=c++20", "-fsyntax-only", "-Wall", "-Werror", *TORCH]
    run([*command, *includes[1].replace('"', "").split(), str(CUDA / "operators.cpp")])
