"""What a measurement was made on and with; nothing that names a machine or a path on it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from spae.eval.host import cores, cpu

_ISA = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "asimd", "sve")
_PACKAGES = (
    "torch",
    "numpy",
    "triton",
    "faiss-cpu",
    "faiss-gpu",
    "vector-quantize-pytorch",
    "flash-kmeans",
    "cut-cross-entropy",
    "cuvs-cu12",
    "cuvs-cu13",
    "transformers",
)
_GPU = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")


def host(device: str) -> dict[str, Any]:
    """CPU model, cores this process may use, instruction sets, memory and load; and the GPU as found."""
    cpuinfo = _read("/proc/cpuinfo")
    flags = re.search(r"(?:flags|Features)\s*: (.*)", cpuinfo)
    memory = re.search(r"MemTotal:\s*(\d+) kB", _read("/proc/meminfo"))
    facts: dict[str, Any] = {
        "cpu": cpu(),
        "cores": cores(),
        "isa": [name for name in _ISA if flags and name in flags[1].split()],
        "memory_gib": round(int(memory[1]) / 2**20) if memory else None,
        "load": load(),
    }
    if device == "cuda":
        facts["gpu"] = _gpu()
    return facts


def instructions() -> str | None:
    """The instructions that our compiled operators take: those of SPAE_ISA, or the fastest that run here;
    "avx512_vnni" where AVX-512 has byte products, "avx512" where not. None without the extension."""
    import spae_ops

    found = next(row.instructions for row in spae_ops.implementations("nearest_code") if row.name == "cpu")
    named = os.environ.get("SPAE_ISA", "")
    name = re.split("[ ,]", found)[0] if named in ("", "auto") else named
    return ("avx512_vnni" if name == "avx512" and "avx512_vnni" in host("cpu")["isa"] else name) or None


def load() -> float:
    """Processes at work or waiting to be, averaged over the last minute."""
    return round(os.getloadavg()[0], 1)


def versions() -> dict[str, str]:
    """Python and the packages that take part, as installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def scrubbed(text: str) -> str:
    """Text without the folders of absolute paths: /any/where/file.so -> file.so."""
    return re.sub(r"(?<![\w.:/])(?:/[\w.+~-]+)+/", "", text)


def _gpu() -> dict[str, str] | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", f"--query-gpu={','.join(_GPU)}", "--format=csv,noheader", "--id=0"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    values = [value.strip() for value in answer.stdout.strip().split(",")]
    return dict(zip(_GPU, values, strict=True)) if len(values) == len(_GPU) else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
