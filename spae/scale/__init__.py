"""Collections of any size: images to shards of tokens, by many processes. `spae.data.TokenDataset` reads
them."""

from spae.scale.collection import Collection
from spae.scale.ray_job import tokenize_on_ray
from spae.scale.tokenizing import Report, TokenizeConfig, tokenize_collection

__all__ = ["Collection", "Report", "TokenizeConfig", "tokenize_collection", "tokenize_on_ray"]
