"""In-context tasks: what a frozen language model is shown, what it is asked, and what counts as right."""

from spae.incontext.tasks.classification import Verdict, classification_task, classify
from spae.incontext.tasks.continuation import continuation_task, later_tokens
from spae.incontext.tasks.denoising import (
    DEGRADATIONS,
    RATES,
    Windows,
    answers_of,
    corrupt,
    denoising_task,
    hidden_tokens,
    majority,
    paired_task,
    restore_windows,
)
from spae.incontext.tasks.generation import captioned_images_task, image_query
from spae.incontext.tasks.masked import hidden_places, restore_masked, split_words
from spae.incontext.tasks.text import (
    END_OF_LINE,
    END_OF_SENTENCE,
    answer_text,
    caption_text,
    captioning_task,
    check_stop,
    question_about,
    vqa_task,
)

__all__ = [
    "DEGRADATIONS",
    "END_OF_LINE",
    "END_OF_SENTENCE",
    "RATES",
    "Verdict",
    "Windows",
    "answer_text",
    "answers_of",
    "caption_text",
    "captioned_images_task",
    "captioning_task",
    "check_stop",
    "classification_task",
    "classify",
    "continuation_task",
    "corrupt",
    "denoising_task",
    "hidden_places",
    "hidden_tokens",
    "image_query",
    "later_tokens",
    "majority",
    "paired_task",
    "question_about",
    "restore_masked",
    "restore_windows",
    "split_words",
    "vqa_task",
]
