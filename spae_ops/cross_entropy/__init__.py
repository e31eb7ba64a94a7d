from spae_ops.cross_entropy.api import distance_cross_entropy

__all__ = ["distance_cross_entropy"]
