"""`spae doctor`: what this installation consists of, what it can run, and what is wrong with it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

ABOUT = "Show versions, implementations, the cache and the settings; status 1 if something is broken."

NEEDED = ("torch", "numpy", "safetensors", "huggingface_hub", "filelock", "gguf")
OPTIONAL = (
    *("transformers", "triton", "accelerate", "matplotlib", "pillow", "resvg-py", "mlxtend", "scikit-learn"),
    *("tqdm", "httpx", "tiktoken", "open_clip_torch", "lpips", "torchvision", "datasets", "tensorboard"),
)
OPS = (
    *("nearest_code", "topk_codes", "pyramid_quantize", "pyramid_dequantize", "layer_queries"),
    *("dilation_subsample", "distance_cross_entropy"),
)
# Every variable that is read, by `spae`, `spae_ops` or the build.
VARIABLES = {
    "SPAE_CACHE": "the cache's folder",
    "XDG_CACHE_HOME": "where it lies without SPAE_CACHE: in its folder spae; else in ~/.cache/spae",
    "SPAE_ADMIT": "GPU kernels by default, off: never; force: examined anew (default: where they passed)",
    "SPAE_OFFLINE": "1: nothing is downloaded",
    "SPAE_ISA": "what the CPU operators take: amx, avx512, avxvnni, avx2 or portable (default: the best)",
    "SPAE_AMX": "off: no AMX, unless by emulation (default: where it passes its self-test)",
    "SPAE_SCREEN": "how the CPU lookup screens: int8, fp32 or auto (default)",
    "SPAE_PRUNE": "whether the CPU lookup prunes: on, off or auto (default)",
    "SPAE_TRUNCATE": "whether the CPU cross-entropy leaves out codes: on, off or auto (default)",
    "TRITON_INTERPRET": "1: Triton's kernels run in its interpreter, on CPU tensors, by name",
    "TIKTOKEN_CACHE_DIR": "where tiktoken keeps its ranks, which serve the codebook cl100k",
    "DATA_GYM_CACHE_DIR": "the same, after TIKTOKEN_CACHE_DIR",
    "OMP_NUM_THREADS": "threads of the CPU operators and of torch",
    "RANK": "which of several processes this is, as torchrun and accelerate set it",
    "WORLD_SIZE": "how many processes there are",
    "LOCAL_RANK": "which of this machine's processes, and so its GPU",
    "SPAE_NO_EXT": "1 when installing: no compiled operators",
    "SPAE_REQUIRE_EXT": "1 when installing: fail rather than leave them out",
    "SPAE_NO_CUDA": "1 when installing: no CUDA kernels",
}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    report = examine()
    print(json.dumps(report, indent=2) if arguments.json else _text(report))
    return 1 if report["broken"] else 0


def examine() -> dict[str, Any]:
    """Everything that `spae doctor` shows, as JSON values: "broken" lists what keeps something from working,
    "advice" what works, but less well than it could."""
    from spae_ops import _extension

    packages = {name: _version(name) for name in (*NEEDED, *OPTIONAL)}
    ops = {op: _implementations(op) for op in OPS}
    cache = _cache()
    broken = [f"{name} is not installed: pip install {name}" for name in NEEDED if packages[name] is None]
    for op, rows in ops.items():
        if not any(row["available"] for row in rows):
            broken.append(f"{op}: no implementation can run")
    for name, row in cache["assets"].items():
        if row["fault"]:
            broken.append(f"asset {name}: {row['fault']}; spae fetch {name} mends it")
    if not cache["writable"]:
        broken.append(f"the cache {cache['folder']} cannot be written to; SPAE_CACHE names another folder")
    fault, built = _extension.reason(), _built()
    return {
        "versions": _versions(),
        "packages": packages,
        "operators": ops,
        "cache": cache,
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "broken": broken + [fault] * (built and fault is not None),
        "advice": [fault] * (not built and fault is not None),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str]:
    import torch

    from spae import __version__

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "spae": __version__,
        "spae is in": str(Path(__file__).parent.parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "GPUs": ", ".join(gpus) or "none",
    }


def _implementations(op: str) -> list[dict[str, Any]]:
    from spae_ops import implementations

    return [row._asdict() for row in implementations(op)]


def _built() -> bool:
    """Whether there are compiled operators at all, loadable or not."""
    try:
        return importlib.util.find_spec("spae_ops._C") is not None
    except ValueError:  # switched off in sys.modules
        return False


def _cache() -> dict[str, Any]:
    from spae import assets

    root = assets.cache_root()
    rows = {name: _asset(name, root / "assets" / name) for name in assets.REGISTRY}
    derived = root / "derived"
    folders = sorted(path for path in derived.iterdir() if path.is_dir()) if derived.is_dir() else []
    return {
        "folder": str(root),
        "writable": _writable(root),
        "assets": rows,
        "derived": {path.name: _size(path) for path in folders},
        "bytes": _size(root),
    }


def _asset(name: str, folder: Path) -> dict[str, Any]:
    """Whether an asset is cached, of which size, and what is wrong with it. Presence and sizes only: `spae
    fetch` reads checksums."""
    from spae import assets

    if not folder.is_dir():
        return {"cached": False, "bytes": 0, "fault": None}
    try:
        assets.path(name)
        fault = None
    except assets.AssetNotCached as error:
        fault = str(error).partition("): ")[2].partition(". To get it")[0]
    return {"cached": fault is None, "bytes": _size(folder), "fault": fault}


def _writable(folder: Path) -> bool:
    """Whether the folder, or the nearest above it that exists, can be written to."""
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _text(report: dict[str, Any]) -> str:
    lines = [f"{name:14} {value}" for name, value in report["versions"].items()]
    lines += ["", "packages"]
    lines += [f"  {name:18} {version or '-'}" for name, version in report["packages"].items()]
    for op, rows in report["operators"].items():
        lines += ["", op]
        lines += [f"  {row['name']:18} {_verdict(row)}" for row in rows]
    cache = report["cache"]
    lines += ["", f"cache {cache['folder']}, {cache['bytes'] / 1e6:,.0f} MB"]
    lines += [
        f"  {name:18} {row['fault'] or _megabytes(row['bytes']) if row['bytes'] else '-'}"
        for name, row in cache["assets"].items()
    ]
    lines += [f"  {name:18} {_megabytes(size)} (computed)" for name, size in cache["derived"].items()]
    lines += ["", "environment"]
    lines += [f"  {name:18} {report['environment'][name] or '-':8} {VARIABLES[name]}" for name in VARIABLES]
    lines += [""] + [f"slower than it could be: {advice}" for advice in report["advice"]]
    lines += [f"broken: {fault}" for fault in report["broken"]] or ["nothing is broken"]
    return "\n".join(lines)


def _verdict(row: dict[str, Any]) -> str:
    """All that is said of an implementation: whether it runs, why not, and its other columns, if any."""
    others = [f"{k}: {v}" for k, v in row.items() if k not in ("name", "available", "reason") and v]
    said = [row["reason"]] if row["reason"] else []
    return f"{'yes' if row['available'] else 'no ':3} {'; '.join(said + others)}".rstrip()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
