"""The passes of progressive decoding: which segments, in what order, from what (SPAE eqs. 10 and 11)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from spae.incontext.prompts import Span
from spae.llm import GREEDY, Sampling
from spae_ops import Pyramid

Mode = Literal["par", "pnar"]
Layout = Literal["examples", "segments"]
_MOST_SAMPLES = 256  # of a query; see `stream`


@dataclass(frozen=True)
class Options:
    """How `decode` goes about it.

    num_layers: how many layers to generate; None means all of the pyramid's.
    par_layers: with mode "par", only the first p layers are PAR; the rest is PNAR, conditioned on those p
        layers (the paper: 5 of 6). None means all.
    window: show only the last so many of the preceding tokens (V2L: 16); None means all. Only in the
        "examples" layout.
    layout: "examples" writes one example after another, as eq. 11 does; "segments" writes all examples' first
        segments, then all second ones, .., so that nothing is read twice. See `spae.incontext.prompts`.
        PNAR after PAR layers leaves out the task's condition in the "examples" layout (the paper's
        unconditional refinement); in "segments" it stays, as it tells which lines belong together.
    sampling: how tokens are chosen.
    best_of: draw so many images for each query and keep the one to whose tokens the language model gives the
        highest probability (of each in its own pass, over the whole vocabulary). More than 1 needs a
        temperature.
    log: a JSONL file that keeps every finished segment, so that the same call goes on where it stopped.
    progress: report on stderr, if that is a terminal.
    """

    num_layers: int | None = None
    par_layers: int | None = None
    window: int | None = None
    layout: Layout = "examples"
    sampling: Sampling = GREEDY
    best_of: int = 1
    log: str | os.PathLike[str] | None = None
    progress: bool = False


def segments(num_tokens: int, stride: int) -> list[range]:
    """Cut a sequence into segments of `stride` tokens, the last one possibly shorter.

    >>> segments(10, 4)
    [range(0, 4), range(4, 8), range(8, 10)]
    """
    if not isinstance(num_tokens, int) or num_tokens < 0:
        raise ValueError(f"num_tokens: expected 0 or more, got {num_tokens!r}")
    if not isinstance(stride, int) or stride < 1:
        raise ValueError(f"stride: expected 1 or more, got {stride!r}")
    return [range(start, min(start + stride, num_tokens)) for start in range(0, num_tokens, stride)]


def plan(pyramid: Pyramid, mode: Mode, stride: int, options: Options) -> list[list[Span]]:
    """The passes of `decode`, in groups: those of a group do not depend on each other.

    PAR passes are groups of one, and run through the layers. PNAR segments end where their layer ends.
    """
    num_layers = pyramid.num_layers if options.num_layers is None else options.num_layers
    if not isinstance(num_layers, int) or not 1 <= num_layers <= pyramid.num_layers:
        raise ValueError(f"num_layers: expected 1 to {pyramid.num_layers} or None, got {num_layers!r}")
    if mode not in ("par", "pnar"):
        raise ValueError(f'mode: expected "par" or "pnar", got {mode!r}')
    if options.layout not in ("examples", "segments"):
        raise ValueError(f'layout: expected "examples" or "segments", got {options.layout!r}')
    if options.par_layers is not None and (mode != "par" or not 1 <= options.par_layers <= num_layers):
        raise ValueError(
            f'par_layers: expected 1 to {num_layers} with mode "par", or None, got {options.par_layers} '
            f"with mode {mode!r}"
        )
    if options.window is not None and (options.window < 0 or options.layout != "examples"):
        raise ValueError(
            f'window: expected 0 or more in the layout "examples", or None, got {options.window} in '
            f"{options.layout!r}"
        )
    if not isinstance(options.best_of, int) or not 1 <= options.best_of <= _MOST_SAMPLES:
        raise ValueError(f"best_of: expected 1 to {_MOST_SAMPLES}, got {options.best_of!r}")
    if options.best_of > 1 and options.sampling.temperature == 0:
        raise ValueError(f"best_of: expected 1 at temperature 0, got {options.best_of}")
    par_layers = 0 if mode == "pnar" else options.par_layers or num_layers
    par_tokens = pyramid.num_tokens_upto(par_layers)
    par = segments(par_tokens, stride)
    in_blocks = options.layout == "segments"

    def context(stop: int) -> range:
        return range(max(0, stop - options.window) if options.window is not None else 0, stop)

    groups = [
        [Span(part, blocks=tuple(par[:t])) if in_blocks else Span(part, context(part.start))]
        for t, part in enumerate(par)
    ]
    independent = []
    for layer in range(par_layers, num_layers):
        start = pyramid.num_tokens_upto(layer)
        for part in segments(pyramid.tokens_per_layer[layer], stride):
            tokens = range(start + part.start, start + part.stop)
            independent.append(
                Span(tokens, blocks=tuple(par))
                if in_blocks
                else Span(tokens, context(par_tokens), conditioned=par_layers == 0)
            )
    return [*groups, independent] if independent else groups


def stream(query: int, span: Span, sample: int = 0) -> int:
    """The random stream of a query's segment, whatever else is generated."""
    return sample << 56 | query << 32 | span.tokens.start
