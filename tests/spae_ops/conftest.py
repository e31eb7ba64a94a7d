"""Triton's tests need processes of their own: the interpreter is chosen when triton is first imported, and
compiling for a GPU that is not there needs it off. CUDA's need an emulator, which is built once for a run."""

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from torch.utils.cpp_extension import include_paths

from spae_ops import _dispatch, _extension
from spae_ops.admission import verdicts
from spae_ops.lookup import cuda

ROOT = Path(__file__).parents[2]
CSRC, EMULATOR = ROOT / "csrc", Path(__file__).parent / "cuda_emulator"
# Compute capability, and how the emulated tensor cores add: terms of a step and bits kept (tensor_cores.py).
GPUS = {"sm_80": ((8, 0), 8, 24), "sm_90a": ((9, 0), 16, 25)}

COMPILE = r"""
import json, os, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

cuobjdump = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
capability = int(sys.argv[1])

def compiled(kernel, constants, types, aligned=(), **options):
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned if n in names}
    result = triton.compile(
        ASTSource(kernel, signature, constants, attributes), target=GPUTarget("cuda", capability, 32),
        options={**options, "enable_fp_fusion": True},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        usage = subprocess.run([cuobjdump, "--dump-resource-usage", file.name], capture_output=True, text=True)
    registers, stack, local = (int(re.search(rf"{n}:(\d+)", usage.stdout)[1]) for n in ("REG", "STACK", "LOCAL"))
    return dict(
        kernel=kernel.__name__, constants=str(constants), registers=registers, spills=stack + local,
        shared=result.metadata.shared, warps=result.metadata.num_warps,
        matrix=sum(map(result.asm["ptx"].count, ("mma.sync", "wgmma.mma_async", "tcgen05.mma"))),
    )

"""


def _run(code_or_arguments, **environment):
    arguments = ["-c", code_or_arguments] if isinstance(code_or_arguments, str) else code_or_arguments
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=600
    )


@pytest.fixture(scope="session")
def run_python():
    """run_python(code or arguments, **environment) -> CompletedProcess, outside of the interpreter."""
    return _run


@pytest.fixture(scope="session")
def run_interpreted():
    """run_interpreted(file): its tests named TestInterpreted, in a process with Triton's interpreter."""

    def run(file):
        if os.environ.get("TRITON_INTERPRET") == "1":
            pytest.skip("already in the interpreter: its tests are in this run")
        options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-k", "TestInterpreted"]
        result = _run(["-m", "pytest", *options, file], TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
        assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]

    return run


@pytest.fixture
def compile_kernels(tmp_path):
    """compile_kernels(script, capability) -> what the script's `rows` say of each kernel that it compiled with
    `compiled(kernel, constants, types, aligned, **options)`."""

    def run(script, capability):
        code = f"{COMPILE}{script}\nprint(json.dumps(rows))"
        result = _run(["-W", "ignore", "-c", code, str(capability)], TRITON_CACHE_DIR=str(tmp_path))
        assert result.returncode == 0, result.stderr[-4000:]
        rows = json.loads(result.stdout.splitlines()[-1])
        print("\n".join(map(str, rows)))
        return rows

    return run


@pytest.fixture(scope="session")
def cuda_emulator():
    """The emulator, with csrc's kernels and operators, loaded; the operators take CPU tensors."""
    if _extension.reason() is not None:
        pytest.skip(f"needs the compiled operators' schemas: {_extension.reason()}")
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"needs a C++ compiler, {compiler} is not found")
    _extension.load()
    file = _build_emulator(compiler)
    torch.ops.load_library(file)
    library = ctypes.CDLL(str(file))
    library.emulator_bank_conflicts.restype = ctypes.c_int64
    library.emulator_run_last.argtypes = [ctypes.c_int64]
    return library


def _build_emulator(compiler):
    """The library in build/, made again when what it is made of has changed."""
    kernels = CSRC / "nearest_code/cuda"
    sources = [EMULATOR / "emulator.cpp", *sorted([*kernels.glob("*.cu"), *kernels.glob("*.cpp")])]
    flags = ["-std=c++20", "-O2", "-ffp-contract=off", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
    flags += ["-DSPAE_EMULATE_CUDA", "-DSPAE_CUDA_DEVICE=CPU", f"-I{EMULATOR}", f"-I{CSRC}", "-DUSE_CUDA"]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", *(f"-I{path}" for path in include_paths())]
    parts = sorted(path for folder in (EMULATOR, kernels) for path in folder.iterdir())
    made_of = [path.read_bytes() for path in parts] + [
        " ".join([compiler, *flags, torch.__version__]).encode()
    ]
    folder = ROOT / "build/emulator" / hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)

    def compiled(source):
        target = str(folder / f"{source.stem}.o")
        _compile([compiler, "-x", "c++", *flags, "-c", str(source), "-o", target])
        return target

    file = folder / "emulated.so"
    with FileLock(folder / "lock"):  # two files' tests may want it at once
        if not file.exists():
            with ThreadPoolExecutor() as pool:
                objects = list(pool.map(compiled, sources))
            libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
            _compile([compiler, "-shared", "-Wl,-Bsymbolic", *objects, *libraries, "-o", f"{file}.part"])
            os.replace(f"{file}.part", file)
    return file


def _compile(command):
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.fixture(scope="module", params=GPUS)
def gpu(request, cuda_emulator):
    """gpu(seed=0): the CUDA search runs on this one; memory that was not written holds NaN, or the largest integer."""
    capability, terms, bits = GPUS[request.param]
    patch = pytest.MonkeyPatch()
    patch.setattr(cuda, "_capability", lambda device: capability)
    patch.setattr(cuda.Kernels, "processors", lambda self, device: 2)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield lambda seed=0: cuda_emulator.emulator_configure(seed, terms, bits)
    torch.use_deterministic_algorithms(False)
    patch.undo()


@pytest.fixture
def world(monkeypatch, tmp_path):
    """CPUs are on trial, in an environment and with a cache of their own; nothing is known."""
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path))
    monkeypatch.delenv("SPAE_ADMIT", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    environment = {"torch": "1", "device": "some GPU"}
    monkeypatch.setattr(
        verdicts, "environment", lambda device, implementation: {**environment, "i": implementation}
    )
    monkeypatch.setattr(verdicts, "on_trial", lambda device: device.type == "cpu")
    monkeypatch.setattr(verdicts, "_known", {})
    monkeypatch.setattr(_dispatch, "_told", False)
    return SimpleNamespace(folder=tmp_path, environment=environment)
