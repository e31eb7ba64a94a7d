"""Progressive decoding of words of several ids."""

from __future__ import annotations

from collections.abc import Sequence

from spae.codebook import WordIds
from spae.incontext.lexicon import Lexicon
from spae.incontext.log import SegmentLog
from spae.incontext.passes import Options, stream
from spae.incontext.prompts import Example, Span, Task, Writer
from spae.incontext.reader import Reader
from spae.incontext.words import write_words
from spae.llm import FrozenLLM
from spae.tokenizers import PyramidTokens


def decode_words(
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
    log, reader = SegmentLog(options.log, run), Reader(llm)
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
