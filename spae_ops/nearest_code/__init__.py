from spae_ops.nearest_code.api import NearestCode, nearest_code, topk_codes
from spae_ops.nearest_code.distance import squared_distance

__all__ = ["NearestCode", "nearest_code", "squared_distance", "topk_codes"]
