"""Exact nearest-code lookup, pyramid quantization and a softmax over distances, for frozen codebooks of any
size.

Tensors in, tensors out: this package knows no models and no words. Every op has a readable reference
implementation that runs anywhere; `implementations(op)` tells which faster ones this machine can run, and why
not the others.
"""

from spae_ops import _vmap
from spae_ops._dispatch import implementations
from spae_ops._implementation import Impl
from spae_ops._version import __version__
from spae_ops.admission.admit import admit
from spae_ops.code_index import CodeIndex
from spae_ops.cross_entropy import distance_cross_entropy
from spae_ops.lookup import NearestCode, nearest_code, squared_distance, topk_codes
from spae_ops.pyramid import Pyramid, Round
from spae_ops.quantize import (
    PyramidCodes,
    dilation_subsample,
    layer_queries,
    pyramid_dequantize,
    pyramid_quantize,
)

_vmap.register()

__all__ = [
    "CodeIndex",
    "Impl",
    "NearestCode",
    "Pyramid",
    "PyramidCodes",
    "Round",
    "__version__",
    "admit",
    "dilation_subsample",
    "distance_cross_entropy",
    "implementations",
    "layer_queries",
    "nearest_code",
    "pyramid_dequantize",
    "pyramid_quantize",
    "squared_distance",
    "topk_codes",
]
