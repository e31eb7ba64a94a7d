"""In-context learning with a frozen language model: prompts, progressive decoding, tasks."""

from spae.incontext.borrowed import borrow_words
from spae.incontext.decoding import decode, estimate
from spae.incontext.lexicon import Lexicon, seen_masks
from spae.incontext.passes import Options, segments
from spae.incontext.prompts import Example, Prompt, Task, Template, prompt

__all__ = [
    "Example",
    "Lexicon",
    "Options",
    "Prompt",
    "Task",
    "Template",
    "borrow_words",
    "decode",
    "estimate",
    "prompt",
    "seen_masks",
    "segments",
]
