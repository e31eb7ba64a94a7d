"""Progressive in-context decoding (SPAE section 3.2, eqs. 10 and 11)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spae.incontext.lexicon import Lexicon
from spae.incontext.prompts import Example, Task
from spae.llm import GREEDY, FrozenLLM, Sampling
from spae.tokenizers import PyramidTokens

Mode = Literal["par", "pnar"]
Layout = Literal["examples", "segments"]


@dataclass(frozen=True)
class Options:
    """Of `decode`.

    num_layers: how many layers to generate; None means all of the pyramid's.
    par_layers: with mode "par", only the first p layers are PAR; the rest is PNAR, conditioned on those p
        layers and not on the task (the paper: 5 of 6). None means all.
    window: show only the last so many of the preceding tokens (V2L: 16); None means all.
    layout: "examples" writes one example after another as eq. 11 does; "segments" writes all examples' first
        segments, then all second ones, .., so that a segment's prompt continues the one before it and nothing
        is read twice.
    sampling: how tokens are chosen. log: a JSONL file that keeps every finished segment, so that the same
        call goes on where it stopped. progress: report on stderr.
    """

    num_layers: int | None = None
    par_layers: int | None = None
    window: int | None = None
    layout: Layout = "examples"
    sampling: Sampling = GREEDY
    log: str | os.PathLike[str] | None = None
    progress: bool = False


def segments(num_tokens: int, stride: int) -> list[range]:
    """Cut a sequence into segments of `stride` tokens, the last one possibly shorter.

    >>> segments(10, 4)
    [range(0, 4), range(4, 8), range(8, 10)]
    """
    if num_tokens < 0:
        raise ValueError(f"num_tokens: expected 0 or more, got {num_tokens}")
    if stride < 1:
        raise ValueError(f"stride: expected 1 or more, got {stride}")
    return [range(start, min(start + stride, num_tokens)) for start in range(0, num_tokens, stride)]


def decode(
    llm: FrozenLLM,
    task: Task,
    queries: Sequence[Example],
    lexicon: Lexicon,
    *,
    mode: Mode = "par",
    stride: int = 4,
    options: Options | None = None,
) -> PyramidTokens:
    """Generate an image's tokens for each query, segment by segment.

    Pass t generates the segment v_t from the query, the examples cut to the same span, and the preceding
    segments (eq. 11): every one with mode "par", none with "pnar". Every token is one that `lexicon` allows
    in its layer, so the result always decodes.

    Args:
        task: examples whose answers are the LLM ids of whole images (`Lexicon.llm_ids`), of at least the
            layers to generate.
        queries: Q examples without answers; they share the reading of the examples and run as a batch.
        stride: tokens per segment. "par" segments run through the layers; "pnar" segments end with a layer.

    Returns:
        PyramidTokens, ids int64 [Q, n].

    Raises:
        ContextOverflow: before anything is generated, if any pass does not fit the context window; says the
            counts and how many examples would fit.
        ValueError: naming the argument.
    """
    raise NotImplementedError
