"""Progressive in-context decoding (SPAE section 3.2, eqs. 10 and 11)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from tqdm import tqdm

from spae.codebook import WordIds
from spae.incontext.lexicon import Lexicon
from spae.incontext.log import SegmentLog
from spae.incontext.prompts import Example, Span, Task, Writer
from spae.incontext.words import write_words
from spae.llm import GREEDY, Cost, FrozenLLM, Prefix, Sampling
from spae.tokenizers import PyramidTokens
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
    in its layer, so the result always decodes. Words of several ids are written id by id (`write_words`).

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
    if lexicon.longest(options.num_layers) > 1:
        return _decode_words(llm, task, queries, lexicon, groups, options)
    writer = Writer(llm, task)
    num_tokens = max(span.tokens.stop for group in groups for span in group)
    _check(writer, queries, [span for group in groups for span in group], num_tokens)
    drawn = Drawn.of(queries, num_tokens, options.best_of)
    run = (llm.identity, task, tuple(queries), lexicon.fingerprint, groups, options.sampling)
    log = SegmentLog(options.log, run if options.best_of == 1 else (*run, options.best_of))
    reader = _Reader(llm)
    with tqdm(
        total=len(drawn.rows) * num_tokens, unit="token", disable=None if options.progress else True
    ) as bar:
        for group in groups:
            missing = []
            for span in group:
                found = log.get(span.tokens)
                if found is None:
                    missing.append(span)
                else:
                    drawn.write(span, found, log.scores(span.tokens))
                    bar.update(len(drawn.rows) * len(span.tokens))
            for spans in _batches(missing, lexicon):
                for span, ids, scores in _generate(reader, writer, drawn, spans, lexicon, options.sampling):
                    drawn.write(span, ids, scores)
                    log.put(span.tokens, ids, scores)
                    bar.update(len(drawn.rows) * len(span.tokens))
    return lexicon.tokens(drawn.best())


@dataclass
class Drawn:
    """The images that a run draws: each query's samples, one after the other.

    rows: (query, number of the sample) of each image. answers: its ids so far. scores: its log-probability;
    stays 0 where there is one sample a query.
    """

    queries: Sequence[Example]
    rows: list[tuple[int, int]]
    answers: list[list[int]]
    scores: list[float]
    best_of: int

    @classmethod
    def of(cls, queries: Sequence[Example], num_tokens: int, best_of: int) -> Drawn:
        rows = [(query, sample) for query in range(len(queries)) for sample in range(best_of)]
        return cls(queries, rows, [[0] * num_tokens for _ in rows], [0.0] * len(rows), best_of)

    def tails(self, writer: Writer, span: Span) -> list[list[int]]:
        """Each image's lines of a pass."""
        return [
            writer.query(self.queries[query], span, answer)
            for (query, _), answer in zip(self.rows, self.answers, strict=True)
        ]

    def streams(self, span: Span) -> list[int]:
        return [stream(query, span, sample) for query, sample in self.rows]

    def write(self, span: Span, ids: Sequence[Sequence[int]], scores: Sequence[float] | None) -> None:
        for row, answer in enumerate(self.answers):
            answer[span.tokens.start : span.tokens.stop] = ids[row]
            self.scores[row] += 0.0 if scores is None else scores[row]

    def best(self) -> list[list[int]]:
        """Each query's likeliest image, the first of equals."""
        starts = range(0, len(self.rows), self.best_of)
        likeliest = (max(range(i, i + self.best_of), key=self.scores.__getitem__) for i in starts)
        return [self.answers[row] for row in likeliest]


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
    in full; with `best_of`, that many, and as many again for the probabilities. Nothing is generated. Words
    that are refused and asked for again come on top."""
    options = options or Options()
    groups = plan(lexicon.pyramid, mode, stride, options)
    writer = Writer(llm, task)
    total = Cost()
    for span in (span for group in groups for span in group):
        shared = sum(len(section) for section in writer.shared(span))
        for query in queries:
            tail = writer.query(query, span, [0] * span.tokens.start)
            length, count = shared + len(tail), len(span.tokens)
            for _ in range(options.best_of):
                total += Cost(1, length, count)
                if options.best_of > 1:
                    total += Cost(1, length + count, 1)
    return total


def stream(query: int, span: Span, sample: int = 0) -> int:
    """The random stream of a query's segment, whatever else is generated."""
    return sample << 56 | query << 32 | span.tokens.start


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
    drawn: Drawn,
    spans: Sequence[Span],
    lexicon: Lexicon,
    sampling: Sampling,
) -> Iterator[tuple[Span, list[list[int]], list[float] | None]]:
    """(span, the ids of each image, their log-probability) for passes that do not depend on each other."""
    allowed = [lexicon.allowed(position) for position in spans[0].tokens]
    sections = {span: writer.shared(span) for span in spans}

    def ask(
        prompts: list[list[int]], read: list[list[int]], streams: list[int]
    ) -> tuple[list[list[int]], list[float] | None]:
        options = {"allowed": allowed, "sampling": sampling, "streams": streams}
        return _asked(reader.llm, prompts, reader.read(read), drawn.best_of > 1, options)

    if len(spans) > 1 and len(drawn.rows) == 1:
        # Nobody shares a pass's own examples: the passes run as one batch behind what they all share.
        common = _common([sections[span] for span in spans])
        prompts = [
            [token for section in sections[span][common:] for token in section] + drawn.tails(writer, span)[0]
            for span in spans
        ]
        streams = [drawn.streams(span)[0] for span in spans]
        rows, _ = ask(prompts, sections[spans[0]][:common], streams)
        yield from ((span, [row], None) for span, row in zip(spans, rows, strict=True))
        return
    for span in spans:
        yield span, *ask(drawn.tails(writer, span), sections[span], drawn.streams(span))


