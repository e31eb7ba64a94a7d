"""A registry that is a folder: what a package offers are its modules, and a new one is a new file."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def names(package: ModuleType) -> list[str]:
    """The modules of a package that offer something, sorted: those without a leading underscore."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def find(package: ModuleType, name: str) -> ModuleType:
    """The module of that name. Raises ValueError where there is none."""
    known = names(package)
    if name not in known:
        raise ValueError(f"name: expected one of {', '.join(known)}, got {name!r}")
    return importlib.import_module(f"{package.__name__}.{name}")
