"""Training losses, one function per term of the paper's objective."""

from spae.losses.adversarial import LeCAM, discriminator_loss, generator_loss
from spae.losses.appearance import AppearanceConfig, appearance_loss, commitment_loss, reconstruction_loss
from spae.losses.objective import Objective, ObjectiveConfig
from spae.losses.perceptual import DISTS, LPIPS, FeatureDistance
from spae.losses.regions import Regions
from spae.losses.semantic import (
    SemanticLoss,
    SemanticPools,
    relative_scores,
    semantic_loss,
    semantic_pools,
)
from spae.losses.targets import TargetRules, hub_offset

__all__ = [
    "DISTS",
    "LPIPS",
    "AppearanceConfig",
    "FeatureDistance",
    "LeCAM",
    "Objective",
    "ObjectiveConfig",
    "Regions",
    "SemanticLoss",
    "SemanticPools",
    "TargetRules",
    "appearance_loss",
    "commitment_loss",
    "discriminator_loss",
    "generator_loss",
    "hub_offset",
    "reconstruction_loss",
    "relative_scores",
    "semantic_loss",
    "semantic_pools",
]
