"""Builds the optional compiled operators `spae_ops._C`; all else about the package is in pyproject.toml.

Build against the installed torch: `pip install --no-build-isolation .`. Without torch or a compiler the
package installs as pure Python, and where nvcc fails, without the CUDA kernels; either way the build ends
by saying why, what is lost and how to get it. `SPAE_NO_EXT=1` skips the extension, `SPAE_NO_CUDA=1` its
CUDA kernels; `SPAE_REQUIRE_EXT=1` makes a failure to build an error. The CUDA kernels are part of it where
torch is built for CUDA and nvcc is found.
"""

from __future__ import annotations

import copy
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from setuptools import setup

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "csrc"
CUDA_OPERATORS = SOURCES / "nearest_code/cuda/operators.cpp"  # the C++ source that needs CUDA's headers
# The stable ABI of torch 2.10: one binary serves that version and later ones.
TORCH_TARGET = "0x020a000000000000"
CXX = ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall"]
CXX += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # its AVX-512 header trips them (GCC bug 105593)
# A user's CFLAGS, which come before, may be meant for other packages and need not stop the build of this one.
# Where something else compiles csrc, strict_arithmetic.h stops it.
CXX += ["-fno-fast-math"]
# What simd/amx.cpp takes for granted: its functions' target, and an assembler that knows matrix tiles.
AMX_PROBE = r"""
__attribute__((target("amx-tile,amx-int8,avx512f,avx512vnni"))) void probe(const void* lines) {
  asm volatile("ldtilecfg %0" : : "m"(*static_cast<const char(*)[64]>(lines)));
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(lines), "r"(64l), "i"(4));
  asm volatile("tdpbsud %tmm6, %tmm4, %tmm0");
  asm volatile("tilerelease");
}
"""
NVCC = ["-O3", "-std=c++20", "-Xcompiler=-fPIC,-fvisibility=hidden"]
# A binary runs on the GPUs of its major version from its minor version on: one for each major version. The
# newest one's PTX is for those that nvcc does not know.
ARCHITECTURES = (80, 90, 100, 110, 120)

left_out: list[str] = []  # what the end of the build says


class Toolkit(NamedTuple):
    """nvcc, the folders that it takes headers and libraries from, and which of ARCHITECTURES it knows."""

    nvcc: str
    include: list[str]
    library: list[str]
    architectures: list[int]


def find_toolkit() -> Toolkit | None:
    """The CUDA toolkit to build with, if any."""
    if os.environ.get("SPAE_NO_CUDA") == "1":
        return None
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None:
        note(f"torch {torch.__version__} is built without CUDA, so that the CUDA kernels are not built")
        return None
    try:
        if CUDA_HOME is None:
            raise RuntimeError("nvcc is not found (CUDA_HOME can say where it is)")
        return read_toolkit(os.path.join(CUDA_HOME, "bin", "nvcc"))
    except (OSError, RuntimeError) as error:
        leave_out_cuda(error)
        return None


def read_toolkit(nvcc: str) -> Toolkit:
    """What `nvcc` says of itself.

    Raises:
        OSError: it does not run.
        RuntimeError: it is too old.
    """
    plan = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True)
    found: dict[str, list[str]] = {"INCLUDES": [], "LIBRARIES": []}
    for line in plan.stderr.splitlines():
        name, _, value = line.removeprefix("#$ ").partition("=")
        if name in found:
            found[name] = [flag[2:] for flag in shlex.split(value)]
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True).stdout
    known = [number for number in ARCHITECTURES if re.search(rf"^sm_{number}$", listed, re.MULTILINE)]
    if not {80, 90} <= set(known):
        raise RuntimeError(f"{nvcc} does not know sm_80 and sm_90: CUDA 12 or later is needed")
    return Toolkit(nvcc, found["INCLUDES"], found["LIBRARIES"], known)


def targets(source: Path, architectures: list[int]) -> list[str]:
    """nvcc's options for the GPUs that it compiles `source` for."""
    if source.stem.endswith("sm90a"):  # wgmma exists there only
        return ["-gencode=arch=compute_90a,code=sm_90a"]
    binaries = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in architectures]
    newest = f"compute_{architectures[-1]}"
    return [*binaries, f"-gencode=arch={newest},code={newest}"]


def compile_kernels(toolkit: Toolkit, folder: Path) -> list[str]:
    """Compiles csrc's .cu files, all at once; the object files.

    Raises:
        RuntimeError: nvcc fails on one.
    """

    def compile_one(source: Path) -> str:
        target = folder / f"{source.stem}.cuda.o"
        command = [toolkit.nvcc, *NVCC, *targets(source, toolkit.architectures), f"-I{SOURCES}"]
        command += ["-c", str(source), "-o", str(target)]
        print(shlex.join(command), flush=True)
        if subprocess.run(command).returncode != 0:
            raise RuntimeError(f"nvcc fails on {source.relative_to(SOURCES)}; what it says is further up")
        return str(target)

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(compile_one, sorted(SOURCES.rglob("*.cu"))))


