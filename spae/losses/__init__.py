"""Training losses, one function per term of the paper's objective."""

from spae.losses.appearance import commitment_loss, reconstruction_loss

__all__ = ["commitment_loss", "reconstruction_loss"]
