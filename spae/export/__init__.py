"""Trained tokenizers as files that other runtimes read: ONNX, and programs of `torch.export`.

Both are folders of `encode`, images to ids, and `decode`, ids to images, for batches of any size, with
`tokens.json` beside them (`about`) and how pictures become images (`ImageProcessor`).
"""

from spae.export.files import TOKENS, about
from spae.export.onnx import Agreement, agreement, export_onnx
from spae.export.programs import decoding, encoding, export_torch

__all__ = ["TOKENS", "Agreement", "about", "agreement", "decoding", "encoding", "export_onnx", "export_torch"]
