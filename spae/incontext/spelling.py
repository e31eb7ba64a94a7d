"""Progressive decoding of words of several ids."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from spae.codebook import WordIds
from spae.incontext.lexicon import Lexicon
from spae.incontext.log import SegmentLog
from spae.incontext.passes import Options, stream
from spae.incontext.prompts import Example, Span, Writer
from spae.incontext.reader import Reader
from spae.incontext.words import write_words
from spae.tokenizers import PyramidTokens


def decode_words(
    writer: Writer,
    queries: Sequence[Example],
    lexicon: Lexicon,
    groups: list[list[Span]],
    options: Options,
) -> PyramidTokens:
    """`decode` where words have several ids: pass by pass, each id by itself. Its arguments are checked."""
    if options.best_of > 1:
        raise ValueError(f"best_of: expected 1 where words have several ids, got {options.best_of}")
    llm, task = writer.llm, writer.task
    ends = llm.encode(task.template.after)[:1]
    if not ends:
        raise ValueError("task: expected a text after each answer where words have several ids, got none")
    spans = [span for group in groups for span in group]
    tries = [lexicon.trie(position) for position in range(max(span.tokens.stop for span in spans))]
    answers: list[list[WordIds]] = [[(0,) * trie.longest for trie in tries] for _ in queries]
    run = (llm.identity, task, tuple(queries), lexicon.fingerprint, groups, options.sampling)
    log, reader = SegmentLog(options.log, run), Reader(llm)
    total, hidden = len(queries) * len(tries), None if options.progress else True
    with tqdm(total=total, unit="word", disable=hidden) as bar:
        for span in spans:
            found = log.get(span.tokens)
            if found is None:
                pairs = zip(queries, answers, strict=True)
                found = write_words(
                    llm,
                    [writer.query(query, span, answer) for query, answer in pairs],
                    [tries[position] for position in span.tokens],
                    ends[0],
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
            bar.update(len(queries) * len(span.tokens))
    return lexicon.tokens(answers)
