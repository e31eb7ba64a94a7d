from spae_ops.pyramid_quantize.api import (
    PyramidCodes,
    dilation_subsample,
    layer_queries,
    pyramid_dequantize,
    pyramid_quantize,
)

__all__ = ["PyramidCodes", "dilation_subsample", "layer_queries", "pyramid_dequantize", "pyramid_quantize"]
