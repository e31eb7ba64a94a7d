"""Words of several ids: in prompts, and written where nothing else may be."""

from __future__ import annotations

from itertools import product
from typing import Any, cast

import pytest
import torch

from spae import Codebook, PyramidTokens
from spae.incontext import Example, Lexicon, Options, Task, Template, decode, estimate, prompt
from spae.incontext.reference import decode_reference
from spae.incontext.tasks import denoising_task, restore_windows
from spae.incontext.words import Trie, ids_of, write_words
from spae.llm import ContextOverflow, Sampling
from spae_ops import Pyramid

pytest.importorskip("transformers", reason="the tiny language model is one of transformers")

from spae.testing.tiny_llm import tiny_llm

PYRAMID = Pyramid.square(2, (1, 2))
WORDS = [60, (60, 61), (60, 61, 62), 70, (80, 81), (82, 83), (82, 84)]
TEMPLATE = Template(before="Input:", between=" Output:", after="\n")


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


def lexicon(llm, words=WORDS, masks=None):
    ids = torch.tensor([[*ids_of(word), -1, -1][:3] for word in words])
    names = [f"<{i}>" for i in range(len(words))]
    return Lexicon(Codebook.from_arrays(names, torch.randn(len(words), 4), ids), PYRAMID, llm, masks)


def test_words_and_back(llm):
    lex = lexicon(llm)
    tokens = PyramidTokens(torch.tensor([[1, 0, 3, 2, 6], [4, 4, 4, 4, 4]]), PYRAMID)
    words = lex.llm_ids(tokens)
    assert words == [((60, 61), 60, 70, (60, 61, 62), (82, 84)), ((80, 81),) * 5]
    assert lex.tokens(words) == tokens
    assert lex.word((82, 84)) == "<6>"
    assert lex.longest() == 3
    assert lex.allowed(0).tolist() == [60, 70, 80, 82]
    with pytest.raises(
        ValueError, match=r"expected ids of words of codebook .*, got \(60, 62\) at position 1"
    ):
        lex.tokens([(60, (60, 62), 70, 70, 70)])


def test_prompts_carry_them(llm):
    tokens = PyramidTokens(torch.tensor([[1, 0, 3, 2, 6]]), PYRAMID)
    words = lexicon(llm).llm_ids(tokens)[0]
    flat = (60, 61, 60, 70, 60, 61, 62, 82, 84)
    for several, single in ((words, flat), ((words, " what?"), (flat, " what?"))):
        task = Task(TEMPLATE, (Example(several, " yes"),))
        plain = Task(TEMPLATE, (Example(single, " yes"),))
        assert prompt(llm, task, Example(several), 3) == prompt(llm, plain, Example(single), 3)


def every_way(tries):
    """All sequences of one word of each trie."""
    return list(product(*(trie.words for trie in tries)))


def greedy_by_definition(llm, start, tries, end):
    """Id by id over all sequences of words that are left, each with `end` behind."""
    left = [(*(t for word in words for t in word), end) for words in every_way(tries)]
    written = ()
    while len(written) == 0 or written[-1] != end or len(left) > 1:
        options = sorted({way[len(written)] for way in left if len(way) > len(written)})
        scores = torch.cat(llm.logprobs([[*start, *written]] * len(options), [[o] for o in options]))
        written = (*written, options[int(scores.argmax())])
        left = [way for way in left if way[: len(written)] == written]
    return written[:-1]


@pytest.mark.parametrize("start", [[10], [33, 44], [71, 5, 9], [100], [7, 7], [250]])
def test_what_is_written_is_what_the_model_would_write(llm, start):
    # No word here begins with what may go on another: the words are told apart by their ids.
    tries = [Trie([60, (60, 61), (60, 61, 62), (80, 81)]), Trie([70, (82, 83), (82, 84)])]
    (words,) = write_words(llm, [start], tries, 11)
    assert tuple(t for word in words for t in ids_of(word)) == greedy_by_definition(llm, start, tries, 11)
    assert all(ids_of(word) in trie for word, trie in zip(words, tries, strict=True))


def test_rows_do_not_depend_on_each_other(llm):
    tries = [Trie(WORDS), Trie(WORDS), Trie([5])]
    starts = [[10], [33, 44], [71, 5, 9], [10]]
    for sampling in (Sampling(), Sampling(temperature=1.5, seed=3)):
        streams = [1, 2, 3, 4]
        together = write_words(llm, starts, tries, 11, sampling=sampling, streams=streams)
        alone = [
            write_words(llm, [start], tries, 11, sampling=sampling, streams=[one])[0]
            for start, one in zip(starts, streams, strict=True)
        ]
        assert together == alone
        assert all(words[-1] == 5 for words in together)
    assert (
        len(
            {
                tuple(write_words(llm, [[10]], tries, 11, sampling=Sampling(temperature=5.0, seed=s))[0])
                for s in range(8)
            }
        )
        > 2
    )


def task_of(lex, count=3):
    ids = torch.randint(len(WORDS), (count, 5), generator=torch.Generator().manual_seed(1))
    words = lex.llm_ids(PyramidTokens(ids, PYRAMID))
    return Task(TEMPLATE, tuple(Example(f" {i}", word) for i, word in enumerate(words)))


