"""Triton's tests need processes of their own: the interpreter is chosen when triton is first imported, and
compiling for a GPU that is not there needs it off."""

import json
import os
import subprocess
import sys

import pytest

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
