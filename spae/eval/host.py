"""What an evaluation ran on; nothing that names a machine or a path on it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from spae import __version__


def host() -> dict[str, Any]:
    """CPU model and cores that this process may use; Python, torch and this package's version."""
    return {
        "cpu": cpu(),
        "cores": cores(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "spae": __version__,
    }


def cpu() -> str:
    """The CPU's model, or its architecture where the system does not tell."""
    try:
        model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        model = None
    return model[1] if model else platform.machine()


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
