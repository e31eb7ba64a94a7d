"""Examinations in a process of their own: a kernel at fault may hang, or leave a context of no more use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spae_ops.admission import verdicts
from spae_ops.admission.verdicts import UNKNOWN, Verdict

TIME_LIMIT = 300.0  # seconds; most of an examination is Triton compiling
_PACKAGES = Path(__file__).parents[2]  # the folder that spae_ops is in


def command(
    implementation: str, families: Sequence[str], device: torch.device, dtype: str, width: int
) -> list[str]:
    """What runs `spae_ops.admission` on these arguments."""
    options = ["--impl", implementation, "--device", str(device), "--dtype", dtype, "--width", str(width)]
    return [sys.executable or "python", "-m", "spae_ops.admission", *options, *families]


def examine(
    implementation: str, families: Sequence[str], device: torch.device, dtype: torch.dtype, width: int
) -> list[Verdict]:
    """A verdict for each of `families`, in order.

    A process ends at the first kernel that leaves the device in doubt; another goes on with the families that
    are left.
    """
    found: list[Verdict] = []
    left = list(families)
    while left:
        name = str(dtype).removeprefix("torch.")
        lines, trouble = _run(command(implementation, left, device, name, width))
        reports = [line for line in lines if line["family"] in left]
        for report in reports:
            left.remove(report["family"])
            found.append(_verdict(report, implementation, device, dtype, width))
        if left and (trouble or not reports):
            report = {"family": left.pop(0), "outcome": UNKNOWN, "detail": trouble or "there was no verdict"}
            found.append(_verdict(report, implementation, device, dtype, width))
    return found


def _run(arguments: list[str]) -> tuple[list[dict[str, Any]], str]:
    """The reports that a process printed, and why it came to no good end, if so."""
    paths = [str(_PACKAGES), *map(os.path.abspath, filter(None, sys.path))]  # this process's packages
    environ = {**os.environ, "SPAE_ADMIT": "off", "PYTHONPATH": os.pathsep.join(paths)}
    environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or deterministic algorithms are refused
    pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        process = subprocess.Popen(
            arguments,
            **pipes,
            text=True,
            errors="replace",
            env=environ,
            cwd=_PACKAGES,
            start_new_session=True,
        )
    except OSError as error:
        return [], f"its process did not start: {error}"
    trouble = ""
    try:
        out, errors = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        trouble = f"it took more than {TIME_LIMIT:.0f} s and was stopped"
        out, errors = _stop(process)
    except BaseException:  # an interrupt
        _stop(process)
        raise
    if not trouble and process.returncode != 0:
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        trouble = f"its process ended with status {process.returncode}: {last[:300]}"
    return [report for line in out.splitlines() if (report := _report(line)) is not None], trouble


def _stop(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ends a process and its children (compilers); what it had said."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except OSError:
        pass
    try:
        return process.communicate(timeout=10)
    except (
        subprocess.TimeoutExpired
    ):  # in a call of the driver that cannot be interrupted: it ends when it can
        return "", ""


def _report(line: str) -> dict[str, Any] | None:
    """A line of `spae_ops.admission`, None for what else a process may print."""
    try:
        report = json.loads(line)
    except (ValueError, RecursionError):
        return None
    fields = ("family", "outcome", "detail")
    fits = isinstance(report, dict) and all(isinstance(report.get(name), str) for name in fields)
    return report if fits else None


def _verdict(
    report: dict[str, Any], implementation: str, device: torch.device, dtype: torch.dtype, width: int
) -> Verdict:
    """A report as a verdict. One on another environment than this process's says nothing here."""
    outcome, detail = report["outcome"], report["detail"]
    if outcome != UNKNOWN:
        here, there = verdicts.environment(device, implementation), report.get("environment")
        if there != here:
            outcome, detail = UNKNOWN, f"its process ran in another environment: {there}, here {here}"
    about = verdicts.case(report["family"], implementation, dtype, width)
    return Verdict(*about, str(device), outcome, detail)
