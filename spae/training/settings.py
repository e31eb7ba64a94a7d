"""What must be the same when a run goes on: compared before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spae.losses import Objective
from spae.tokenizers import Tokenizer
from spae.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

MAY_CHANGE = frozenset(
    f"train.{name}"
    for name in (
        *("steps", "output_dir", "log_every", "eval_every", "checkpoint_steps", "checkpoint_minutes"),
        *("keep_checkpoints", "num_workers", "progress", "tensorboard"),
    )
) | {"data.folder", "data.tar", "data.hf", "data.cifar10", "codebook.name"}
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


def run_settings(
    accelerator: Accelerator,
    config: TrainConfig,
    model: nn.Module,
    objective: Objective | None,
    further: Mapping[str, Any],
) -> dict[str, Any]:
    """What makes a run what it is, flat and as JSON gives it back; `further` (nested) comes on top."""
    own: dict[str, Any] = {
        "train": config.to_json(),
        "objective": {} if objective is None else objective.config.to_dict(),
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
        # Of the CPU: they decide the order of sums.
        "threads": torch.get_num_threads() if accelerator.device.type == "cpu" else None,
    }
    if isinstance(model, Tokenizer):
        book = model.codebook_identity()
        own["tokenizer"], own["model"] = type(model).__name__, model.config.to_dict()
        own["codebook"] = {"name": book["name"], "sha256": book["checksum"]}
    return json.loads(json.dumps(flatten(own) | flatten(further)))


def check_same_run(
    folder: Path, was: Mapping[str, Any], now: Mapping[str, Any], model: nn.Module | None = None
) -> None:
    """Raises ValueError, which names what differs, if a run of settings `now` cannot go on from `folder`.

    model: the one that trains, for what its configuration's entries are by default.
    """
    # A setting that the earlier run did not know had its default, for that is what runs without it do.
    defaults = flatten({"train": TrainConfig(1, 1, "").to_json()})
    if isinstance(model, Tokenizer):
        entries = {entry.name: entry.default for entry in fields(model.config)}
        known = {name: value for name, value in entries.items() if value is not MISSING}
        defaults |= json.loads(json.dumps(flatten({"model": known})))
    if differing := differences(defaults | dict(was), now):
        raise ValueError(
            f"{folder}: expected the run that is in it, got another ({'; '.join(differing)}): "
            "use another output_dir"
        )


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
