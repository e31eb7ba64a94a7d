"""tiktoken's cl100k from end to end: its codebook's words in prompts to a server, counted, sent and read as text."""

import re

import pytest
import torch

from spae import Codebook, assets, llm
from spae.assets.cl100k import ranks, ranks_file
from spae.incontext import Example, Lexicon, Task, Template, decode, estimate
from spae.llm.tokens import TiktokenTokenizer
from spae_ops import Pyramid

pytest.importorskip("httpx")
tiktoken = pytest.importorskip("tiktoken", reason="needs the package tiktoken")

PYRAMID = Pyramid.square(2, (1, 2))


@pytest.fixture(scope="module")
def codebook():
    """60 words of cl100k that stand in the middle of a sentence."""
    assets.fetch("cl100k", progress=False)
    whole = Codebook.load(
        "cl100k", encode=lambda texts: torch.tensor([[len(text), ord(text[0])] for text in texts])
    )
    rows = [row for row, word in enumerate(whole.words) if re.fullmatch(" [a-z]{5,}", word)]
    return whole.subset(torch.tensor(rows[:60]))


def written(codebook, number):
    """What a server that counts on writes next, some words on from the last."""
    return "".join(codebook.words[(7 * number + place) % len(codebook)] for place in range(5))


def served(serve, codebook, **options):
    """A fake server that writes what its own tokenizer's count of the prompt says, and the model behind it."""
    encoding = tiktoken.Encoding(
        "own",
        pat_str=r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        mergeable_ranks=ranks(ranks_file()),
        special_tokens={},
    )
    counts = []

    def answer(body):
        prompt = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
        counts.append(len(encoding.encode_ordinary(prompt)))
        return written(codebook, counts[-1])

    server, _ = serve(answer)
    model = llm.load(
        server.url, **({"tokenizer": "cl100k", "model": "fake", "context_window": 300} | options)
    )
    return server, model, counts


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_images_are_drawn_in_its_words(serve, codebook, endpoint):
    server, model, counts = served(serve, codebook, endpoint=endpoint)
    lexicon = Lexicon(codebook, PYRAMID, model)
    answers = [tuple(codebook.llm_ids[first : first + 5].tolist()) for first in (0, 5)]
    task = Task(Template(before="an image of "), tuple(map(Example, ("a fox", "it's 1,234 hens"), answers)))
    tokens = decode(model, task, [Example("two owls")], lexicon, stride=5)
    assert server.bodies
    texts = [
        body["prompt"] if endpoint == "completions" else body["messages"][0]["content"]
        for body in server.bodies
    ]
    assert "".join(codebook.words[:5]) in texts[-1]
    assert "it's 1,234 hens" in texts[-1]
    assert tokens.ids.shape == (1, 5)
    assert codebook.words[tokens.ids[0, -1]] in written(codebook, counts[-1])
    # The ids counted here are those that the server's own tokenizer makes of the text.
    assert model.spent == estimate(model, task, [Example("two owls")], lexicon, stride=5)
    assert model.spent.prompt_tokens == sum(counts)


def test_a_prompt_that_does_not_fit_is_counted_before_anything_is_sent(serve, codebook):
    server, model, _ = served(serve, codebook, context_window=20)
    with pytest.raises(
        llm.ContextOverflow, match="expected at most 20 tokens, fake's context window, got 15 and 6"
    ):
        model.generate([model.encode(" dog" * 15)], 6)
    assert not server.bodies


def test_control_tokens_are_never_sent(serve, codebook):
    server, model, _ = served(serve, codebook)
    assert model.special_ids == {100257, 100258, 100259, 100260, 100276}
    with pytest.raises(
        ValueError, match=r"expected no control token, .* got id 100257 \('<\|endoftext\|>'\) at position 1"
    ):
        model.generate([model.encode("so<|endoftext|>")], 1)
    assert not server.bodies


def test_a_codebook_of_another_vocabulary_is_refused(serve, codebook):
    _, model, _ = served(serve, codebook)
    other = Codebook.from_arrays(list(codebook.words), codebook.vectors, codebook.llm_ids + 1, name="other")
    with pytest.raises(ValueError, match="codebook: expected the words of fake"):
        Lexicon(other, PYRAMID, model)


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tiktoken", None)
    with pytest.raises(ImportError, match="the tokenizer cl100k needs tiktoken: pip install tiktoken"):
        TiktokenTokenizer.cl100k()