def amx_macros(compiler: str) -> list[tuple[str, None]]:
    """What has csrc take AMX's instructions, if `compiler` knows them."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(AMX_PROBE)
        command = [
            *shlex.split(compiler),
            "-std=c++20",
            "-c",
            str(source),
            "-o",
            str(source.with_suffix(".o")),
        ]
        try:
            known = subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            known = False
    if not known:
        note(
            f"{compiler} does not know AMX's instructions, so that lookups on processors with it take AVX-512"
        )
    return [("SPAE_WITH_AMX", None)] if known else []


def add_cuda(extension: Any, toolkit: Toolkit, folder: Path) -> None:
    """Compiles the kernels and makes them part of `extension`."""
    extension.extra_objects += compile_kernels(toolkit, folder)
    extension.sources += [relative(CUDA_OPERATORS)]
    architectures = ",".join(map(str, toolkit.architectures))
    extension.define_macros += [("SPAE_WITH_CUDA", None), ("USE_CUDA", None)]
    extension.define_macros += [("SPAE_CUDA_ARCHITECTURES", architectures)]
    extension.include_dirs += toolkit.include
    extension.library_dirs += toolkit.library
    # The CUDA runtime is linked statically, so that it need not be the one that torch brings.
    extension.libraries += ["torch_cuda", "cudart_static", "dl", "rt", "pthread"]


def build(extension: Any, toolkit: Toolkit | None, folder: Path, compile_all: Callable[[], None]) -> None:
    """Runs `compile_all`, which compiles `extension`: with CUDA if there is a toolkit, without if that fails.

    Raises:
        Exception: whatever went wrong, with SPAE_REQUIRE_EXT=1.
    """
    extension.optional = False  # a failure is to be seen here, not to be passed over
    if toolkit is not None:
        plain = copy.deepcopy(vars(extension))
        try:
            add_cuda(extension, toolkit, folder)
            return compile_all()
        except Exception as error:
            leave_out_cuda(error, failed=True)
            vars(extension).update(plain)
    try:
        compile_all()
    except Exception as error:
        leave_out_extension(error)
        extension.optional = True


def leave_out_cuda(error: Exception, failed: bool = False) -> None:
    if failed and required():
        raise error
    left_out.append(f"""spae_ops is built WITHOUT ITS CUDA KERNELS.
Why: {error}
What is lost: impl="cuda" of nearest_code on NVIDIA GPUs. All else works: Triton and torch serve GPUs.
To get it: mend the above, then SPAE_REQUIRE_EXT=1 pip install --no-build-isolation -v .
To do without and not to be told: SPAE_NO_CUDA=1""")


def leave_out_extension(error: Exception) -> None:
    if required():
        raise error
    left_out.append(f"""spae_ops is installed WITHOUT ITS COMPILED OPERATORS, as pure Python.
Why: {error}
What is lost: speed. On CPUs, lookups and pyramids give the same answers many times more slowly, by torch.
To get them: a C++20 compiler and torch >= 2.10 installed first, then
    SPAE_REQUIRE_EXT=1 pip install --no-build-isolation -v .
To do without and not to be told: SPAE_NO_EXT=1""")


def required() -> bool:
    return os.environ.get("SPAE_REQUIRE_EXT") == "1"


def note(message: str) -> None:
    print(f"spae_ops: {message}", file=sys.stderr)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def extension() -> dict:
    """Arguments of `setup` that build spae_ops._C; none where it is skipped or cannot be built."""
    if os.environ.get("SPAE_NO_EXT") == "1":
        note("SPAE_NO_EXT=1, so that the compiled operators are not built")
        return {}
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension, get_cxx_compiler

        if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10):
            raise ImportError(f"torch >= 2.10 is needed, found {torch.__version__}")
    except ImportError as error:
        leave_out_extension(error)
        return {}
    toolkit = find_toolkit()
    compiled = CppExtension(
        "spae_ops._C",
        sorted(relative(path) for path in SOURCES.rglob("*.cpp") if path != CUDA_OPERATORS),
        include_dirs=[str(SOURCES)],
        define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET), *amx_macros(get_cxx_compiler())],
        py_limited_api=True,  # of Python 3.10, as torch sets it; libtorch_python is not linked
        depends=sorted(relative(path) for path in SOURCES.rglob("*") if path.is_file()),
        extra_compile_args={"cxx": CXX},
    )

    class OptionalBuild(BuildExtension):
        def build_extensions(self) -> None:
            build(compiled, toolkit, Path(self.build_temp), super().build_extensions)

        def copy_extensions_to_source(self) -> None:
            # Of before there was one for all versions of Python: Python would find it first.
            for shadow in (ROOT / "spae_ops").glob("_C.cpython-*"):
                shadow.unlink()
            super().copy_extensions_to_source()

    options = {"bdist_wheel": {"py_limited_api": "cp310"}}
    return {"ext_modules": [compiled], "cmdclass": {"build_ext": OptionalBuild}, "options": options}


def main() -> None:
    setup(**extension())
    for message in left_out:
        bar = "!" * 100
        print(f"\n{bar}\n{message}\n{bar}\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
