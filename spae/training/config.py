"""What a training run does."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from spae.configs import Config, Count, Decay, Natural, Positive, Range, Weight
from spae.training.schedule import Schedule

Seed = Annotated[int, Range(0, 2**32 - 1)]  # what NumPy takes


@dataclass(frozen=True)
class TrainConfig(Config):
    """What a run does. All fields but those marked * (`settings.MAY_CHANGE`) must stay the same
    when a run resumes.

    Args:
        steps: * updates in all.
        batch_size: images an update, over all processes and micro-batches.
        output_dir: * holds `log.jsonl`, `log.png` and `checkpoints/`.
        learning_rate, betas: of Adam.
        discriminator_learning_rate: of the discriminator's Adam; None: `learning_rate`. Its schedule is the
            same, counted from the update in which it starts.
        schedule, warmup_steps, cooldown_steps: see `schedule_factor`.
        accumulation: micro-batches an update. Their gradients add up to those of the whole batch within
            rounding, except where a loss is no mean over images: batch norm takes its statistics, and eq. 9
            its dynamic weight, from each micro-batch.
        clip_norm: bound on the norm of the gradient (of each optimizer's own), None for none.
        loss_weights: by name of the model's loss term; terms that it does not name weigh 1. An objective has
            its own weights.
        ema_decay: keep an exponential moving average of the parameters with this decay.
        mixed_precision: dtype of autocast.
        seed: of the order of the data and of every random number generator.
        log_every, eval_every: * steps; `evaluate` also runs after the last step.
        early_stopping: end after so many evaluations without a better one, with the weights of the best; None
            runs to the last step. With a preset, evaluations then are of the data's split "dev".
        early_stopping_figure: which of the evaluation's figures counts; more is better. "semantic_score", of
            presets with semantic guidance, is the mean relative score of the guided layers' words.
        checkpoint_steps, checkpoint_minutes: * save this often, by either or both; always at the end as well.
        keep_checkpoints: * how many to keep.
        num_workers: * processes that load data.
        progress: * show a progress bar, if stderr is a terminal.
        tensorboard: * log to `output_dir/tensorboard` as well.
    """

    section = "train"

    steps: Count
    batch_size: Count
    output_dir: str
    learning_rate: Positive = 1e-4
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    discriminator_learning_rate: Positive | None = None
    schedule: Schedule = "inverse_sqrt"
    warmup_steps: Natural = 0
    cooldown_steps: Natural = 0
    accumulation: Count = 1
    clip_norm: Positive | None = 1.0
    loss_weights: dict[str, Weight] = field(default_factory=dict)
    ema_decay: Decay | None = None
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    seed: Seed = 0
    log_every: Count = 10
    eval_every: Natural | None = None
    early_stopping: Count | None = None
    early_stopping_figure: str = "semantic_score"
    checkpoint_steps: Count | None = None
    checkpoint_minutes: Weight | None = 10
    keep_checkpoints: Count = 2
    num_workers: Natural = 0
    progress: bool = True
    tensorboard: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "output_dir", str(self.output_dir))
        super().__post_init__()
        if self.early_stopping is not None and not self.eval_every:
            raise ValueError(
                f"train.eval_every: expected a number of steps for early stopping, got {self.eval_every}"
            )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON gives them back: lists for tuples."""
        return json.loads(json.dumps(asdict(self)))
