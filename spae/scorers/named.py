"""Scorers by the names that commands take."""

from __future__ import annotations

from spae.scorers.caption import CaptionScorer
from spae.scorers.conse import ConSEScorer
from spae.scorers.open_clip import OpenCLIPScorer
from spae.scorers.protocol import ImageTextScorer


def check_scorer(name: str) -> None:
    """Raises ValueError for a name that `load_scorer` does not know. Nothing is loaded."""
    kind, _, model = name.partition(":")
    architecture, _, checkpoint = model.partition("/")
    if name not in ("caption", "conse") and not (kind == "open_clip" and architecture and checkpoint):
        raise ValueError(
            f"scorer: expected caption, conse or open_clip:ARCHITECTURE/CHECKPOINT, got {name!r}"
        )


def load_scorer(name: str) -> ImageTextScorer:
    """A scorer by name.

    name: "caption", which reads images' names and no pixels; "conse"; or "open_clip:ARCHITECTURE/CHECKPOINT",
    whose checkpoint is a tag of open_clip's or a file, e.g. "open_clip:ViT-L-14/openai".

    Raises what `OpenCLIPScorer.load` and the others' `load` raise, and ValueError for another name.
    """
    check_scorer(name)
    if name == "caption":
        return CaptionScorer()
    if name == "conse":
        return ConSEScorer.load()
    architecture, _, checkpoint = name.partition(":")[2].partition("/")
    return OpenCLIPScorer.load(architecture, checkpoint)
