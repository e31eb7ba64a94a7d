"""Builds the optional compiled operators `spae_ops._C`; all else about the package is in pyproject.toml.

Build against the installed torch: `pip install --no-build-isolation .`. Without torch or a compiler the
package installs as pure Python and says why. `SPAE_NO_EXT=1` skips the extension; `SPAE_REQUIRE_EXT=1` makes
a failure to build it an error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
REQUIRED = os.environ.get("SPAE_REQUIRE_EXT") == "1"
SKIPPED = os.environ.get("SPAE_NO_EXT") == "1"
# The stable ABI of torch 2.10: one binary serves that version and later ones.
TORCH_TARGET = "0x020a000000000000"
# GCC's own AVX-512 header trips these two (its bug 105593).
QUIET = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]


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
                super().build_extensions()
            except Exception as error:
                give_up(f"{type(error).__name__}: {error}")

    sources = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").glob("*.cpp"))
    compiled = CppExtension(
        "spae_ops._C",
        sources,
        depends=sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").glob("*.h")),
        define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET)],
        extra_compile_args={"cxx": ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall", *QUIET]},
        optional=not REQUIRED,
    )
    return {"ext_modules": [compiled], "cmdclass": {"build_ext": OptionalBuild}}


setup(**extension())
