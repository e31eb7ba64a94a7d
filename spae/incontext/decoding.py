"""Progressive in-context decoding (SPAE section 3.2, eqs. 10 and 11)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tqdm import tqdm

from spae.incontext.lexicon import Lexicon
from spae.incontext.log import SegmentLog
from spae.incontext.passes import Mode, Options, plan, stream
from spae.incontext.prompts import Example, Span, Task, Writer
from spae.incontext.reader import Reader
from spae.incontext.spelling import decode_words
from spae.llm import Cost, FrozenLLM, Prefix, Sampling
from spae.tokenizers import PyramidTokens

Written = tuple[Span, list[list[int]], list[float] | None]
"""A pass: its span, the ids of each image, and their log-probability if it was asked for."""


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
    writer = Writer(llm, task)
    num_tokens = max(span.tokens.stop for group in groups for span in group)
    _check(writer, queries, [span for group in groups for span in group], lexicon.lengths(num_tokens))
    if lexicon.longest(options.num_layers) > 1:
        return decode_words(writer, queries, lexicon, groups, options)
    drawn = Drawn.of(queries, num_tokens, options.best_of)
    run = (llm.identity, task, tuple(queries), lexicon.fingerprint, groups, options.sampling)
    log = SegmentLog(options.log, run if options.best_of == 1 else (*run, options.best_of))
    total, hidden = len(drawn.rows) * num_tokens, None if options.progress else True
    with tqdm(total=total, unit="token", disable=hidden) as bar:
        for span, ids, scores in _passes(writer, drawn, groups, lexicon, options.sampling, log):
            drawn.write(span, ids, scores)
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
    that are refused and asked for again come on top.

    Raises ValueError for words of several ids: how many are asked for depends on what is written."""
    options = options or Options()
    groups = plan(lexicon.pyramid, mode, stride, options)
    lexicon.check_single(range(max(span.tokens.stop for group in groups for span in group)))
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


def _check(writer: Writer, queries: Sequence[Example], spans: Sequence[Span], lengths: Sequence[int]) -> None:
    """lengths: how many ids the word at each position has at most."""
    for i, query in enumerate(queries):
        if query.answer:
            raise ValueError(f"queries[{i}]: expected no answer, got {query.answer!r:.80}")
    placeholder = [(0,) * length for length in lengths]
    for span in spans:
        tail = max(len(writer.query(query, span, placeholder)) for query in queries)
        writer.check_fit(span, tail, sum(lengths[position] for position in span.tokens))
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


def _passes(
    writer: Writer,
    drawn: Drawn,
    groups: list[list[Span]],
    lexicon: Lexicon,
    sampling: Sampling,
    log: SegmentLog,
) -> Iterator[Written]:
    """Every pass, as the log has it or else written now; what is drawn so far is read in each."""
    reader = Reader(writer.llm)
    in_blocks = any(span.blocks for group in groups for span in group)
    for group in groups:
        missing = []
        for span in group:
            found = log.get(span.tokens)
            if found is None:
                missing.append(span)
            else:
                yield span, found, log.scores(span.tokens)
        for spans in _batches(missing, lexicon):
            for span, ids, scores in _generate(reader, writer, drawn, spans, lexicon, sampling, in_blocks):
                log.put(span.tokens, ids, scores)
                yield span, ids, scores


def _generate(
    reader: Reader,
    writer: Writer,
    drawn: Drawn,
    spans: Sequence[Span],
    lexicon: Lexicon,
    sampling: Sampling,
    in_blocks: bool,
) -> Iterator[Written]:
    """Passes that do not depend on each other. in_blocks: a pass's examples begin as those before do."""
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
        tails, read = drawn.tails(writer, span), sections[span]
        if len(tails) == 1 and not in_blocks:  # nobody else reads these examples: all in one go
            tails = [[token for section in (*read[1:], *tails) for token in section]]
            read = read[:1]
        yield span, *ask(tails, read, drawn.streams(span))


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
