"""Whole quantizers inside a SPAE with random weights, and pyramid quantization alone at many sizes.

Everyone computes the same model; they differ in the implementation of the ops. The yardstick is the model
without a quantizer: latents go on as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import Call, Contestant, needs, no_device, our_names, our_unavailable

if TYPE_CHECKING:
    from spae_ops import Impl

NOTHING = "without quantizer"
COMMITMENT = 0.33
SEMANTIC_LAYERS = 5
TEMPERATURE = 1.0


def ours(device: str) -> list[Contestant]:
    rows = [Contestant("spae_ops auto", "ours", device, _prepare("auto"), lambda: no_device(device))]
    for name in our_names("pyramid_quantize"):
        if name == "torch" or device == "cuda":  # on a CPU, auto is the other
            here = our_unavailable("pyramid_quantize", name, device)
            rows.append(Contestant(f"spae_ops {name}", "ours", device, _prepare(name), here))
    return rows


def peers(device: str) -> list[Contestant]:
    return [Contestant(NOTHING, "yardstick", device, _prepare(None), needs(device))]


def model_config(image_size: int, channels: int, res_blocks: int) -> dict[str, Any]:
    """The paper's proportions: latents 1/8 of the image (1/16 beyond 128 pixels), grids up to theirs."""
    multipliers = (1, 2, 2, 4) if image_size <= 128 else (1, 1, 2, 2, 4)
    side = image_size >> (len(multipliers) - 1)
    grids = [1 << power for power in range(side.bit_length())]
    return {
        "image_size": (image_size, image_size),
        "grids": (*grids, side),
        "channels": channels,
        "multipliers": multipliers,
        "num_res_blocks": res_blocks,
    }


def _prepare(impl: Impl | None) -> Callable[[Any], Call]:
    return lambda codes: _Works(codes, impl)


class _Works:
    """Calls by the name of a workload; models and code indices are made at the first call that needs them."""

    def __init__(self, codes: Any, impl: Impl | None) -> None:
        from spae.codebook import Codebook

        self.codes = codes
        self.impl: Impl | None = impl
        words = [f"w{k}" for k in range(len(codes))]
        self.codebook = Codebook.from_arrays(words, codes.float().cpu()).to(codes.device)
        self.model = functools.lru_cache(1)(self._model)
        self.index = functools.lru_cache(1)(self._index)

    def __call__(self, *inputs: Any, work: str, **parameters: Any) -> Any:
        import torch

        if work == "pyramid":
            return self.pyramid(*inputs, **parameters)
        model = self.model(**parameters)
        if work == "encode":
            model.eval()
            return self.encode(model, *inputs)
        model.train()
        with torch.enable_grad():
            return self.step(model, *inputs, semantic=work == "semantic")

    def encode(self, model: Any, images: Any) -> Any:
        """The body of `SPAE.encode`, which also shows the latents that the ids are of."""
        z = model.latents(images)
        return None if self.impl is None else (model.quantizer.encode(z, model.codebook), z)

    def step(self, model: Any, images: Any, *, semantic: bool) -> Any:
        """Forward and backward of a training step, without the optimizer's."""
        import torch

        model.zero_grad(set_to_none=True)
        if self.impl is None:
            z = model.latents(images)
            (model.decoder(z) - images).square().mean().backward()
            return None
        output = model(images)
        loss = output.losses["reconstruction"] + COMMITMENT * output.losses["commitment"]
        if semantic:
            loss = loss + self.semantic(model, output)
        loss.backward()
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        return loss.detach().reshape(1), torch.stack(norms).norm().reshape(1)

    def semantic(self, model: Any, output: Any) -> Any:
        """Eq. 7's cross-entropy on the first layers' queries, for targets that stand for sampled words."""
        import torch

        from spae_ops import distance_cross_entropy, implementations, layer_queries

        ids, index, pyramid = output.tokens.ids, model.codebook.index, model.pyramid
        layers = range(min(SEMANTIC_LAYERS, pyramid.num_layers - 1))
        queries = [layer_queries(output.features, ids, index, pyramid, layer) for layer in layers]
        x = torch.cat(queries, 1).flatten(0, 1)
        target = torch.arange(len(x), device=x.device) * 7919 % len(self.codes)
        known = [row.name for row in implementations("distance_cross_entropy")]
        impl: Impl = self.impl if self.impl in known else "auto"  # pyright: ignore[reportAssignmentType]
        return distance_cross_entropy(x, index, target, temperature=TEMPERATURE, impl=impl)

    def pyramid(self, z: Any, *, num_codes: int, grids: list[int]) -> Any:
        from spae_ops import Pyramid, pyramid_quantize

        shape = Pyramid.square(z.shape[-1], tuple(grids))
        ids = pyramid_quantize(z, self.index(num_codes, z.shape[1]), shape, impl=self.impl or "auto").ids
        return ids, z

    def _index(self, num_codes: int, width: int) -> Any:
        from spae_ops import CodeIndex

        return CodeIndex(self.codes[:num_codes, :width], impl=self.impl or "auto")

    def _model(self, image_size: int, channels: int, res_blocks: int) -> Any:
        import torch

        from spae.tokenizers import SPAE, SPAEConfig

        torch.manual_seed(0)
        model = SPAE(SPAEConfig(**model_config(image_size, channels, res_blocks)), self.codebook)
        if self.impl not in (None, "auto"):
            model.quantizer = _quantizer(model, self.impl)
        return model.to(self.codes.device)


def _quantizer(model: Any, impl: Impl | None) -> Any:
    """The model's quantizer with an implementation by name, where the library itself always says "auto"."""
    from spae.codebook import Codebook
    from spae.losses import commitment_loss
    from spae.tokenizers.quantizers import PyramidQuantizer, Quantized, straight_through
    from spae_ops import CodeIndex, pyramid_quantize

    class Named(PyramidQuantizer):
        def forward(self, z: Any, codebook: Codebook) -> Quantized:
            codes = pyramid_quantize(z, index, self.pyramid, rule=self.rule, impl=impl or "auto")
            commitment = commitment_loss(z, codes.ids, index, self.pyramid, rule=self.rule)
            return Quantized(codes.ids, straight_through(z, codes.quantized), commitment)

        def encode(self, z: Any, codebook: Codebook, num_layers: int | None = None) -> Any:
            return pyramid_quantize(z, index, self.pyramid, rule=self.rule, impl=impl or "auto").ids

    index = CodeIndex(model.codebook.vectors, impl=impl or "auto")
    return Named(model.pyramid, model.config.rule)
