"""The compiled operators `spae_ops._C`: loaded on first use, and a failure to load remembered.

Importing `spae_ops` never needs them. `load()` imports the extension, which registers its operators under
`torch.ops.spae_ops`; `reason()` says why that is not possible, for messages and for `implementations()`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType

_MODULE = "spae_ops._C"


@functools.cache
def _attempt() -> tuple[ModuleType | None, str | None]:
    if importlib.util.find_spec(_MODULE) is None:
        return None, (
            f"{_MODULE} was not built, without which lookups on CPUs take many times longer: a C++20 "
            "compiler and torch must be there first; `SPAE_REQUIRE_EXT=1 pip install --no-build-isolation "
            "-v .` builds it, or says why it cannot"
        )
    try:
        return importlib.import_module(_MODULE), None
    except (ImportError, OSError, RuntimeError) as error:
        return None, (
            f"{_MODULE} does not load ({type(error).__name__}: {error}); "
            "rebuild it against the installed torch with `pip install --no-build-isolation .`"
        )


def load() -> ModuleType:
    """The extension module.

    Raises:
        RuntimeError: it is not built or does not load; the message is `reason()`.
    """
    module, why = _attempt()
    if module is None:
        raise RuntimeError(why)
    return module


def reason() -> str | None:
    """Why the extension cannot be used, or None where it can."""
    return _attempt()[1]
