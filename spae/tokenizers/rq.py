"""RQ-VAE (Lee et al. 2022): the full grid several times, each layer coding what the ones before left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from spae.configs import Count
from spae.tokenizers.codes import LearnedTokenizer
from spae.tokenizers.config import SPAEConfig
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
class RQ(LearnedTokenizer):
    """An image as a stack of codes at every position: the learned counterpart of a SPAE of rule "rq".

    config: architecture. codebook: None makes the config's.
    """

    config_class: ClassVar[type[SPAEConfig]] = RQConfig
