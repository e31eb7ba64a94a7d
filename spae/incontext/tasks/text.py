"""Text about images: captions, and answers to questions (SPAE sections 4.1 and 4.2; V2L)."""

from __future__ import annotations

from collections.abc import Sequence

from spae.codebook import WordIds
from spae.incontext.prompts import Content, Example, Task, Template, prompt
from spae.llm import GREEDY, FrozenLLM, Sampling

_CAPTION = Template(
    preamble="Generate a caption sentence based on words describing an image.\n",
    before="Input:",
    between=" Output:",
    after="\n",
)
_ANSWER = Template(
    preamble="Answer the question with a single word based on the condition.\n",
    before="Condition:",
    between=" Answer:",
    after="\n",
)


def captioning_task(images: Sequence[Sequence[WordIds]], captions: Sequence[str]) -> Task:
    """Examples of images, as the model's ids of their words, with a caption each."""
    _check_count("captions", captions, images)
    pairs = zip(images, captions, strict=True)
    return Task(_CAPTION, tuple(Example(tuple(words), f" {caption}") for words, caption in pairs))


def vqa_task(images: Sequence[Sequence[WordIds]], questions: Sequence[str], answers: Sequence[str]) -> Task:
    """Examples of images, as the model's ids of their words, with a question and its answer each."""
    _check_count("questions", questions, images)
    _check_count("answers", answers, images)
    rows = zip(images, questions, answers, strict=True)
    return Task(_ANSWER, tuple(Example(question_about(w, q), f" {a}") for w, q, a in rows))


def _check_count(name: str, texts: Sequence[str], images: Sequence[Sequence[WordIds]]) -> None:
    if len(texts) != len(images):
        raise ValueError(f"{name}: expected {len(images)}, one for each image, got {len(texts)}")


def question_about(words: Sequence[WordIds], question: str) -> Content:
    """An image's words and a question, if there is one, as the condition of a VQA example."""
    return (tuple(words), f" Question: {question}") if question else (tuple(words),)


END_OF_LINE = ("\n",)
"""Where an answer ends: every example is a line."""
END_OF_SENTENCE = (".", "\n")
"""Where a caption ends: V2L's is the token ".", and here no caption goes on into the next example."""


def check_stop(stop: Sequence[str]) -> None:
    """Raises ValueError unless these are texts of at least a character, and at least one."""
    if isinstance(stop, str) or not stop or not all(isinstance(text, str) and text for text in stop):
        raise ValueError(f"stop: expected texts of at least a character, got {stop!r}")


def answer_text(
    llm: FrozenLLM,
    task: Task,
    condition: Content,
    *,
    stop: Sequence[str] = END_OF_LINE,
    max_tokens: int = 32,
    sampling: Sampling = GREEDY,
) -> str:
    """What the model writes after the condition, up to the first token of one of `stop`, which is left out,
    or `max_tokens` tokens."""
    check_stop(stop)
    ids = prompt(llm, task, Example(condition), max_tokens).ids
    ends = [llm.encode(text)[0] for text in stop]
    written = llm.generate([ids], max_tokens, sampling=sampling, stop=ends)[0].tolist()
    return llm.decode([token for token in written if token >= 0]).strip()


def caption_text(
    llm: FrozenLLM,
    task: Task,
    words: Sequence[WordIds],
    *,
    stop: Sequence[str] = END_OF_SENTENCE,
    max_tokens: int = 32,
    sampling: Sampling = GREEDY,
) -> str:
    """The caption that the model writes for an image, its words as the model's ids: `answer_text` to the end
    of the sentence, without its full stop."""
    return answer_text(llm, task, tuple(words), stop=stop, max_tokens=max_tokens, sampling=sampling)
