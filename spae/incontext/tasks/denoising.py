"""Conditional denoising: undo a degradation of an image, shown on noisy copies of it (SPAE section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from spae.incontext.lexicon import Lexicon
from spae.incontext.prompts import Example, Task, Template
from spae.tokenizers import PyramidTokens

_TEMPLATE = Template(before="Input:", between=" Output:", after="\n")
# V2L's rates; SPAE says 50% to 20%.
RATES = tuple(0.50 - 0.03 * i for i in range(10))


def inpainting(images: Tensor) -> Tensor:
    """Images [B, C, H, W] with the central half of each side grey."""
    height, width = images.shape[-2:]
    degraded = images.clone()
    degraded[..., height // 4 : height - height // 4, width // 4 : width - width // 4] = 0
    return degraded


def outpainting(images: Tensor) -> Tensor:
    """Images [B, C, H, W] with the lower half grey."""
    degraded = images.clone()
    degraded[..., images.shape[-2] // 2 :, :] = 0
    return degraded


def blur(images: Tensor) -> Tensor:
    """Images [B, C, H, W] at a quarter of their resolution."""
    small = F.interpolate(images, scale_factor=0.25, mode="area")
    return F.interpolate(small, size=images.shape[-2:], mode="bilinear")


def translation(images: Tensor) -> Tensor:
    """Images [B, C, H, W] moved right by a quarter of their width, around the edge."""
    return images.roll(images.shape[-1] // 4, dims=-1)


def rotation(images: Tensor) -> Tensor:
    """Square images [B, C, H, H] turned by 90 degrees anticlockwise."""
    return images.rot90(1, dims=(-2, -1))


DEGRADATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "inpainting": inpainting,
    "outpainting": outpainting,
    "deblurring": blur,
    "translation": translation,
    "rotation": rotation,
}


def corrupt(
    tokens: Sequence[PyramidTokens], rate: float, num_codes: int, generator: torch.Generator
) -> list[PyramidTokens]:
    """Several pyramids of the same images, corrupted alike: the same positions became the same words.

    tokens: each [B, n_i]; those of fewer layers have the first of the positions. round(rate * n) of the
        longest one's n positions, drawn for each image, get random words of the codebook.
    """
    longest = max((one.ids for one in tokens), key=lambda ids: ids.shape[1])
    count = round(rate * longest.shape[1])
    chosen = torch.rand(longest.shape, generator=generator).argsort(1)[:, :count]
    random = torch.randint(num_codes, chosen.shape, generator=generator)
    replaced = torch.zeros_like(longest, dtype=torch.bool).scatter(1, chosen, True)
    words = torch.zeros_like(longest).scatter(1, chosen, random)
    return [
        PyramidTokens(ids.where(~replaced[:, : ids.shape[1]], words[:, : ids.shape[1]]), one.pyramid)
        for one in tokens
        for ids in (one.ids,)
    ]


def denoising_task(
    degraded: PyramidTokens,
    original: PyramidTokens,
    lexicon: Lexicon,
    *,
    condition_layers: int,
    seed: int = 0,
) -> tuple[Task, Example]:
    """Ten examples of one image with decreasing corruption, and the query that they lead up to.

    degraded, original: one image's tokens before and after what is to be undone. Each example pairs a
    corrupted copy of `degraded`, in its first `condition_layers` layers, with a copy of `original` in which
    the same positions have the same random words, as V2L does it; the query's condition is `degraded` itself.
    The copies of `original` differ, so that none shows the answer, but their majority does: report it beside
    what the model makes of them.
    """
    if len(degraded) != 1 or len(original) != 1:
        raise ValueError(f"original: expected one image, got {len(original)} and {len(degraded)} degraded")
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for rate in RATES:
        both = degraded.upto(condition_layers), original
        condition, answer = corrupt(both, rate, len(lexicon.codebook), generator)
        examples.append(Example(lexicon.llm_ids(condition)[0], lexicon.llm_ids(answer)[0]))
    query = Example(lexicon.llm_ids(degraded.upto(condition_layers))[0])
    return Task(_TEMPLATE, tuple(examples)), query


def paired_task(
    degraded: PyramidTokens,
    original: PyramidTokens,
    queries: PyramidTokens,
    lexicon: Lexicon,
    *,
    condition_layers: int,
) -> tuple[Task, list[Example]]:
    """Examples of different images, each degraded and whole, and queries of other degraded images.

    degraded, original: [N, n] of the same images. The conditions are the first `condition_layers` layers.
    """
    if len(degraded) != len(original):
        raise ValueError(f"original: expected {len(degraded)}, one for each degraded, got {len(original)}")
    conditions = lexicon.llm_ids(degraded.upto(condition_layers))
    pairs = zip(conditions, lexicon.llm_ids(original), strict=True)
    asked = lexicon.llm_ids(queries.upto(condition_layers))
    return Task(_TEMPLATE, tuple(Example(*pair) for pair in pairs)), [Example(query) for query in asked]


def majority(task: Task) -> tuple[int, ...]:
    """At each position the id that most of the answers have there (the lowest of equals): the baseline that
    needs no language model."""
    return tuple(torch.tensor(answers_of(task)).mode(0).values.tolist())


def answers_of(task: Task) -> list[tuple[int, ...]]:
    """The ids of each example's answer."""
    return [cast("tuple[int, ...]", example.answer) for example in task.examples]
