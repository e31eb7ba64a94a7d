from spae_ops.quantize.api import (
    PyramidCodes,
    dilation_subsample,
    layer_queries,
    pyramid_dequantize,
    pyramid_quantize,
)

__all__ = ["PyramidCodes", "dilation_subsample", "layer_queries", "pyramid_dequantize", "pyramid_quantize"]
