"""Training: presets and runs, the loop, checkpoints and the log. Running needs the extra `train`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spae.training.ablation import ablations
    from spae.training.checkpoints import CheckpointError, latest
    from spae.training.config import TrainConfig
    from spae.training.guidance import GuidedImages, semantic_guidance, start_guidance
    from spae.training.lock import RunInUseError
    from spae.training.log import plot_log, read_log
    from spae.training.loop import NonFiniteLossError, Trainer
    from spae.training.presets import Preset, load_preset, preset_names
    from spae.training.run import train
    from spae.training.schedule import lr_scheduler, schedule_factor

__all__ = [
    "CheckpointError",
    "GuidedImages",
    "NonFiniteLossError",
    "Preset",
    "RunInUseError",
    "TrainConfig",
    "Trainer",
    "ablations",
    "latest",
    "load_preset",
    "lr_scheduler",
    "plot_log",
    "preset_names",
    "read_log",
    "schedule_factor",
    "semantic_guidance",
    "start_guidance",
    "train",
]

# Imported when they are asked for: reading a preset or a log takes neither accelerate nor its seconds.
_MODULES = {
    "ablation": ("ablations",),
    "checkpoints": ("CheckpointError", "latest"),
    "config": ("TrainConfig",),
    "guidance": ("GuidedImages", "semantic_guidance", "start_guidance"),
    "lock": ("RunInUseError",),
    "log": ("plot_log", "read_log"),
    "loop": ("NonFiniteLossError", "Trainer"),
    "presets": ("Preset", "load_preset", "preset_names"),
    "run": ("train",),
    "schedule": ("lr_scheduler", "schedule_factor"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
