"""The compiled operators `spae_ops._C`: loaded on first use, and a failure to load remembered.

Importing `spae_ops` never needs them. `load()` imports the extension, which registers its operators under
`torch.ops.spae_ops`; `reason()` says why that is not possible, for messages and for `implementations()`.
Where plain torch runs in their place, `warn_fallback()` says so, once.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
import warnings
from types import ModuleType

_MODULE = "spae_ops._C"
# Multiply-adds from which the fall-back is noticed: a few tenths of a second on one core.
_NOTICED = 1 << 30
_warn_lock = threading.Lock()
_warned = False


class FallbackWarning(RuntimeWarning):
    """Plain torch runs what compiled operators would do several times faster."""


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


def warn_fallback(reason: str | None, work: int = _NOTICED) -> bool:
    """Warn (FallbackWarning) that plain torch runs an op because the extension is missing; whether it did.

    Args:
        reason: `reason()`, why the extension cannot be used; None, where it can, warns of nothing.
        work: multiply-adds of the call, N K D for a lookup. Small ones are not worth a word.

    It is said once in a process, whichever thread comes first and whatever the filters of `warnings` are.
    """
    global _warned
    if reason is None or work < _NOTICED:
        return False
    with _warn_lock:
        if _warned:
            return False
        _warned = True
    warnings.warn(
        f"spae_ops runs on plain torch, several times slower than its compiled operators: {reason}. "
        "`spae doctor` shows what this machine can run.",
        FallbackWarning,
        stacklevel=2,
    )
    return True
