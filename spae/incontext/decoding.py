"""Progressive in-context decoding (SPAE section 3.2, eqs. 10 and 11)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tqdm import tqdm

from spae.incontext.lexicon import Lexicon
from spae.incontext.log import SegmentLog
from spae.incontext.prompts import Example, Span, Task, Writer
from spae.llm import GREEDY, Cost, FrozenLLM, Prefix, Sampling
from spae.tokenizers import PyramidTokens
from spae_ops import Pyramid

Mode = Literal["par", "pnar"]
Layout = Literal["examples", "segments"]


@dataclass(frozen=True)
class Options:
    """How `decode` goes about it.

    num_layers: how many layers to generate; None means all of the pyramid's.
    par_layers: with mode "par", only the first p layers are PAR; the rest is PNAR, conditioned on those p
        layers (the paper: 5 of 6). None means all.
    window: show only the last so many of the preceding tokens (V2L: 16); None means all. Only in the
        "examples" layout.
    layout: "segments" writes all examples' first segments, then all second ones, .., so that nothing is read
        twice; "examples" writes one example after another, as eq. 11 does. See `spae.incontext.prompts`.
        PNAR after PAR layers leaves out the task's condition in the "examples" layout (the paper's
        unconditional refinement); in "segments" it stays, as it tells which lines belong together.
    sampling: how tokens are chosen.
    log: a JSONL file that keeps every finished segment, so that the same call goes on where it stopped.
    progress: report on stderr, if that is a terminal.
    """

    num_layers: int | None = None
    par_layers: int | None = None
    window: int | None = None
    layout: Layout = "segments"
    sampling: Sampling = GREEDY
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

    The examples are read once in all (layout "segments") or once per pass ("examples"), for all queries; what
    comes out is what reading every prompt in full would give (`spae.incontext.reference`), up to rounding.

    Args:
        task: examples whose answers are the LLM ids of whole images (`Lexicon.llm_ids`), of at least the
            layers to generate.
        queries: Q examples without answers. Their order matters for sampling: query q follows stream q.
        stride: tokens per segment.

    Returns:
        PyramidTokens, ids int64 [Q, n].

    Raises:
        ContextOverflow: before anything is generated, if any pass does not fit the context window; says the
            counts and how many examples would fit.
        ValueError: naming the argument, or the word that cannot be sent as text (HTTP); before anything is
            generated.
    """
    options = options or Options()
    groups = plan(lexicon.pyramid, mode, stride, options)
    if not queries:
        return lexicon.tokens([])
    writer = Writer(llm, task)
    num_tokens = max(span.tokens.stop for group in groups for span in group)
    _check(writer, queries, [span for group in groups for span in group], num_tokens)
    answers = [[0] * num_tokens for _ in queries]
    run = (llm.identity, task, tuple(queries), lexicon.fingerprint, groups, options.sampling)
    log = SegmentLog(options.log, run)
    reader = _Reader(llm)
    with tqdm(
        total=len(queries) * num_tokens, unit="token", disable=None if options.progress else True
    ) as bar:
        for group in groups:
            missing = []
            for span in group:
                found = log.get(span.tokens)
                if found is None:
                    missing.append(span)
                else:
                    _write(answers, span, found)
                    bar.update(len(queries) * len(span.tokens))
            for spans in _batches(missing, lexicon):
                for span, rows in _generate(
                    reader, writer, queries, answers, spans, lexicon, options.sampling
                ):
                    _write(answers, span, rows)
                    log.put(span.tokens, rows)
                    bar.update(len(queries) * len(span.tokens))
    return lexicon.tokens(answers)


def estimate(
    llm: FrozenLLM,
    task: Task,
    queries: Sequence[Example],
    lexicon: Lexicon,
    *,
    mode: Mode = "par",
    stride: int = 4,
    options: Options | None = None,
) -> Cost:
    """What `decode` with the same arguments asks of a server: one request per query and segment, each prompt
    in full. Nothing is generated. Words that are refused and asked for again come on top."""
    groups = plan(lexicon.pyramid, mode, stride, options or Options())
    writer = Writer(llm, task)
    total = Cost()
    for span in (span for group in groups for span in group):
        shared = sum(len(section) for section in writer.shared(span))
        for query in queries:
            tail = writer.query(query, span, [0] * span.tokens.start)
            total += Cost(1, shared + len(tail), len(span.tokens))
    return total


