"""RQ-VAE (Lee et al. 2022): the full grid several times, each layer coding what the ones before left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from spae.codebook import CodeTable
from spae.configs import Count
from spae.tokenizers.base import SPAEOutput, Tokenizer
from spae.tokenizers.checkpoints import SavedCodebook
from spae.tokenizers.codes import through_codes
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.learned import LearnedCodebook
from spae.tokenizers.parts import build_parts, latents_of
from spae.tokenizers.registry import register
from spae.tokenizers.vqgan import VQGANConfig


@dataclass(frozen=True)
class RQConfig(VQGANConfig):
    """Architecture of an RQ-VAE: a VQGAN's with the full grid `depth` times; all layers share the codebook.

    grids: equal ones, as many as the depth (RQ-VAE's default is 4). rule: "rq" only.
    """

    grids: tuple[Count | tuple[Count, ...], ...] = (16, 16, 16, 16)
    rule: Literal["saq", "rq"] = "rq"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule != "rq":
            raise ValueError(f"rule: expected 'rq', got {self.rule!r}")
        if set(self.pyramid.grids) != {self.pyramid.shape}:
            raise ValueError(f"grids: expected {self.pyramid.shape} in every layer, got {self.grids}")


@register
class RQ(Tokenizer):
    """An image as a stack of codes at every position: the learned counterpart of a SPAE of rule "rq".

    config: architecture. codebook: None makes the config's.
    """

    config_class: ClassVar[type[SPAEConfig]] = RQConfig
    codebook: LearnedCodebook

    def __init__(self, config: RQConfig, codebook: LearnedCodebook | None = None) -> None:
        self._check_config(config)
        codebook = config.fresh_codebook() if codebook is None else codebook
        super().__init__(config, codebook)
        parts = build_parts(config, codebook)
        self.encoder, self.semantic, self.latent_norm, self.quantizer, self.decoder = parts

    def forward(self, images: Tensor) -> SPAEOutput:
        """Images through codes and back, with the unweighted losses "reconstruction" and "commitment".

        In training the codebook learns, with the term "codebook" if it does so by gradient.
        """
        self.check_images(images)
        return through_codes(self, images)

    def latents(self, images: Tensor) -> Tensor:
        self.check_images(images)
        return latents_of(self, images, inference=True)

    def quantize(self, latents: Tensor, num_layers: int | None = None) -> Tensor:
        return self.quantizer.encode(latents, self.codebook, num_layers)

    def pixels(self, ids: Tensor) -> Tensor:
        return self.decoder(self.quantizer.decode(ids, self.codebook))

    @classmethod
    def load_codebook(cls, config: Any, saved: SavedCodebook) -> CodeTable:
        """An untrained one: the trained vectors are in the weights."""
        return config.fresh_codebook()