def _asked(
    llm: FrozenLLM, prompts: list[list[int]], prefix: Prefix | None, scored: bool, options: dict[str, Any]
) -> tuple[list[list[int]], list[float] | None]:
    """What the model writes and, if asked for, the log-probability of each row."""
    num_tokens = len(options["allowed"])
    if not scored:
        return llm.generate(prompts, num_tokens, prefix=prefix, **options).tolist(), None
    if hasattr(llm, "generate_scored"):  # some know them already
        ids, scores = cast(Any, llm).generate_scored(prompts, num_tokens, prefix=prefix, **options)
        return ids.tolist(), scores.double().sum(1).tolist()
    ids = llm.generate(prompts, num_tokens, prefix=prefix, **options).tolist()
    return ids, [row.double().sum().item() for row in llm.logprobs(prompts, ids, prefix=prefix)]


def _common(prompts: Sequence[Sequence[list[int]]]) -> int:
    """How many leading sections all prompts share."""
    count = 0
    for sections in zip(*prompts, strict=False):
        if any(section != sections[0] for section in sections):
            break
        count += 1
    return count


def _decode_words(
    llm: FrozenLLM,
    task: Task,
    queries: Sequence[Example],
    lexicon: Lexicon,
    groups: list[list[Span]],
    options: Options,
) -> PyramidTokens:
    """`decode` where words have several ids: pass by pass, each id by itself."""
    if options.best_of > 1:
        raise ValueError(f"best_of: expected 1 where words have several ids, got {options.best_of}")
    writer = Writer(llm, task)
    spans = [span for group in groups for span in group]
    num_tokens = max(span.tokens.stop for span in spans)
    tries = [lexicon.trie(position) for position in range(num_tokens)]
    end = llm.encode(task.template.after)[0]
    answers: list[list[WordIds]] = [[(0,) * trie.longest for trie in tries] for _ in queries]
    for span in spans:
        tail = max(len(writer.query(query, span, answers[0])) for query in queries)
        writer.check_fit(span, tail, sum(tries[position].longest for position in span.tokens) + 1)
    run = (llm.identity, task, tuple(queries), lexicon.fingerprint, groups, options.sampling)
    log, reader = SegmentLog(options.log, run), _Reader(llm)
    for span in spans:
        found = log.get(span.tokens)
        if found is None:
            found = write_words(
                llm,
                [writer.query(query, span, answer) for query, answer in zip(queries, answers, strict=True)],
                [tries[position] for position in span.tokens],
                end,
                prefix=reader.read(writer.shared(span)),
                sampling=options.sampling,
                streams=[stream(query, span) for query in range(len(queries))],
            )
            log.put(span.tokens, found)
        for answer, words in zip(answers, found, strict=True):
            # A log gives lists where words are tuples.
            answer[span.tokens.start : span.tokens.stop] = [
                word if isinstance(word, int) else tuple(word) for word in words
            ]
    return lexicon.tokens(answers)
