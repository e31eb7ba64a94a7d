"""Verdicts of examinations: what each holds for, and how they are kept.

A verdict holds for one case, a family of ops, an implementation, a dtype and a width of codes, in one
environment: versions of spae_ops, torch, Triton, the CUDA runtime and the driver, the sources of the kernels,
and the kind of device. "passed" and "failed" are kept on disk, a file each, under

    <cache>/admission/<digest of the environment>/<family>-<implementation>-<dtype>-<width>.json

with <cache> = $SPAE_CACHE, else $XDG_CACHE_HOME/spae, else ~/.cache/spae. Files appear whole or not at all;
one that is damaged, or speaks of something else, counts as absent. "unknown" is not kept: it is remembered by
the process that met it.

SPAE_ADMIT=off: nothing is examined and no verdict counts, so that plain torch serves GPUs. SPAE_ADMIT=force:
what is on disk does not count, and is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from spae_ops._version import __version__

# What "auto" takes on GPUs only, and only after a passed examination.
ON_TRIAL = ("cuda", "triton")
MODES = ("off", "force")
PASSED, FAILED, UNKNOWN = "passed", "failed", "unknown"
WIDTH_STEP = 64  # the kernels see the width as a multiple of it; Triton compiles one variant for each

_ROOT = Path(__file__).parent.parent


class AdmissionWarning(RuntimeWarning):
    """A kernel is not taken on a GPU: it failed its examination, or has had none."""


class Case(NamedTuple):
    """What an examination is about. dtype: of the codes. width: theirs, a multiple of WIDTH_STEP."""

    family: str
    implementation: str
    dtype: str
    width: int


class Verdict(NamedTuple):
    """What an examination found.

    family: "nearest_code", "distance_cross_entropy" or "pyramid", the ops that it is about. dtype: of the
    codes. width: up to which the verdict holds, and down to 63 less. outcome: "passed", "failed", or
    "unknown" where the examination did not come to an end. detail: what was found.
    """

    family: str
    implementation: str
    dtype: str
    width: int
    device: str
    outcome: str
    detail: str

    @property
    def case(self) -> Case:
        return Case(*self[:4])


def mode() -> str:
    """SPAE_ADMIT: "", "off" or "force"."""
    value = os.environ.get("SPAE_ADMIT", "")
    if value not in ("", *MODES):
        raise ValueError(f"SPAE_ADMIT: expected {' or '.join(MODES)}, or nothing, got {value!r}")
    return value


def on_trial(device: torch.device) -> bool:
    """Whether implementations on trial may run on `device` at all without being named."""
    return device.type == "cuda"


def interpreted(implementation: str) -> bool:
    """Whether it would run in Triton's interpreter, which is only ever taken by name."""
    return implementation == "triton" and os.environ.get("TRITON_INTERPRET", "0").lower() not in (
        "",
        "0",
        "false",
    )


def case(family: str, implementation: str, dtype: torch.dtype, width: int) -> Case:
    """The case that codes of `dtype` and `width` belong to."""
    padded = -(-width // WIDTH_STEP) * WIDTH_STEP
    return Case(family, implementation, str(dtype).removeprefix("torch."), padded)


# What this process knows; None where nothing is on disk.
_known: dict[tuple[torch.device, Case], Verdict | None] = {}


def kept(device: torch.device, case: Case, *, again: bool = False) -> Verdict | None:
    """The verdict on a case, if there is one. The disk is looked at once, or `again` if nothing was there."""
    chosen = mode()
    if chosen == "off":
        return None
    key = device, case
    if key not in _known or (again and _known[key] is None):
        _known[key] = None if chosen == "force" else _read(_file(device, case), device, case)
    return _known[key]


def keep(device: torch.device, verdict: Verdict) -> None:
    """Remembers a verdict, and writes it to disk unless it is "unknown". A cache that cannot be written only
    means that the next process examines anew."""
    _known[device, verdict.case] = verdict
    if verdict.outcome == UNKNOWN:
        return
    record = {"environment": environment(device, verdict.implementation), "verdict": verdict._asdict()}
    text = json.dumps({**record, "sha256": _digest(record)}, indent=1)
    file = _file(device, verdict.case)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f"{file.name}.tmp-", dir=file.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError:
        return


def summary(family: str, implementation: str) -> str:
    """The admission column of `implementations`: what is known of the current GPU, in words."""
    if implementation not in ON_TRIAL:
        return ""
    if mode() == "off":
        return "off"
    if not torch.cuda.is_available():
        return "untested"
    return summary_on(torch.device("cuda", torch.cuda.current_device()), family, implementation)


def summary_on(device: torch.device, family: str, implementation: str) -> str:
    """`summary` for a device."""
    found: dict[Case, Verdict] = {}
    if mode() != "force":
        for file in sorted(folder(device, implementation).glob(f"{family}-{implementation}-*.json")):
            verdict = _read(file, device, None)
            if verdict is not None:
                found[verdict.case] = verdict
    for (where, about), verdict in _known.items():
        if where == device and about[:2] == (family, implementation) and verdict is not None:
            found[about] = verdict
    said = []
    for outcome in (FAILED, UNKNOWN):
        said += [
            f"{outcome}: {v.detail} ({v.dtype}, width {v.width})"
            for v in found.values()
            if v.outcome == outcome
        ]
    passed = [f"{v.dtype} to width {v.width}" for v in found.values() if v.outcome == PASSED]
    return "; ".join([*said, *([f"passed ({', '.join(passed)})"] if passed else [])]) or "untested"


def cache_root() -> Path:
    """The cache's folder, the one that `spae.assets` uses. It need not exist."""
    if chosen := os.environ.get("SPAE_CACHE"):
        return Path(chosen).expanduser().absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).absolute() / "spae"
    return Path.home() / ".cache" / "spae"


def folder(device: torch.device, implementation: str) -> Path:
    """Where verdicts on an implementation on this kind of device are kept. It need not exist."""
    return cache_root() / "admission" / _digest(environment(device, implementation))[:32]


@lru_cache
def environment(device: torch.device, implementation: str) -> dict[str, str]:
    """All that a verdict depends on besides its case."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "spae_ops": __version__,
        "sources": _sources(implementation),
        "torch": torch.__version__,
        "triton": _triton(),
        "cuda": str(torch.version.cuda),
        "driver": _driver(),
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "processors": str(properties.multi_processor_count),
    }


def _file(device: torch.device, case: Case) -> Path:
    return folder(device, case.implementation) / f"{'-'.join(map(str, case))}.json"


def _read(file: Path, device: torch.device, case: Case | None) -> Verdict | None:
    """The verdict in a file (on `case`, if given), None if there is none or it is damaged."""
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        stated = record.pop("sha256")
        verdict = Verdict(**record["verdict"])
        fits = record["environment"] == environment(device, verdict.implementation)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if stated != _digest(record) or not fits or verdict.outcome not in (PASSED, FAILED):
        return None
    return verdict if case is None or verdict.case == case else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@lru_cache
def _sources(implementation: str) -> str:
    """Of this package's Python and, for CUDA C++, of the compiled extension."""
    files = sorted(_ROOT.rglob("*.py"))
    if implementation == "cuda":
        files += sorted(file for file in _ROOT.glob("_C*") if file.suffix in (".so", ".pyd"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(_ROOT).as_posix().encode() + b"\0")
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


def _triton() -> str:
    for name in ("triton", "pytorch-triton"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _driver() -> str:
    """The driver's version in full where the kernel module tells it, else that of CUDA which it serves."""
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        ask = getattr(torch._C, "_cuda_getDriverVersion", None)
        return "" if ask is None else str(ask())
