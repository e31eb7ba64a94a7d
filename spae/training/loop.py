"""The training loop, on Hugging Face accelerate: devices, processes and precision are its business."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spae.losses import Objective
from spae.models.sync_norm import synchronise
from spae.optional import needs
from spae.training.checkpoints import load_checkpoint, newest_whole, save_checkpoint, set_aside
from spae.training.config import TrainConfig
from spae.training.ema import ParameterEMA
from spae.training.learner import Learner
from spae.training.lock import RunLock
from spae.training.log import RunLog
from spae.training.order import StepBatches
from spae.training.processes import on_main
from spae.training.settings import check_same_run, flatten, run_settings
from spae.training.signals import StopSignals, ignore_in_worker
from spae.training.stopping import EarlyStopping

try:
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, send_to_device, set_seed
    from tqdm.auto import tqdm
except ImportError as error:
    raise ImportError(needs("spae.training", (error.name or "accelerate").partition(".")[0])) from error

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became infinite or NaN; the weights were not updated with it."""


class Trainer:
    """Trains a model by an objective, and the objective's discriminator against it.

    `train()` resumes from the newest complete checkpoint in `config.output_dir`. On a CPU it then repeats bit
    for bit what an uninterrupted run would have done, if `dataset[i]` always gives the same sample.
    SIGINT and SIGTERM end the run after the current step, with a checkpoint; a second one ends it at once.

    With several processes the model's batch norms are synchronised, so that they train what one process with
    all their images would.

    Args:
        model: only the parameters that require a gradient train. Its `forward(images)` returns an object with
            `.losses`, unweighted scalars by name, and all that the objective asks for.
        dataset: of images [C, *shape], or of tuples of one and what guides the objective; of known length.
        config: the run.
        objective: what to minimise; None: the model's own losses, weighed by `config.loss_weights`.
        evaluate: called as `evaluate(model, step)` every `config.eval_every` steps in evaluation mode,
            without gradients, with the averaged weights if there are any, on every process; returns held-out
            figures by name for the log.
        accelerator: to bring your own, which then also decides the precision.
        settings: what else made the run, as JSON: it resumes only with the same, apart from
            `settings.MAY_CHANGE`. The trainer itself compares `config`, a tokenizer's own configuration and
            codebook, the objective's, and the number of samples.

    Raises ValueError for `loss_weights` beside an objective, and for an accelerator whose processes share a
    model's parts: here each holds all of it.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset[Any],
        config: TrainConfig,
        *,
        objective: Objective | None = None,
        evaluate: Callable[[nn.Module, int], dict[str, float]] | None = None,
        accelerator: Accelerator | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        self.accelerator = accelerator or Accelerator(mixed_precision=config.mixed_precision)
        if (kind := self.accelerator.distributed_type) in _SHARDED:
            raise ValueError(f"accelerator: expected processes that hold the whole model, got {kind.value}")
        shares = self.accelerator.num_processes * config.accumulation
        if config.batch_size % shares:
            raise ValueError(f"batch_size: expected a multiple of {shares} shares, got {config.batch_size}")
        if objective is not None and config.loss_weights:
            raise ValueError(f"loss_weights: expected none beside an objective, got {config.loss_weights}")
        self.config, self.dataset, self.evaluate, self.objective = config, dataset, evaluate, objective
        self.num_samples = len(dataset)  # pyright: ignore[reportArgumentType]
        self.step = 0
        self.log_file = Path(config.output_dir) / "log.jsonl"
        self.checkpoint_dir = Path(config.output_dir) / "checkpoints"
        self.settings = settings or {}
        self.lock = RunLock(self.accelerator, Path(config.output_dir))
        self._resumed = False
        self.checkpoint: Path | None = None  # the last one, saved or resumed from
        if self.accelerator.num_processes > 1:
            synchronise(model)
        rate = config.learning_rate
        self.learner = Learner(self.accelerator, model, config, learning_rate=rate, steps=config.steps)
        self.model, self.optimizer = self.learner.module, self.learner.optimizer
        self.ema = None if config.ema_decay is None else ParameterEMA(self.model, config.ema_decay)
        self.opponent = None if objective is None else self._opponent(objective)
        self.stopping: EarlyStopping | None = None
        if config.early_stopping is not None:
            self.stopping = EarlyStopping(config.early_stopping_figure, config.early_stopping)
        self._earlier_seconds = 0.0  # of the runs that this one resumes
        self._started = self._window_start = self._saved_at = time.monotonic()
        self._window_step = self._saved_step = 0

    def _opponent(self, objective: Objective) -> Learner | None:
        """The discriminator as a learner, if any."""
        objective.to(self.accelerator.device).train()
        if objective.discriminator is None:
            return None
        cfg = self.config
        rate = cfg.discriminator_learning_rate
        return Learner(
            self.accelerator,
            objective.discriminator,
            cfg,
            learning_rate=cfg.learning_rate if rate is None else rate,
            steps=max(1, cfg.steps - objective.config.discriminator_start),
        )

    def train(self) -> bool:
        """Run (or go on) to the last step, or to where `config.early_stopping` ends it. True when it got
        there, False when a signal ended it before.

        Raises:
            NonFiniteLossError: the loss or its gradient is not finite; the last checkpoint is untouched.
            ValueError: `loss_weights` names a term that the model has not, or the checkpoints in `output_dir`
                are of a run with other settings, which the message names.
            CheckpointError: there are checkpoints but none is whole, or one could not be written.
            RunInUseError: another run is at work in `output_dir`.
        """
        with self.lock:
            if not self._resumed:
                self.resume()
            self._resumed = False
            return self._run()

    def _run(self) -> bool:
        cfg, main = self.config, self.accelerator.is_main_process
        self.model.train()
        self._started = self._window_start = self._saved_at = time.monotonic()
        self._window_step = self._saved_step = self.step
        bar = tqdm(
            total=cfg.steps, initial=self.step, disable=None if cfg.progress and main else True, unit="step"
        )
        with StopSignals() as signals, bar, RunLog(self.log_file, self.step, cfg, main) as self._run_log:
            for batch in () if self._stops_early() else self._loader():
                record = self._update(self._micro_batches(batch))
                bar.update()
                bar.set_postfix(loss=f"{record['loss']:.4g}", refresh=False)
                self._log(record)
                stop = self._any(signals.received)
                if stop or self._checkpoint_due():
                    self._save()
                if stop:
                    return self.step == cfg.steps or self._stops_early()
                if self._stops_early():
                    break
            if self._saved_step < self.step:
                self._save()
            self._run_log.plot()
        return True

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model has the averaged weights; without `ema_decay`, its own."""
        return nullcontext() if self.ema is None else self.ema.applied()

    def _stops_early(self) -> bool:
        return self.stopping is not None and self._any(self.stopping.done)

    def _micro_batches(self, batch: Any) -> list[tuple[Tensor, Any]]:
        """A batch of this process as (images, guidance) of every micro-batch, images on the device."""
        images, guidance = (batch[0], batch[1:]) if isinstance(batch, list | tuple) else (batch, ())
        guide = guidance[0] if guidance and self.objective is not None else None
        size = len(images) // self.config.accumulation
        starts = range(0, len(images), size)
        device = self.accelerator.device
        return [
            (
                images[i : i + size].to(device, non_blocking=True),
                send_to_device(None if guide is None else guide[i : i + size], device, non_blocking=True),
            )
            for i in starts
        ]

    def _update(self, parts: list[tuple[Tensor, Any]]) -> dict[str, float]:
        """One update of the model, then of the discriminator. Returns the record of it for the log."""
        learner, opponent, objective = self.learner, self.opponent, self.objective
        pairs: list[tuple[Tensor, Tensor]] = []
        means = _Means(len(parts))
        for number, (images, guidance) in enumerate(parts, 1):
            if objective is not None:
                images, guidance = objective.mixed(images, guidance)
            with learner.exchange(gradients=number == len(parts)):
                output = self.model(images)
                total, terms = self._loss(output, images, guidance)
                self.accelerator.backward(total / len(parts))
            means.add({"loss": total, **{f"loss/{name}": term for name, term in terms.items()}})
            if objective is not None and objective.adversarial(self.step):
                pairs.append((images, output.reconstruction.detach()))
        record = self._finish(learner, means, "")
        if opponent is not None and objective is not None and pairs:
            means = _Means(len(pairs))
            for number, (images, reconstruction) in enumerate(pairs, 1):
                with opponent.exchange(gradients=number == len(pairs)):
                    total, terms = objective.discriminator_loss(opponent.module, images, reconstruction)
                    self.accelerator.backward(total / len(pairs))
                means.add({"loss": total, **terms})
            record |= self._finish(opponent, means, "discriminator/")
            objective.lecam.update(record["discriminator/logits_real"], record["discriminator/logits_fake"])
        if self.ema is not None:
            self.ema.update()
        self.step += 1
        return record

    def _loss(self, output: Any, images: Tensor, guidance: Any) -> tuple[Tensor, dict[str, Tensor]]:
        if self.objective is not None:
            return self.objective(output, images, guidance, self.step)
        weights, losses = self.config.loss_weights, output.losses
        if unknown := sorted(set(weights) - set(losses)):
            raise ValueError(f"loss_weights: expected names among {sorted(losses)}, got {unknown}")
        total = torch.stack([weights.get(name, 1.0) * term.float() for name, term in losses.items()]).sum()
        return total, losses

    def _finish(self, learner: Learner, means: _Means, prefix: str) -> dict[str, float]:
        """Clip, see that all is finite, and step; returns the means over the processes, for the log."""
        norm = learner.clip()
        record = {prefix + name: value for name, value in means.over(self.accelerator).items()}
        record[f"{prefix}grad_norm"] = norm
        # With fp16 an infinite gradient is normal: the scaler skips the step and lowers its scale.
        finite = all(math.isfinite(value) for name, value in record.items() if not name.endswith("grad_norm"))
        if not finite or not (math.isfinite(norm) or self.accelerator.scaler is not None):
            raise NonFiniteLossError(
                f"step {self.step + 1} is not finite: {record}; the last checkpoint is "
                f"{self.checkpoint or 'none, as none was saved yet'}"
            )
        record[f"{prefix}lr"] = learner.learning_rate
        learner.step()
        return record

    def _log(self, record: dict[str, float]) -> None:
        """Evaluate if it is time to, and write the record if it is time to."""
        cfg = self.config
        last = self.step == cfg.steps
        evaluates = self.evaluate and cfg.eval_every and (last or self.step % cfg.eval_every == 0)
        if not (evaluates or last or self.step % cfg.log_every == 0):
            return
        now = time.monotonic()
        images = (self.step - self._window_step) * cfg.batch_size
        rate = images / max(now - self._window_start, 1e-9)
        timing = {"seconds": self._seconds(), "images_per_second": rate}
        if evaluates:
            record |= {f"eval/{name}": float(value) for name, value in self._evaluate().items()}
        self._run_log.append({"step": self.step, **record, **timing})
        self._window_step, self._window_start = self.step, time.monotonic()

    def _evaluate(self) -> dict[str, float]:
        model = self.accelerator.unwrap_model(self.model)
        self.model.eval()
        try:
            with torch.no_grad(), self.averaged():
                figures = self.evaluate(model, self.step) if self.evaluate else {}
                if self.stopping is not None:
                    self.stopping.see(figures, self.step, model)
                return figures
        finally:
            self.model.train()

    def _loader(self) -> DataLoader[Any]:
        """Batches from the current step on, already this process's share; the sampler knows its place."""
        cfg, acc = self.config, self.accelerator
        batches = StepBatches(
            self.num_samples,
            cfg.batch_size,
            cfg.steps,
            seed=cfg.seed,
            start=self.step,
            rank=acc.process_index,
            world=acc.num_processes,
        )
        return DataLoader(
            self.dataset,
            batch_sampler=batches,
            num_workers=cfg.num_workers,
            pin_memory=acc.device.type == "cuda",
            worker_init_fn=ignore_in_worker,
            # A loader draws a number when it starts: not from the global generator, which that would shift.
            generator=torch.Generator().manual_seed(cfg.seed),
        )

    def resume(self) -> int:
        """Take up the newest whole checkpoint, if there is one, and return its step; `train` then goes on.

        Writes nothing unless the checkpoint is of this run. Warns of newer checkpoints that are damaged, and
        sets them aside as `NAME.damaged`. Call it inside `lock`; raises what `train` says.
        """
        # Processes draw different numbers, the first one those of a run of its own.
        set_seed(self.config.seed, device_specific=True)
        self._resumed = True
        found = on_main(self.accelerator, lambda: newest_whole(self.checkpoint_dir))
        if found is None:
            return self.step
        model = self.accelerator.unwrap_model(self.model)
        check_same_run(found.folder, found.manifest["settings"], self._settings(), model)
        on_main(self.accelerator, lambda: set_aside(found.damaged))
        state = load_checkpoint(self.accelerator, found.folder)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.checkpoint, self.step = found.folder, found.manifest["step"]
        self._earlier_seconds = found.manifest["seconds"]
        return self.step

    def _parts(self) -> dict[str, Any]:
        """All that has a state, by name."""
        parts = {
            "model": self.learner,
            "average": self.ema,
            "discriminator": self.opponent,
            "scaler": self.accelerator.scaler,
            "best": self.stopping,
        }
        memory = () if self.objective is None else self.objective.memory()
        parts |= {f"memory{i}": part for i, part in enumerate(memory)}
        return {name: part for name, part in parts.items() if part is not None}

    def _settings(self) -> dict[str, Any]:
        parts = {"parts": sorted(self._parts()), "data": {"samples": self.num_samples}}
        model = self.accelerator.unwrap_model(self.model)
        further = flatten(parts) | flatten(self.settings)
        return run_settings(self.accelerator, self.config, model, self.objective, further)

    def _checkpoint_due(self) -> bool:
        every, minutes = self.config.checkpoint_steps, self.config.checkpoint_minutes
        late = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return self._any(late) or (every is not None and self.step % every == 0)

    def _save(self) -> None:
        cfg = self.config
        epoch, batch = divmod(self.step, self.num_samples // cfg.batch_size)
        info = {
            "step": self.step,
            "epoch": epoch,  # for the reader: it follows from the step, as does the batch
            "batch": batch,
            "seconds": self._seconds(),
            "settings": self._settings(),
        }
        state = {name: part.state_dict() for name, part in self._parts().items()}
        self.checkpoint = save_checkpoint(
            self.accelerator, self.checkpoint_dir, state, info, keep=cfg.keep_checkpoints
        )
        self._saved_step, self._saved_at = self.step, time.monotonic()

    def _seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._started

    def _any(self, flag: bool) -> bool:
        """Whether any process says so: all must save and stop in the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum"))


class _Means:
    """Means over the micro-batches of an update of scalars by name."""

    def __init__(self, parts: int):
        self.parts = parts
        self.names: list[str] = []
        self.values: Tensor | None = None

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Take in the scalars of a micro-batch: the same names every time."""
        part = torch.stack([value.detach().float() for value in scalars.values()]) / self.parts
        self.names = list(scalars)
        self.values = part if self.values is None else self.values + part

    def over(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all processes too, in one exchange and one wait for the device."""
        means = cast(Tensor, accelerator.reduce(cast(Tensor, self.values), "mean"))
        return dict(zip(self.names, means.tolist(), strict=True))
