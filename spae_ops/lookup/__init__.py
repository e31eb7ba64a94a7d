from spae_ops.lookup.api import NearestCode, nearest_code, topk_codes
from spae_ops.lookup.distance import squared_distance

__all__ = ["NearestCode", "nearest_code", "squared_distance", "topk_codes"]
