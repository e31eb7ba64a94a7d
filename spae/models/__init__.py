"""Networks between pixels and latents, those that judge them, and a frozen one that describes images."""

from spae.models.blocks import BackboneConfig
from spae.models.causal import Stream, inflate
from spae.models.decoder import Decoder
from spae.models.discriminator import FrameDiscriminator, PatchDiscriminator, ResidualDiscriminator
from spae.models.encoder import Encoder
from spae.models.lite0 import Lite0

__all__ = [
    "BackboneConfig",
    "Decoder",
    "Encoder",
    "FrameDiscriminator",
    "Lite0",
    "PatchDiscriminator",
    "ResidualDiscriminator",
    "Stream",
    "inflate",
]
