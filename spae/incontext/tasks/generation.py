"""Images from text: "an image of 1+7" after examples of captioned images (SPAE section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence

from spae.codebook import WordIds
from spae.incontext.prompts import Example, Task, Template

_TEMPLATE = Template(before="", between=":", after="\n")


def captioned_images_task(images: Sequence[Sequence[WordIds]], captions: Sequence[str]) -> Task:
    """Examples "an image of CAPTION: words".

    images: each image's words as the model's ids, of at least the layers to generate.
    """
    if len(images) != len(captions):
        raise ValueError(f"captions: expected {len(images)}, one for each image, got {len(captions)}")
    pairs = zip(captions, images, strict=True)
    return Task(_TEMPLATE, tuple(Example(_condition(caption), tuple(words)) for caption, words in pairs))


def image_query(caption: str) -> Example:
    """What asks for an image of `caption`, written like the task's examples."""
    return Example(_condition(caption))


def _condition(caption: str) -> str:
    return f"an image of {caption}"
