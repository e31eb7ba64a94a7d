"""Progressive decoding as it is defined: every segment's whole prompt is read anew, alone."""

from __future__ import annotations

from collections.abc import Sequence

from spae.incontext.decoding import Mode, Options, plan, stream
from spae.incontext.lexicon import Lexicon
from spae.incontext.prompts import Example, Task, Writer
from spae.llm import FrozenLLM
from spae.tokenizers import PyramidTokens


def decode_reference(
    llm: FrozenLLM,
    task: Task,
    queries: Sequence[Example],
    lexicon: Lexicon,
    *,
    mode: Mode = "par",
    stride: int = 4,
    options: Options | None = None,
) -> PyramidTokens:
    """What `decode` gives, without reuse, batches, log or progress: what it is tested and timed against."""
    options = options or Options()
    groups = plan(lexicon.pyramid, mode, stride, options)
    num_tokens = max(span.tokens.stop for group in groups for span in group)
    answers = [[0] * num_tokens for _ in queries]
    writer = Writer(llm, task)
    for span in (span for group in groups for span in group):
        for q, query in enumerate(queries):
            shared = [token for section in writer.shared(span) for token in section]
            row = llm.generate(
                [shared + writer.query(query, span, answers[q])],
                len(span.tokens),
                allowed=[lexicon.allowed(position) for position in span.tokens],
                sampling=options.sampling,
                streams=[stream(q, span)],
            )
            answers[q][span.tokens.start : span.tokens.stop] = row[0].tolist()
    return lexicon.tokens(answers)