def stream(query: int, span: Span) -> int:
    """The random stream of a query's segment, whatever else is generated."""
    return query << 32 | span.tokens.start


def _check(writer: Writer, queries: Sequence[Example], spans: Sequence[Span], num_tokens: int) -> None:
    for i, query in enumerate(queries):
        if query.answer:
            raise ValueError(f"queries[{i}]: expected no answer, got {query.answer!r:.80}")
    placeholder = [0] * num_tokens
    for span in spans:
        tail = max(len(writer.query(query, span, placeholder)) for query in queries)
        writer.check_fit(span, tail, len(span.tokens))
        examples = [token for section in writer.shared(span) for token in section]
        for query in queries:
            # Without the tokens to come: those are made to fit when they are generated.
            writer.llm.check(examples + writer.query(query, Span(range(0)), ()))


def _write(answers: list[list[int]], span: Span, rows: Sequence[Sequence[int]]) -> None:
    for answer, row in zip(answers, rows, strict=True):
        answer[span.tokens.start : span.tokens.stop] = row


def _batches(spans: Sequence[Span], lexicon: Lexicon) -> list[list[Span]]:
    """Independent passes that take the same ids at every position, so that they can run together."""
    batches: dict[tuple[int, ...], list[Span]] = {}
    for span in spans:
        batches.setdefault(tuple(id(lexicon.allowed(p)) for p in span.tokens), []).append(span)
    return list(batches.values())


class _Reader:
    """What the language model has read last, section by section; what a next prompt shares is not read
    again."""

    def __init__(self, llm: FrozenLLM) -> None:
        self.llm = llm
        self._chain: list[tuple[list[int], Prefix]] = []

    def read(self, sections: Sequence[list[int]]) -> Prefix | None:
        known = 0
        while known < min(len(self._chain), len(sections)) and self._chain[known][0] == sections[known]:
            known += 1
        del self._chain[known:]
        for section in sections[known:]:
            base = self._chain[-1][1] if self._chain else None
            self._chain.append((section, self.llm.prefix(section, base)))
        return self._chain[-1][1] if self._chain else None


def _generate(
    reader: _Reader,
    writer: Writer,
    queries: Sequence[Example],
    answers: list[list[int]],
    spans: Sequence[Span],
    lexicon: Lexicon,
    sampling: Sampling,
):
    """(span, the ids int of each query) for passes that do not depend on each other."""
    allowed = [lexicon.allowed(position) for position in spans[0].tokens]
    sections = {span: writer.shared(span) for span in spans}
    tails = {
        span: [writer.query(q, span, a) for q, a in zip(queries, answers, strict=True)] for span in spans
    }
    if len(spans) > 1 and len(queries) == 1:
        # Nobody shares a pass's own examples: the passes run as one batch behind what they all share.
        common = _common([sections[span] for span in spans])
        prompts = [
            [token for section in sections[span][common:] for token in section] + tails[span][0]
            for span in spans
        ]
        streams = [stream(0, span) for span in spans]
        rows = reader.llm.generate(
            prompts,
            len(allowed),
            prefix=reader.read(sections[spans[0]][:common]),
            allowed=allowed,
            sampling=sampling,
            streams=streams,
        ).tolist()
        yield from ((span, [row]) for span, row in zip(spans, rows, strict=True))
        return
    for span in spans:
        rows = reader.llm.generate(
            tails[span],
            len(allowed),
            prefix=reader.read(sections[span]),
            allowed=allowed,
            sampling=sampling,
            streams=[stream(query, span) for query in range(len(queries))],
        ).tolist()
        yield span, rows


def _common(prompts: Sequence[Sequence[list[int]]]) -> int:
    """How many leading sections all prompts share."""
    count = 0
    for sections in zip(*prompts, strict=False):
        if any(section != sections[0] for section in sections):
            break
        count += 1
    return count
