"""Networks between pixels and latents."""

from spae.models.blocks import BackboneConfig
from spae.models.decoder import Decoder
from spae.models.encoder import Encoder

__all__ = ["BackboneConfig", "Decoder", "Encoder"]
