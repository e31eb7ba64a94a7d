"""Training: the loop, the schedule of the learning rate, checkpoints and the log. Needs the extra `train`."""

from spae.training.checkpoints import CheckpointError, latest
from spae.training.config import TrainConfig
from spae.training.lock import RunInUseError
from spae.training.log import plot_log, read_log
from spae.training.loop import NonFiniteLossError, Trainer
from spae.training.schedule import lr_scheduler, schedule_factor

__all__ = [
    "CheckpointError",
    "NonFiniteLossError",
    "RunInUseError",
    "TrainConfig",
    "Trainer",
    "latest",
    "lr_scheduler",
    "plot_log",
    "read_log",
    "schedule_factor",
]
