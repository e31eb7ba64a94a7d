"""The training loop, on Hugging Face accelerate: devices, processes and precision are its business."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spae.training.config import TrainConfig
from spae.training.ema import ParameterEMA
from spae.training.log import append_log, plot_log, truncate_log
from spae.training.order import StepBatches
from spae.training.schedule import lr_scheduler
from spae.training.signals import StopSignals, ignore_in_worker
from spae.training.state import latest, load_checkpoint, read_manifest, save_checkpoint

try:
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from tqdm.auto import tqdm
except ImportError as error:
    raise ImportError(f'spae.training needs {error.name}: pip install "spae[train]"') from error


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became infinite or NaN; the weights were not updated with it."""


class Trainer:
    """Trains a model whose `forward(images)` returns an object with `.losses`, unweighted scalars by name.

    `train()` resumes from the newest complete checkpoint in `config.output_dir`. On a CPU it then repeats bit
    for bit what an uninterrupted run would have done, if `dataset[i]` always gives the same sample.
    SIGINT and SIGTERM end the run after the current step, with a checkpoint; a second one ends it at once.

    Args:
        model: only the parameters that require a gradient train.
        dataset: of images [C, *shape], or of tuples that begin with one; of known length.
        config: the run.
        evaluate: called as `evaluate(model, step)` every `config.eval_every` steps in evaluation mode,
            without gradients, with the averaged weights if there are any, on every process; returns held-out
            figures by name for the log.
        accelerator: to bring your own, which then also decides the precision.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset[Any],
        config: TrainConfig,
        *,
        evaluate: Callable[[nn.Module, int], dict[str, float]] | None = None,
        accelerator: Accelerator | None = None,
    ):
        self.config, self.dataset, self.evaluate = config, dataset, evaluate
        self.num_samples = len(dataset)  # pyright: ignore[reportArgumentType]
        self.accelerator = accelerator or Accelerator(mixed_precision=config.mixed_precision)
        self.step = 0
        self.log_file = Path(config.output_dir) / "log.jsonl"
        self.checkpoint_dir = Path(config.output_dir) / "checkpoints"
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        adam = torch.optim.Adam(self._parameters, lr=config.learning_rate, betas=config.betas)
        self.model, self.optimizer = self.accelerator.prepare(model, adam)
        # Not prepared: accelerate would step it once per process, but its steps are updates.
        self.scheduler = lr_scheduler(
            adam,
            steps=config.steps,
            schedule=config.schedule,
            warmup_steps=config.warmup_steps,
            cooldown_steps=config.cooldown_steps,
        )
        self.accelerator.register_for_checkpointing(self.scheduler)
        self.ema = None if config.ema_decay is None else ParameterEMA(self.model, config.ema_decay)
        if self.ema is not None:
            self.accelerator.register_for_checkpointing(self.ema)
        self._earlier_seconds = 0.0  # of the runs that this one resumes
        self._started = self._window_start = self._saved_at = time.monotonic()
        self._window_step = self._saved_step = 0

    def train(self) -> bool:
        """Run (or go on) to the last step. True when it got there, False when a signal ended it before.

        Raises:
            NonFiniteLossError: the loss or its gradient is not finite; the last checkpoint is untouched.
            ValueError: `loss_weights` names a term that the model has not, or the newest checkpoint in
                `output_dir` belongs to a run with another configuration or another number of samples.
        """
        cfg, main = self.config, self.accelerator.is_main_process
        set_seed(cfg.seed)
        self._resume()
        self.model.train()
        self._started = self._window_start = self._saved_at = time.monotonic()
        self._window_step = self._saved_step = self.step
        bar = tqdm(total=cfg.steps, initial=self.step, disable=not (cfg.progress and main), unit="step")
        with StopSignals() as signals, bar:
            for batch in self._loader():
                images = batch[0] if isinstance(batch, list | tuple) else batch
                record = self._update(images.to(self.accelerator.device, non_blocking=True))
                bar.update()
                bar.set_postfix(loss=f"{record['loss']:.4g}", refresh=False)
                self._log(record)
                stop = self._any(signals.received)
                if stop or self._checkpoint_due():
                    self._save()
                if stop:
                    return self.step == cfg.steps
        if self._saved_step < self.step:
            self._save()
        if main and self.log_file.exists() and importlib.util.find_spec("matplotlib"):
            plot_log(self.log_file, self.log_file.with_suffix(".png"))
        return True

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model has the averaged weights; without `ema_decay`, its own."""
        return nullcontext() if self.ema is None else self.ema.applied()

    def _update(self, images: Tensor) -> dict[str, float]:
        """One optimizer step, all or nothing. Returns the record of it for the log."""
        weights = self.config.loss_weights
        losses: dict[str, Tensor] = self.model(images).losses
        if unknown := sorted(set(weights) - set(losses)):
            raise ValueError(f"loss_weights names {unknown}, but the model's terms are {sorted(losses)}")
        total = torch.stack([weights.get(name, 1.0) * term.float() for name, term in losses.items()]).sum()
        self.accelerator.backward(total)
        clip_norm = math.inf if self.config.clip_norm is None else self.config.clip_norm
        norm = self.accelerator.clip_grad_norm_(self._parameters, clip_norm)

        names = ["loss", *(f"loss/{name}" for name in losses)]
        record = dict(zip(names, self._means([total, *losses.values()]), strict=True))
        # With fp16 an infinite gradient is normal: the scaler skips the step and lowers its scale.
        gradient_counts = self.accelerator.scaler is None
        record["grad_norm"] = float(norm)  # pyright: ignore[reportArgumentType]
        if not all(math.isfinite(v) for name, v in record.items() if gradient_counts or name != "grad_norm"):
            raise NonFiniteLossError(
                f"step {self.step + 1} is not finite: {record}; the last checkpoint is "
                f"{latest(self.checkpoint_dir) or 'none, as none was saved yet'}"
            )
        record["lr"] = float(self.scheduler.get_last_lr()[0])
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update()
        self.step += 1
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
        if self.accelerator.is_main_process:
            append_log(self.log_file, {"step": self.step, **record, **timing})
        self._window_step, self._window_start = self.step, time.monotonic()

    def _evaluate(self) -> dict[str, float]:
        model = self.accelerator.unwrap_model(self.model)
        self.model.eval()
        try:
            with torch.no_grad(), self.averaged():
                return self.evaluate(model, self.step) if self.evaluate else {}
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

    def _resume(self) -> None:
        folder = latest(self.checkpoint_dir)
        manifest = folder and read_manifest(folder)
        if folder and manifest:
            self._check_same_run(folder, manifest)
            load_checkpoint(self.accelerator, folder)
            self.step, self._earlier_seconds = manifest["step"], manifest["seconds"]
        if self.accelerator.is_main_process:
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            truncate_log(self.log_file, self.step)

    def _check_same_run(self, folder: Path, manifest: dict[str, Any]) -> None:
        conflicts = self.config.conflicts(manifest["config"])
        if manifest["num_samples"] != self.num_samples:
            conflicts.append(f"the dataset had {manifest['num_samples']} samples, has {self.num_samples}")
        if conflicts:
            raise ValueError(f"{folder} is of another run ({'; '.join(conflicts)}): use another output_dir")

    def _checkpoint_due(self) -> bool:
        every, minutes = self.config.checkpoint_steps, self.config.checkpoint_minutes
        late = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return self._any(late) or (every is not None and self.step % every == 0)

    def _save(self) -> None:
        cfg = self.config
        epoch, batch = divmod(self.step, self.num_samples // cfg.batch_size)
        info = {"config": cfg.to_json(), "num_samples": self.num_samples, "seconds": self._seconds()}
        position = {"epoch": epoch, "batch": batch}  # for the reader: it follows from the step
        info |= position
        save_checkpoint(self.accelerator, self.checkpoint_dir, self.step, info, keep=cfg.keep_checkpoints)
        self._saved_step, self._saved_at = self.step, time.monotonic()

    def _seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._started

    def _means(self, values: list[Tensor]) -> list[float]:
        """Each value's mean over the processes, in one exchange and one wait for the device."""
        stacked = torch.stack([value.detach().float() for value in values])
        return cast(Tensor, self.accelerator.reduce(stacked, "mean")).tolist()

    def _any(self, flag: bool) -> bool:
        """Whether any process says so: all must save and stop in the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum"))
