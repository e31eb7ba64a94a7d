"""What must be the same when a run goes on: compared before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAY_CHANGE = frozenset(
    f"train.{name}"
    for name in (
        *("steps", "output_dir", "log_every", "eval_every", "checkpoint_steps", "checkpoint_minutes"),
        *("keep_checkpoints", "num_workers", "progress", "tensorboard"),
    )
) | {"data.folder", "data.shards", "codebook.name"}
"""Settings that may be others when a run resumes: how long it is, what it reports and keeps, how its data are
loaded, and where data and codebook lie, since their content is compared."""

_MOST = 12  # differences that a message lists


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one with dotted names, as `spae train --set` has them; empty ones vanish.

    >>> flatten({"model": {"rule": "saq", "grids": [1, 2]}, "threads": 1, "loss_weights": {}})
    {'model.rule': 'saq', 'model.grids': [1, 2], 'threads': 1}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two flat mappings of settings, apart from `MAY_CHANGE`, in words."""
    found = [
        f"{name} was {_show(was, name)}, is {_show(now, name)}"
        for name in sorted({*was, *now} - MAY_CHANGE)
        if was.get(name) != now.get(name)
    ]
    return found if len(found) <= _MOST else [*found[:_MOST], f"and {len(found) - _MOST} more"]


def _show(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "absent"
