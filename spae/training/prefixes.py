"""Frozen (Tsimpoukelli et al. 2021): a vision encoder that writes an image as two embeddings of a frozen
language model, trained through it on captions; the baseline without words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from spae.configs import Config, Count, Natural, Positive, read_object
from spae.data import Images
from spae.llm.local import LocalLLM
from spae.models import BackboneConfig, Encoder
from spae.training.config import Seed
from spae.training.order import StepBatches
from spae.training.schedule import lr_scheduler
from spae.training.tuning import IGNORED, Lesson, padded

NUM_PREFIX = 2
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class PrefixConfig(Config):
    """A `PrefixEncoder`, and how it is trained: Adam at a constant rate behind a warm-up, as the paper's.

    width: of the language model's embeddings. channels, multipliers: of the convolutions; the paper has an
    NF-ResNet-50.
    """

    section = "frozen"

    width: Count
    channels: Count = 32
    multipliers: tuple[Count, ...] = (1, 2, 4, 4)
    steps: Count = 1000
    batch_size: Count = 16
    learning_rate: Positive = 3e-4
    warmup_steps: Natural = 20
    seed: Seed = 0


class PrefixEncoder(nn.Module):
    """Images float [B, 3, H, W] in [-1, 1] -> float32 [B, 2, width], as embeddings of a language model."""

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__()
        self.config = config
        inner = config.channels * config.multipliers[-1]
        self.encoder = Encoder(
            BackboneConfig(
                ndim=2,
                latent_dim=inner,
                channels=config.channels,
                multipliers=config.multipliers,
                num_res_blocks=1,
            )
        )
        self.head = nn.Linear(inner, NUM_PREFIX * config.width)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.encoder(images).float().flatten(2).mean(2)
        return self.head(pooled).unflatten(1, (NUM_PREFIX, self.config.width))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write configuration and weights into a folder, made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _CONFIG).write_text(json.dumps(asdict(self.config)), encoding="utf-8")
        save_file(self.state_dict(), folder / _WEIGHTS)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> PrefixEncoder:
        """What `save` wrote, in evaluation mode."""
        config = PrefixConfig.from_dict(read_object(Path(folder) / _CONFIG, "a prefix encoder"))
        encoder = cls(config)
        encoder.load_state_dict(load_file(Path(folder) / _WEIGHTS))
        return encoder.eval()


def train_prefixes(
    llm: LocalLLM,
    images: Images | Sequence[Any],
    captions: Sequence[str],
    config: PrefixConfig,
    *,
    progress: bool = False,
) -> tuple[PrefixEncoder, list[float]]:
    """Train an encoder so that the frozen model writes an image's caption, and a line end, behind its two
    embeddings. No weight of the model changes.

    images: items that begin with an image float [3, H, W], a caption for each. Returns the encoder, in
    evaluation mode, and the loss of each step. Raises ValueError for a width other than the model's.
    """
    with torch.random.fork_rng(devices=[]), llm.trainable() as network:
        embed = network.get_input_embeddings()
        if embed.weight.shape[1] != config.width:
            raise ValueError(f"width: expected {embed.weight.shape[1]}, {llm.name}'s, got {config.width}")
        torch.manual_seed(config.seed)
        encoder = PrefixEncoder(config).to(llm.device)
        with torch.no_grad():  # begin where words lie, else the model's first answers tell nothing
            encoder.head.weight.mul_(float(embed.weight.float().std()))
        adam = torch.optim.Adam(encoder.parameters(), lr=config.learning_rate, betas=(0.9, 0.95))
        schedule = lr_scheduler(
            adam, steps=config.steps, schedule="constant", warmup_steps=config.warmup_steps
        )
        losses = []
        batches = StepBatches(len(images), config.batch_size, config.steps, seed=config.seed)
        for rows in tqdm(batches, unit="step", disable=None if progress else True):
            pictures = torch.stack([images[row][0] for row in rows]).to(llm.device)
            texts = [[*llm.encode(f" {captions[row]}"), *llm.encode("\n")[:1]] for row in rows]
            loss = caption_loss(network, encoder(pictures), texts)
            loss.backward()
            adam.step()
            adam.zero_grad()
            schedule.step()
            losses.append(loss.item())
    return encoder.eval(), losses


def caption_loss(network: Any, prefixes: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
    """Mean cross-entropy of texts' ids behind prefixes [B, 2, D], differentiable in these."""
    ids, wanted = padded([Lesson((0,) * NUM_PREFIX, tuple(text)) for text in texts])
    ids, wanted = ids.to(prefixes.device), wanted.to(prefixes.device)
    embedded = network.get_input_embeddings()(ids[:, NUM_PREFIX:])
    seen = torch.cat([prefixes.to(embedded.dtype), embedded], dim=1)
    logits = network(inputs_embeds=seen, use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED)


@contextmanager
def images_as_ids(llm: LocalLLM, prefixes: Tensor) -> Iterator[list[tuple[int, ...]]]:
    """Inside, a model reads n images by ids of their own behind its vocabulary, two each, so that prompts,
    tasks and episodes take them as they take words. It never writes them.

    prefixes: [n, 2, D], of a `PrefixEncoder`.
    """
    first, count = llm.vocabulary_size, prefixes.shape[1]
    with llm.more_embeddings(prefixes.flatten(0, 1)):
        yield [tuple(range(first + i * count, first + (i + 1) * count)) for i in range(len(prefixes))]
