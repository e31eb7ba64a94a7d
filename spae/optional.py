"""What is said where an optional package is missing: one sentence, and a command that always works.

The command names the missing packages themselves, not an extra of this one: it works from a checkout, from a
wheel, and whatever the index calls by a similar name.
"""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType
from typing import Any

_libraries: list[Any] = []  # what they define goes when they are collected


def needs(what: str, *packages: str) -> str:
    """The message of the ImportError where `what` cannot be done without `packages`, as pip knows them.

    >>> needs("drawing emoji", "resvg-py", "pillow")
    'drawing emoji needs resvg-py and pillow: pip install resvg-py pillow'
    """
    return f"{what} needs {' and '.join(packages)}: pip install {' '.join(packages)}"


def import_beside_torchvision(name: str, missing: str) -> ModuleType:
    """A module that needs torchvision.

    torchvision's compiled part does not load beside a CPU build of torch of the same version when it is the
    build for GPUs; then the import ends at operators that nothing here calls. Those, and only when they are
    missing, are declared (without any kernel) before the module is imported again.

    Raises ImportError, which begins with `missing`, where it or what it needs is not installed.
    """
    import torch

    packages = {"torchvision", "timm", name.split(".")[0]}
    for _ in range(8):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f"{missing} ({error})") from error
        except RuntimeError as error:
            found = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if found is None:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{found[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _libraries.append(library)
            for module in [module for module in sys.modules if module.split(".")[0] in packages]:
                del sys.modules[module]
    raise ImportError(
        f"{name}: torchvision lacks too many of its operators; install the build that fits torch"
    )
