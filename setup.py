"""Builds the optional compiled operators `spae_ops._C`; all else about the package is in pyproject.toml.

Build against the installed torch: `pip install --no-build-isolation .`. Without torch or a compiler the
package installs as pure Python and says why. `SPAE_NO_EXT=1` skips the extension; `SPAE_REQUIRE_EXT=1` makes
a failure to build it an error. The CUDA kernels are part of it where torch is built for CUDA and nvcc is
found, unless `SPAE_NO_CUDA=1`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from setuptools import setup

ROOT = Path(__file__).parent
REQUIRED = os.environ.get("SPAE_REQUIRE_EXT") == "1"
SKIPPED = os.environ.get("SPAE_NO_EXT") == "1"
# The stable ABI of torch 2.10: one binary serves that version and later ones.
TORCH_TARGET = "0x020a000000000000"
# GCC's own AVX-512 header trips these two (its bug 105593).
QUIET = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
# Machine code for sm_80 and PTX that later architectures compile; wgmma exists for sm_90a only.
NVCC = ["-O3", "-std=c++20", "-Xcompiler=-fPIC,-fvisibility=hidden"]
GENERATE = {"nearest_code_sm90a": "-gencode=arch=compute_90a,code=sm_90a"}
GENERATE_OTHERS = "-gencode=arch=compute_80,code=[sm_80,compute_80]"


class Toolkit(NamedTuple):
    """nvcc, and the folders that it takes headers and libraries from."""

    nvcc: str
    include: list[str]
    library: list[str]


def find_toolkit() -> Toolkit | str:
    """The CUDA toolkit to build with, or why the CUDA kernels are left out."""
    if os.environ.get("SPAE_NO_CUDA") == "1":
        return "SPAE_NO_CUDA=1"
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if CUDA_HOME is None:
        return "nvcc is not found; CUDA_HOME can say where it is"
    nvcc = os.path.join(CUDA_HOME, "bin", "nvcc")
    try:
        plan = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True)
    except OSError as error:
        return f"{nvcc} does not run: {error}"
    found: dict[str, list[str]] = {"INCLUDES": [], "LIBRARIES": []}
    for line in plan.stderr.splitlines():
        name, _, value = line.removeprefix("#$ ").partition("=")
        if name in found:
            found[name] = [flag[2:] for flag in shlex.split(value)]
    return Toolkit(nvcc, found["INCLUDES"], found["LIBRARIES"])


def compile_kernels(toolkit: Toolkit, folder: Path) -> list[str]:
    """Compiles csrc/*.cu, all at once; the object files."""

    def compile_one(source: Path) -> str:
        target = folder / f"{source.stem}.cuda.o"
        generate = GENERATE.get(source.stem, GENERATE_OTHERS)
        command = [toolkit.nvcc, *NVCC, generate, "-c", str(source), "-o", str(target)]
        print(shlex.join(command))
        if subprocess.run(command).returncode != 0:
            raise RuntimeError(f"nvcc fails on {source.name}; SPAE_NO_CUDA=1 builds without the CUDA kernels")
        return str(target)

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(compile_one, sorted((ROOT / "csrc").glob("*.cu"))))


def give_up(reason: str) -> None:
    """Says that the extension is left out, or raises where it is required."""
    if REQUIRED:
        raise RuntimeError(f"spae_ops._C cannot be built: {reason}")
    print(f"spae_ops: installing without compiled operators: {reason}", file=sys.stderr)


def extension() -> dict:
    """Arguments of `setup` that build spae_ops._C; none where it is skipped or cannot be built."""
    if SKIPPED:
        print("spae_ops: SPAE_NO_EXT=1, installing without compiled operators", file=sys.stderr)
        return {}
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        give_up(f"{error} (torch must be installed first, and pip called with --no-build-isolation)")
        return {}
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10):
        give_up(f"torch >= 2.10 is needed, found {torch.__version__}")
        return {}

    class OptionalBuild(BuildExtension):
        """BuildExtension that leaves the package pure Python when the compiler fails."""

        def build_extensions(self) -> None:
            try:
                if isinstance(toolkit, Toolkit):
                    compiled.extra_objects += compile_kernels(toolkit, Path(self.build_temp))
                super().build_extensions()
            except Exception as error:
                give_up(f"{type(error).__name__}: {error}")

    toolkit = find_toolkit()
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").glob("*.cpp")}
    options: dict = {"define_macros": [("TORCH_TARGET_VERSION", TORCH_TARGET)]}
    if isinstance(toolkit, Toolkit):
        # The CUDA runtime is linked statically, so that it need not be the one that torch brings.
        options["define_macros"] += [("SPAE_WITH_CUDA", None), ("USE_CUDA", None)]
        options["include_dirs"] = toolkit.include
        options["library_dirs"] = toolkit.library
        options["libraries"] = ["torch_cuda", "cudart_static", "dl", "rt", "pthread"]
    else:
        sources -= {"csrc/nearest_code_cuda.cpp"}
        print(f"spae_ops: building without the CUDA kernels: {toolkit}", file=sys.stderr)
    compiled = CppExtension(
        "spae_ops._C",
        sorted(sources),
        depends=sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").iterdir()),
        extra_compile_args={"cxx": ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall", *QUIET]},
        optional=not REQUIRED,
        **options,
    )
    return {"ext_modules": [compiled], "cmdclass": {"build_ext": OptionalBuild}}


setup(**extension())
