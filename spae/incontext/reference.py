"""Progressive decoding as it is defined: every segment's whole prompt is read anew, alone."""

from __future__ import annotations

from collections.abc import Sequence

from spae.incontext.decoding import Drawn
from spae.incontext.lexicon import Lexicon
from spae.incontext.passes import Mode, Options, plan
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
    """What `decode` gives, without reuse, batches, log or progress: what it is tested and timed against.

    Raises ValueError for words of several ids."""
    options = options or Options()
    groups = plan(lexicon.pyramid, mode, stride, options)
    num_tokens = max(span.tokens.stop for group in groups for span in group)
    lexicon.check_single(range(num_tokens))
    drawn = Drawn.of(queries, num_tokens, options.best_of)
    writer = Writer(llm, task)
    for span in (span for group in groups for span in group):
        shared = [token for section in writer.shared(span) for token in section]
        ids, scores = [], []
        for tail, number in zip(drawn.tails(writer, span), drawn.streams(span), strict=True):
            row = llm.generate(
                [shared + tail],
                len(span.tokens),
                allowed=[lexicon.allowed(position) for position in span.tokens],
                sampling=options.sampling,
                streams=[number],
            ).tolist()
            ids += row
            if options.best_of > 1:
                scores.append(llm.logprobs([shared + tail], row)[0].double().sum().item())
        drawn.write(span, ids, scores or None)
    return lexicon.tokens(drawn.best())
