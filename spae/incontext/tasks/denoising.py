"""Conditional denoising: undo a degradation of an image, shown on noisy copies of it (SPAE section 3.2)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from spae.codebook import WordIds
from spae.incontext.decoding import decode
from spae.incontext.lexicon import Lexicon
from spae.incontext.log import SegmentLog
from spae.incontext.passes import Options
from spae.incontext.prompts import Example, Task, Template, prompt
from spae.incontext.words import ids_of
from spae.llm import FrozenLLM
from spae.tokenizers import PyramidTokens
from spae_ops import Pyramid

_TEMPLATE = Template(before="Input:", between=" Output:", after="\n")
_WINDOWS = Template(before="Input:", between=", output:", after=".\n")  # V2L's wording
# V2L's rates; SPAE says 50% to 20%.
RATES = tuple(0.50 - 0.03 * i for i in range(10))


def inpainting(images: Tensor) -> Tensor:
    """Images [B, C, .., H, W] with the central half of each side grey, clips in every frame."""
    height, width = images.shape[-2:]
    degraded = images.clone()
    degraded[..., height // 4 : height - height // 4, width // 4 : width - width // 4] = 0
    return degraded


def outpainting(images: Tensor) -> Tensor:
    """Images [B, C, .., H, W] with the lower half grey, clips in every frame."""
    degraded = images.clone()
    degraded[..., images.shape[-2] // 2 :, :] = 0
    return degraded


def blur(images: Tensor) -> Tensor:
    """Images [B, C, .., H, W] at a quarter of their resolution, clips frame by frame."""
    sides = images.shape[-2:]
    planes = images.flatten(0, -3)[:, None]
    small = F.interpolate(planes, size=[max(1, side // 4) for side in sides], mode="area")
    return F.interpolate(small, size=sides, mode="bilinear").reshape(images.shape)


def translation(images: Tensor) -> Tensor:
    """Images [B, C, .., H, W] moved right by a quarter of their width, around the edge."""
    return images.roll(images.shape[-1] // 4, dims=-1)


def rotation(images: Tensor) -> Tensor:
    """Square images [B, C, .., H, H] turned by 90 degrees anticlockwise."""
    return images.rot90(1, dims=(-2, -1))


DEGRADATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "inpainting": inpainting,
    "outpainting": outpainting,
    "deblurring": blur,
    "translation": translation,
    "rotation": rotation,
}


def hidden_tokens(name: str, pyramid: Pyramid, *, local: bool = False) -> Tensor | None:
    """Which tokens V2L masks in a task, bool [n]: those at the latent positions that the degradation makes
    grey, of clips at every moment. None where it masks none: the whole image is degraded.

    local: only tokens of the last layer, as a V2L's, whose global words stand at no position.
    """
    whole = torch.ones(1, 1, *pyramid.shape)
    grey = DEGRADATIONS[name](whole)[0, 0] == 0
    if not grey.any():
        return None
    places = [pyramid.positions(layer) for layer in range(pyramid.num_layers)]
    hidden = torch.cat([grey[tuple(position.T)] for position in places])
    if local:
        hidden[: -pyramid.tokens_per_layer[-1]] = False
    return hidden


def corrupt(
    tokens: Sequence[PyramidTokens],
    rate: float,
    num_codes: int,
    generator: torch.Generator,
    masks: Tensor | None = None,
) -> list[PyramidTokens]:
    """Several pyramids of the same images, corrupted alike: the same positions became the same words.

    tokens: each [B, n_i]; those of fewer layers have the first of the positions. round(rate * n) of the
        longest one's n positions, drawn for each image, get random words of the codebook.
    """
    longest = max((one.ids for one in tokens), key=lambda ids: ids.shape[1])
    count = round(rate * longest.shape[1])
    chosen = torch.rand(longest.shape, generator=generator).argsort(1)[:, :count]
    if masks is None:
        random = torch.randint(num_codes, chosen.shape, generator=generator)
    else:
        random = _random_words(chosen, tokens[0].pyramid, masks, generator)
    replaced = torch.zeros_like(longest, dtype=torch.bool).scatter(1, chosen, True)
    words = torch.zeros_like(longest).scatter(1, chosen, random)
    return [
        PyramidTokens(ids.where(~replaced[:, : ids.shape[1]], words[:, : ids.shape[1]]), one.pyramid)
        for one in tokens
        for ids in (one.ids,)
    ]


def _random_words(positions: Tensor, pyramid: Pyramid, masks: Tensor, generator: torch.Generator) -> Tensor:
    """A word of its layer for each of some positions in the token order, int64 [B, m]."""
    layers = torch.arange(pyramid.num_layers).repeat_interleave(torch.tensor(pyramid.tokens_per_layer))
    share = torch.rand(positions.shape, generator=generator, dtype=torch.float64)
    words = torch.zeros_like(positions)
    for layer, mask in enumerate(masks.cpu()):
        rows = mask.nonzero()[:, 0]
        words = torch.where(layers[positions] == layer, rows[(share * len(rows)).long()], words)
    return words


def denoising_task(
    degraded: PyramidTokens,
    original: PyramidTokens,
    lexicon: Lexicon,
    *,
    condition_layers: int,
    seed: int = 0,
    masks: Tensor | None = None,
) -> tuple[Task, Example]:
    """Ten examples of one image with decreasing corruption, and the query that they lead up to.

    degraded, original: one image's tokens before and after what is to be undone. Each example pairs a
    corrupted copy of `degraded`, in its first `condition_layers` layers, with a copy of `original` in which
    the same positions have the same random words, as V2L does it; the query's condition is `degraded` itself.
    The copies of `original` differ, so that none shows the answer, but their majority does: report it beside
    what the model makes of them. masks: bool [L, K], what words of a layer become; None: any.
    """
    if len(degraded) != 1 or len(original) != 1:
        raise ValueError(f"original: expected one image, got {len(original)} and {len(degraded)} degraded")
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for rate in RATES:
        both = degraded.upto(condition_layers), original
        condition, answer = corrupt(both, rate, len(lexicon.codebook), generator, masks)
        examples.append(Example(lexicon.llm_ids(condition)[0], lexicon.llm_ids(answer)[0]))
    query = Example(lexicon.llm_ids(degraded.upto(condition_layers))[0])
    return Task(_TEMPLATE, tuple(examples)), query


@dataclass(frozen=True)
class Windows:
    """V2L's scheme: `predicted` tokens at a time (its m), from `before` preceding ones (its n)."""

    predicted: int = 2
    before: int = 16

    def __post_init__(self) -> None:
        for name, least in (("predicted", 1), ("before", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, got {getattr(self, name)}")


def restore_windows(
    llm: FrozenLLM,
    task: Task,
    query: Example,
    lexicon: Lexicon,
    hidden: Tensor | None,
    *,
    windows: Windows | None = None,
    log: str | os.PathLike[str] | None = None,
) -> tuple[int, ...]:
    """One image's words as V2L restores them: m at a time, each prompt a window of ten copies.

    task, query: of `denoising_task`, with as many words in the conditions as in the answers. hidden: bool [n]
        (`hidden_tokens`), the words to predict; each from the n before it, those already predicted among
        them. None: all of them, and the input is the n + m words of the degraded image at the same
        positions, so that no prediction depends on another.
    log: a JSONL file that keeps what is predicted, so that the same call goes on where it stopped.

    Returns the words of the query where they are not hidden, and the predicted ones. Every word is one that
    the lexicon allows in its layer. Raises ValueError for conditions of another length, for
    `hidden` of another kind or fewer positions and for hidden words of several ids, and
    `spae.llm.ContextOverflow`.
    """
    windows = windows or Windows()
    count = len(answers_of(task)[0])
    if any(len(cast("tuple[int, ...]", e.condition)) != count for e in (*task.examples, query)):
        raise ValueError(f"task: expected {count} words in each condition, as in the answers, got others")
    preamble = f"Learn a new language and predict {windows.predicted} tokens following the examples.\n"
    template = replace(_WINDOWS, preamble=preamble)
    if hidden is not None:
        return _restore_hidden(llm, replace(task, template=template), query, lexicon, hidden, windows, log)
    upto = [lexicon.pyramid.num_tokens_upto(layers) for layers in range(lexicon.pyramid.num_layers + 1)]
    options = Options(num_layers=upto.index(count), window=windows.before, layout="examples", log=log)
    aligned = [Example("", e.answer, cast("tuple[int, ...]", e.condition)) for e in (*task.examples, query)]
    restored = decode(
        llm,
        Task(template, tuple(aligned[:-1])),
        aligned[-1:],
        lexicon,
        stride=windows.predicted,
        options=options,
    )
    return cast("tuple[int, ...]", lexicon.llm_ids(restored)[0])


def _restore_hidden(
    llm: FrozenLLM,
    task: Task,
    query: Example,
    lexicon: Lexicon,
    hidden: Tensor,
    windows: Windows,
    log: str | os.PathLike[str] | None,
) -> tuple[int, ...]:
    words = list(cast("tuple[int, ...]", query.condition))
    if hidden.dtype != torch.bool or hidden.ndim != 1 or len(hidden) < len(words):
        raise ValueError(
            f"hidden: expected torch.bool [{len(words)}] or longer, got {hidden.dtype} {list(hidden.shape)}"
        )
    asked = hidden[: len(words)]
    lexicon.check_single(asked.nonzero()[:, 0].tolist())
    kept = SegmentLog(log, (llm.identity, task, query, lexicon.fingerprint, asked.tolist(), windows))
    for tokens in _runs(asked, windows.predicted):
        shown = slice(max(0, tokens.start - windows.before), tokens.start)
        found = kept.get(tokens)
        if found is None:
            lines = tuple(
                Example(example.condition[shown], example.answer[tokens.start : tokens.stop])
                for example in task.examples
            )
            cut = Task(task.template, lines)
            ids = prompt(llm, cut, Example(tuple(words[shown])), len(tokens)).ids
            found = llm.generate(
                [ids], len(tokens), allowed=[lexicon.allowed(position) for position in tokens]
            ).tolist()
            kept.put(tokens, found)
        words[tokens.start : tokens.stop] = found[0]
    return tuple(words)


def _runs(asked: Tensor, most: int) -> list[range]:
    """The asked positions in order, neighbours together, up to so many."""
    runs: list[range] = []
    for position in asked.nonzero()[:, 0].tolist():
        if runs and runs[-1].stop == position and len(runs[-1]) < most:
            runs[-1] = range(runs[-1].start, position + 1)
        else:
            runs.append(range(position, position + 1))
    return runs


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


def majority(task: Task) -> tuple[WordIds, ...]:
    """At each position the word that most of the answers have there (the lowest of equals): the baseline that
    needs no language model."""
    counts = [Counter(column) for column in zip(*answers_of(task), strict=True)]
    return tuple(min(count, key=lambda word: (-count[word], ids_of(word))) for count in counts)


def answers_of(task: Task) -> list[tuple[WordIds, ...]]:
    """The words of each example's answer, as ids."""
    return [cast("tuple[WordIds, ...]", example.answer) for example in task.examples]
