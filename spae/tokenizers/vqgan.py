"""VQGAN (Esser et al. 2021) and RQ-VAE (Lee et al. 2022): a learned codebook instead of an LLM's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from spae.tokenizers.base import CONFIG, SPAEOutput, _find
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.learned import LearnedCodebook, Update
from spae.tokenizers.spae import SPAE
from spae_ops import layer_queries


@dataclass(frozen=True)
class VQGANConfig(SPAEConfig):
    """Architecture of a VQGAN: that of a SPAE, with one full-grid layer and a codebook of its own.

    An RQ-VAE of depth d has the same grid d times and `rule="rq"`; its layers share the codebook.

    codebook_size, codebook_dim: K and D. update, decay, revive_below: see `LearnedCodebook`.
    """

    grids: tuple[int | tuple[int, ...], ...] = (16,)
    latent_norm: str = "none"
    codebook_size: int = 1024
    codebook_dim: int = 256
    update: Update = "ema"
    decay: float = 0.99
    revive_below: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latent_norm == "matched":
            raise ValueError("latent_norm: a learned codebook follows the latents; expected 'none' or 'unit'")


class VQGAN(SPAE):
    """An image as the codes of a learned codebook, and back: the baseline without language.

    It has the face of SPAE, and everything of a VQGAN but what its training brings (an `Objective` with a
    discriminator and a perceptual distance). Its "words" are the codes' names: "<17>". The codebook is part
    of the state dict.

    config: architecture. codebook: only for `from_pretrained`'s sake; None makes the config's.
    """

    config_class: ClassVar[type[SPAEConfig]] = VQGANConfig

    def __init__(self, config: VQGANConfig, codebook: Any = None) -> None:
        super().__init__(config, _fresh_codebook(config) if codebook is None else codebook)

    def forward(self, images: Tensor) -> SPAEOutput:
        """As SPAE's; in training the codebook learns, with the term "codebook" if it does so by gradient."""
        output = super().forward(images)
        book: Any = self.codebook
        z, ids = output.features.detach(), output.tokens.ids
        queries = [
            layer_queries(z, ids, book.index, self.pyramid, layer, rule=self.config.rule)
            for layer in range(self.pyramid.num_layers)
        ]
        loss = book.learn(torch.cat(queries, 1).flatten(0, 1), ids.flatten())
        return output if loss is None else output._replace(losses={**output.losses, "codebook": loss})

    def codebook_identity(self) -> dict[str, Any]:
        """What a checkpoint says of the codebook: its vectors are in the weights, so only their shape."""
        shape = list(self.codebook.vectors.shape)
        return {"name": self.codebook.name, "shape": shape, "checksum": f"learned {shape}"}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name: str | Path, *, codebook: Any = None, device: str | torch.device = "cpu"
    ) -> SPAE:
        """A trained VQGAN; see `Tokenizer.from_pretrained`. It brings its codebook with it."""
        saved = json.loads((_find(name) / CONFIG).read_text())
        if saved["class"] == cls.__name__ and codebook is None:
            codebook = _fresh_codebook(VQGANConfig.from_dict(saved["config"]))
        return super().from_pretrained(name, codebook=codebook, device=device)  # pyright: ignore


def _fresh_codebook(config: Any) -> Any:
    # Any: a learned codebook has what SPAE looks at in a Codebook, but is none.
    return LearnedCodebook(
        config.codebook_size,
        config.codebook_dim,
        update=config.update,
        decay=config.decay,
        revive_below=config.revive_below,
    )
