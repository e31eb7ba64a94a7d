"""Encoding and decoding as programs of `torch.export`."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from spae.export.files import write_about
from spae.tokenizers import Tokenizer

ENCODE, DECODE = "encode.pt2", "decode.pt2"


class _Encode(nn.Module):
    def __init__(self, model: Tokenizer, num_layers: int | None) -> None:
        super().__init__()
        self.model, self.num_layers = model, num_layers

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.model.latents(images)
        return self.model.quantize(latents, self.num_layers), latents


class _Decode(nn.Module):
    def __init__(self, model: Tokenizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model.pixels(ids).float().clamp(-1, 1)


def encoding(model: Tokenizer, num_layers: int | None = None) -> ExportedProgram:
    """Images float32 [B, C, *image_size] -> ids int64 [B, n] of the first layers (None: all), and the latents
    float32 [B, D, *shape] that were looked up. B is any number from 1.
    """
    layers = _checked(model, num_layers)
    images = torch.zeros(2, model.config.in_channels, *model.config.image_size)
    return _traced(_Encode(_still(model), layers), images)


def decoding(model: Tokenizer, num_layers: int | None = None) -> ExportedProgram:
    """Ids int64 [B, n] of the first layers (None: all) -> images float32 [B, C, *image_size] in [-1, 1]."""
    count = model.pyramid.num_tokens_upto(_checked(model, num_layers))
    return _traced(_Decode(_still(model)), torch.zeros(2, count, dtype=torch.int64))


def export_torch(model: Tokenizer, folder: str | Path, *, num_layers: int | None = None) -> list[Path]:
    """Write `encoding` and `decoding` into a folder, made if need be, as "encode.pt2" and "decode.pt2".

    They need torch and `spae_ops` (imported first, for its operators), and nothing else of this package:
    ``torch.export.load("encode.pt2").module()(images)``. The codebook is in each of them once; what lookups
    prepare of it is made at the first one, for whatever implementation runs there. On the CPU; for GPUs see
    `torch.export.passes.move_to_device_pass`.

    model: of any class, in any mode; it stays as it is. num_layers: of the ids; None: all.
    Returns the files written. Raises TypeError and ValueError for other arguments.
    """
    folder = Path(folder)
    programs = {ENCODE: encoding(model, num_layers), DECODE: decoding(model, num_layers)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in programs.items():
        with warnings.catch_warnings():
            # A codebook is a part of a file in memory, which torch takes for a tensor of several.
            warnings.filterwarnings("ignore", "No complete tensor found")
            torch.export.save(program, folder / name)
    return [*(folder / name for name in programs), *write_about(model, folder, num_layers)]


def _checked(model: Tokenizer, num_layers: int | None) -> int:
    if not isinstance(model, Tokenizer):
        raise TypeError(f"model: expected a spae.Tokenizer, got {type(model).__name__}")
    return model.pyramid.num_layers if num_layers is None else model.pyramid.upto(num_layers).num_layers


def _still(model: Tokenizer) -> Tokenizer:
    """A copy on the CPU that no longer trains."""
    twin = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    _ = twin.table.index  # prepared now, outside of the trace
    return twin


def _traced(module: nn.Module, example: Tensor) -> ExportedProgram:
    """The program of a module, with those of its tensors that it uses."""
    shapes = ({0: Dim("batch")},)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of its own
        whole = torch.export.export(module, (example,), dynamic_shapes=shapes).module()
        whole.graph.eliminate_dead_code()
        used = {node.target for node in whole.graph.nodes if node.op == "get_attr"}
        tensors = [
            *whole.named_parameters(remove_duplicate=False),
            *whole.named_buffers(remove_duplicate=False),
        ]
        for name in [name for name, _ in tensors if name not in used]:
            owner, _, leaf = name.rpartition(".")
            delattr(whole.get_submodule(owner), leaf)
        whole.recompile()
        return torch.export.export(whole, (example,), dynamic_shapes=shapes)
