"""What a language model wrote, scored against what was meant."""

from __future__ import annotations

from collections.abc import Sequence

from spae.eval.statistics import Interval, mean
from spae.scorers import CaptionScorer


def similarity(texts: Sequence[str], meant: Sequence[str]) -> Interval:
    """The mean cosine of MiniLM's vectors of N >= 2 texts and of what each was meant to be, in [-1, 1]: about
    0.1 to 0.3 for words that have nothing to do with each other."""
    scorer = CaptionScorer()
    vectors = [scorer.text_features(list(side)) for side in (texts, meant)]
    found = mean((vectors[0] * vectors[1]).sum(1).clamp(-1, 1).cpu())
    return found._replace(low=max(-1.0, found.low), high=min(1.0, found.high))


def says(text: str, meant: str) -> bool:
    """Whether a text is exactly what was meant, whatever its case, white space around it and full stop."""
    return _bare(text) == _bare(meant)


def _bare(text: str) -> str:
    return text.strip().removesuffix(".").strip().casefold()
