"""Arrays out of pickles, which may hold nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from spae.assets.asset import AssetError

# What rebuilds an array: the same function under the name that NumPy 1 wrote and the one of NumPy 2.
_REBUILD = np.empty(0).__reduce__()[0]
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _REBUILD,
    ("numpy._core.multiarray", "_reconstruct"): _REBUILD,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def read_arrays(path: Path) -> dict[str, Any]:
    """The pickled dict of arrays in a file; dicts may lie in it, and nothing but dicts, strings and arrays.

    Unpickling can call whatever a file names. Here that is no more than the three names that arrays need, and
    nothing else is looked up.

    Raises:
        AssetError: the file is damaged, names something else, or holds something else.
    """
    try:
        with path.open("rb") as file:
            found = _Arrays(file).load()
    except AssetError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its garbage leads to
        raise AssetError(f"{path.name}: expected a pickle of arrays, got a damaged one ({error})") from error
    _check(found, path.name)
    return found


class _Arrays(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _KNOWN:
            raise AssetError(f"expected a pickle of arrays, got one that names {module_name}.{global_name}")
        return _KNOWN[module_name, global_name]


def _check(found: Any, where: str) -> None:
    if isinstance(found, dict):
        for name, value in found.items():
            _check(value, f"{where}: {name}")
    elif not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        what = f"an array of {found.dtype}" if isinstance(found, np.ndarray) else type(found).__name__
        raise AssetError(f"{where}: expected arrays of numbers, and dicts of them, got {what}")