@pytest.mark.parametrize("layout", ["examples", "segments"])
@pytest.mark.parametrize("mode", ["par", "pnar"])
def test_decoding_gives_words_of_each_layer(llm, mode, layout, tmp_path):
    masks = [torch.tensor([i in rows for i in range(len(WORDS))]) for rows in ((1, 2, 4), (0, 3, 5, 6))]
    lex = lexicon(llm, masks=masks)
    options = Options(layout=layout, log=tmp_path / "log")
    task = task_of(lex)
    queries = [Example(" 7"), Example(" 8")]
    tokens = decode(llm, task, queries, lex, mode=mode, stride=2, options=options)
    assert tokens.ids.shape == (2, 5)
    assert masks[0][tokens.layer(0)].all()
    assert masks[1][tokens.layer(1)].all()

    # From the log: nothing is generated.
    class Silent:
        def __getattr__(self, name):
            assert name not in ("generate", "logprobs", "likeliest"), name
            return getattr(llm, name)

    again = decode(cast(Any, Silent()), task, queries, lex, mode=mode, stride=2, options=options)
    assert again == tokens
    assert (
        decode(llm, task, queries[1:], lex, mode=mode, stride=2, options=Options(layout=layout)) == tokens[1]
    )


@pytest.mark.parametrize(
    ("query", "template", "message"),
    [
        (Example(" 7", (60,)), TEMPLATE, r"queries\[0\]: expected no answer, got \(60,\)"),
        (Example(((400,), " 7")), TEMPLATE, r"expected ids 0 to \d+, got 400"),
        (
            Example(" 7"),
            Template(before="Input:", between=" Output:", after=""),
            "task: expected a text after",
        ),
    ],
)
def test_what_cannot_be_decoded_is_refused_as_words_of_one_id_are(llm, query, template, message):
    lex = lexicon(llm)
    task = Task(template, task_of(lex).examples)
    with pytest.raises(ValueError, match=message):
        decode(llm, task, [query], lex)


def test_a_prompt_that_just_fits_is_decoded():
    """Every word may be the longest: nothing is written behind it."""
    wide = tiny_llm()
    lex = lexicon(wide)
    task, query = task_of(lex), Example(" 7")
    need = len(prompt(wide, task, query, 0).ids) + 5 * 3
    exact, tight = tiny_llm(context=need), tiny_llm(context=need - 1)
    options = Options(layout="examples")
    assert len(decode(exact, task, [query], lexicon(exact), stride=5, options=options)) == 1
    with pytest.raises(ContextOverflow, match=r"tokens 0 to 4 \(15\)"):
        decode(tight, task, [query], lexicon(tight), stride=5, options=options)


def test_progress_counts_words(llm, monkeypatch):
    from spae.incontext import spelling

    bars = []

    class Bar(spelling.tqdm):
        def __init__(self, **options):
            super().__init__(**{**options, "disable": False})
            bars.append((self, options))

    monkeypatch.setattr(spelling, "tqdm", Bar)
    lex = lexicon(llm)
    for progress in (False, True):
        decode(llm, task_of(lex), [Example(" 7"), Example(" 8")], lex, options=Options(progress=progress))
    assert [options["disable"] for _, options in bars] == [True, None]
    assert [(bar.n, bar.total) for bar, _ in bars] == [(10, 10)] * 2


def test_what_takes_words_of_one_id_alone_says_so(llm):
    lex = lexicon(llm)
    task, query = task_of(lex), [Example(" 7")]
    message = "lexicon: expected words of one id each, got words of up to 3 at position 0"
    with pytest.raises(ValueError, match=message):
        estimate(llm, task, query, lex)
    with pytest.raises(ValueError, match=message):
        decode_reference(llm, task, query, lex)
    masks = [torch.tensor([i in rows for i in range(len(WORDS))]) for rows in ((1, 2), (0, 3))]
    mixed = lexicon(llm, masks=masks)
    original = PyramidTokens(torch.tensor([[1, 0, 3, 0, 3]]), PYRAMID)
    task, one = denoising_task(original, original, mixed, condition_layers=2)
    hidden = torch.tensor([True, False, False, False, True])
    with pytest.raises(ValueError, match="of up to 3 at position 0"):
        restore_windows(llm, task, one, mixed, hidden)
    hidden[0] = False  # the others' words have one id
    restored = restore_windows(llm, task, one, mixed, hidden)
    assert restored[:4] == one.condition[:4]
    assert restored[4] in (60, 70)
    for wrong, got in ((hidden[:4], r"torch.bool \[4\]"), (hidden.long(), r"torch.int64 \[5\]")):
        with pytest.raises(ValueError, match=rf"hidden: expected torch.bool \[5\] or longer, got {got}"):
            restore_windows(llm, task, one, mixed, wrong)


def test_words_of_one_id_are_decoded_as_they_were(llm):
    """A table of phrases whose layers take only words of one id, and the table of these alone."""
    single = [60, 70, 90, 120, 33]
    plain = lexicon(llm, single)
    mixed = lexicon(llm, [*single, (80, 81)], torch.tensor([True] * 5 + [False]))
    ids = torch.randint(5, (3, 5), generator=torch.Generator().manual_seed(1))
    tokens = PyramidTokens(ids, PYRAMID)
    assert plain.llm_ids(tokens) == mixed.llm_ids(tokens)
    assert mixed.longest() == 1
    task = Task(TEMPLATE, tuple(Example(f" {i}", w) for i, w in enumerate(plain.llm_ids(tokens))))
    found = [decode(llm, task, [Example(" 7")], one, stride=2) for one in (plain, mixed)]
    assert found[0] == found[1]


def test_special_ids_are_in_no_word(llm):
    end = next(iter(llm.special_ids))
    trie = Trie([5, (5, end), end], llm.special_ids)
    assert trie.words == [(5,)]
    with pytest.raises(ValueError, match="masks: expected a word that may be generated in each layer"):
        lexicon(llm, [60, (61, end)], torch.tensor([False, True]))
