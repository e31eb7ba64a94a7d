"""Encoding and decoding as ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from spae.export.files import write_about
from spae.export.programs import decoding, encoding
from spae.optional import needs
from spae.tokenizers import Tokenizer
from spae_ops.standard import standard_operators

ENCODE, DECODE = "encode.onnx", "decode.onnx"
OPSET = 18  # the first whose Resize has antialiasing


def export_onnx(model: Tokenizer, folder: str | Path, *, num_layers: int | None = None) -> list[Path]:
    """Write "encode.onnx" and "decode.onnx" into a folder, made if need be, of standard operators alone.

    encode: "images" float32 [batch, C, *image_size] in [-1, 1] -> "ids" int64 [batch, n], and "latents"
    float32 [batch, D, *shape] that were looked up. decode: "ids" -> "images".

    Lookups are evaluated in float64, so that the ids are those of `model.quantize` for the graph's own
    latents (`spae_ops.standard` says when not). Another runtime's convolutions round otherwise than torch's:
    where a latent lies in the middle between two words, its ids may differ from `model.encode`'s. The graph
    does not look at values: images in another range give no error.

    model: of any class, in any mode; it stays as it is. num_layers: of the ids; None: all.
    Returns the files written. Raises ImportError without onnx and onnxscript, TypeError and ValueError for
    other arguments.
    """
    _check_packages()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, tuple[Callable[..., ExportedProgram], list[str], list[str]]] = {
        ENCODE: (encoding, ["images"], ["ids", "latents"]),
        DECODE: (decoding, ["ids"], ["images"]),
    }
    for name, (made, inputs, outputs) in parts.items():
        with standard_operators():
            program = made(model, num_layers)
        with _quiet():
            graph = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
            )
        assert graph is not None
        graph.save(folder / name, external_data=False)
    return [*(folder / name for name in parts), *write_about(model, folder, num_layers)]


class Agreement(NamedTuple):
    """Shares from 0 to 1: of ids equal to `model.encode`'s, of images whose ids all are, and of ids equal to
    `model.quantize`'s for the graph's own latents, which leaves the lookups alone."""

    ids: float
    images: float
    lookups: float


def agreement(model: Tokenizer, folder: str | Path, images: Tensor, *, batch_size: int = 32) -> Agreement:
    """How far what `export_onnx` wrote into a folder gives the ids of the model, by onnxruntime on the CPU.

    images: float32 [B, C, *image_size] in [-1, 1], B from 1. Raises ImportError without onnxruntime.
    """
    try:
        from onnxruntime import InferenceSession
    except ImportError as error:
        raise ImportError(needs("running ONNX", "onnxruntime")) from error
    model.check_images(images)
    if len(images) == 0:
        raise ValueError("images: expected at least one, got none")
    session = InferenceSession(str(Path(folder) / ENCODE), providers=["CPUExecutionProvider"])
    equal, lookups = [], []
    for batch in images.split(batch_size):
        ids, latents = map(torch.from_numpy, session.run(None, {"images": batch.cpu().numpy()}))
        kept = model.pyramid.num_layers_of(ids.shape[1])
        equal.append(ids == model.tokenize(batch.to(model.device), kept).cpu())
        lookups.append(ids == model.quantize(latents.to(model.device), kept).cpu())
    same, alone = torch.cat(equal).float(), torch.cat(lookups).float()
    return Agreement(same.mean().item(), same.amin(1).mean().item(), alone.mean().item())


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(needs("export to ONNX", "onnx", "onnxscript")) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of packages that nothing here uses, and of itself."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
