"""A language model tuned by LoRA to continue contexts as examples show: V2L's way to restore masked images,
and the way to better reading that SPAE leaves to future work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from spae.configs import Config, Count, Natural, Positive
from spae.llm import lora
from spae.llm.local import LocalLLM
from spae.training.config import Seed
from spae.training.order import StepBatches
from spae.training.schedule import lr_scheduler

IGNORED = -100
"""What `cross_entropy` leaves out."""


class Lesson(NamedTuple):
    """What the model sees and what it is to write behind it, ids of its own, at least one each."""

    context: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class LoRATuning(Config):
    """How an adapter is trained. The defaults of rank, alpha, targets and learning rate are V2L's; Adam, with
    half a cosine behind a linear warm-up.

    targets: names of the linear maps that get one: of queries and of keys, as Llama's architecture has them.
    """

    section = "lora"

    steps: Count = 300
    batch_size: Count = 8
    rank: Count = 4
    alpha: Count = 32
    targets: tuple[str, ...] = ("q_proj", "k_proj")
    learning_rate: Positive = 3e-4
    warmup_steps: Natural = 20
    seed: Seed = 0


def tune(
    llm: LocalLLM,
    lessons: Sequence[Lesson],
    folder: str | os.PathLike[str],
    config: LoRATuning | None = None,
    *,
    base: str | None = None,
    progress: bool = False,
) -> list[float]:
    """Train an adapter of a language model, and save it in a folder by peft, for `spae.llm.load`.

    The loss is the mean cross-entropy of the answers' ids, each after all before it; contexts have none.
    base: how `spae.llm.load` names the model, for the adapter to say; None: by its name. `llm` itself is
    afterwards as it was. Returns the loss of each step.

    Raises ImportError without peft, `ValueError` for targets that the model has not and for an empty context
    or answer.
    """
    config = config or LoRATuning()
    for number, lesson in enumerate(lessons):
        if not lesson.context or not lesson.answer:
            raise ValueError(f"lessons[{number}]: expected a context and an answer, got {lesson!r:.80}")
        llm.check((*lesson.context, *lesson.answer))
    options = {"r": config.rank, "lora_alpha": config.alpha, "target_modules": list(config.targets)}
    with torch.random.fork_rng(devices=[]), llm.trainable() as network:
        torch.manual_seed(config.seed)  # the adapter's first weights
        with lora.adapted(network, base or llm.name, **options) as wrapped:
            losses = _train(wrapped, lessons, config, llm.device, progress)
            lora.save(wrapped, folder)
    return losses


def _train(
    wrapped: Any, lessons: Sequence[Lesson], config: LoRATuning, device: torch.device, progress: bool
) -> list[float]:
    weights = [weight for weight in wrapped.parameters() if weight.requires_grad]
    adam = torch.optim.Adam(weights, lr=config.learning_rate)
    scheduler = lr_scheduler(adam, steps=config.steps, schedule="cosine", warmup_steps=config.warmup_steps)
    batches = StepBatches(len(lessons), config.batch_size, config.steps, seed=config.seed)
    losses = []
    for rows in tqdm(batches, unit="step", disable=None if progress else True):
        loss = answer_loss(wrapped, [lessons[row] for row in rows], device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        adam.zero_grad()
        scheduler.step()
        losses.append(loss.item())
    return losses


def answer_loss(network: Any, lessons: Sequence[Lesson], device: torch.device) -> Tensor:
    """Mean cross-entropy of the answers of some lessons by a causal language model of transformers."""
    ids, wanted = padded(lessons)
    # Padding stands behind, where no token of a text sees it.
    places = (wanted != IGNORED).any(0).nonzero()[:, 0]
    logits = network(input_ids=ids.to(device), logits_to_keep=places.to(device), use_cache=False).logits
    wanted = wanted[:, places].to(device)
    return F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED)


def padded(lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor]:
    """Texts without their last ids, int64 [B, n], and what each place is to be followed by, -100 where that
    is no answer's."""
    longest = max(len(lesson.context) + len(lesson.answer) for lesson in lessons) - 1
    ids = torch.zeros(len(lessons), longest, dtype=torch.int64)
    wanted = torch.full_like(ids, IGNORED)
    for row, (context, answer) in enumerate(lessons):
        end = len(context) + len(answer) - 1
        ids[row, :end] = torch.tensor([*context, *answer[:-1]])
        wanted[row, len(context) - 1 : end] = torch.tensor(answer)
    return ids, wanted
