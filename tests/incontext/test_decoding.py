import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers")

from spae import Codebook, PyramidTokens
from spae.incontext import Example, Lexicon, Options, Task, Template, decode, estimate, seen_masks, segments
from spae.incontext.passes import plan
from spae.incontext.reference import decode_reference
from spae.llm import ContextOverflow, Sampling
from spae.testing.tiny_llm import VOCABULARY, tiny_llm, tiny_words
from spae_ops import Pyramid

PYRAMID = Pyramid.square(4, (1, 2, 4))  # 1, 4 and 16 tokens
WORDS = 120


class Counting:
    """A model that counts what it is asked, and can fail. It does only what the protocol asks for."""

    def __init__(self, llm, fail_after=None):
        self._llm, self.calls, self.read, self.fail_after = llm, 0, 0, fail_after

    def __getattr__(self, name):
        if name == "generate_scored":
            raise AttributeError(name)
        return getattr(self._llm, name)

    def prefix(self, ids, base=None):
        self.read += len(ids)
        return self._llm.prefix(ids, base)

    def generate(self, prompts, *arguments, **options):
        if self.calls == self.fail_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.read += sum(map(len, prompts))
        return self._llm.generate(prompts, *arguments, **options)


@pytest.fixture(scope="module")
def tiny():
    return tiny_llm()


@pytest.fixture(scope="module")
def codebook(tiny):
    # Rows in another order than ids, so that mixing them up shows.
    ids = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(0))[:WORDS]
    vectors = torch.randn(WORDS, 4, generator=torch.Generator().manual_seed(1))
    return Codebook.from_arrays(tiny_words(tiny, ids), vectors, ids)


def images(count, seed=0, pyramid=PYRAMID):
    generator = torch.Generator().manual_seed(seed)
    return PyramidTokens(torch.randint(0, WORDS, (count, pyramid.num_tokens), generator=generator), pyramid)


@pytest.fixture(scope="module")
def lexicon(codebook, tiny):
    return Lexicon(codebook, PYRAMID, tiny)


@pytest.fixture(scope="module")
def task(lexicon):
    answers = lexicon.llm_ids(images(4))
    return Task(Template(before="an image of "), tuple(Example(str(i), ids) for i, ids in enumerate(answers)))


QUERIES = [Example("1+7"), Example("9"), Example("the lazy dog")]


@pytest.mark.parametrize("layout", ["examples", "segments"])
@pytest.mark.parametrize(
    ("mode", "stride", "par_layers", "num_layers"),
    [("par", 1, None, 2), ("par", 4, None, None), ("par", 100, None, None), ("pnar", 4, None, None), ("par", 3, 2, None)],
)  # fmt: skip
@pytest.mark.parametrize("num_queries", [1, 3])
def test_it_gives_what_reading_every_prompt_in_full_gives(
    tiny, task, lexicon, layout, mode, stride, par_layers, num_layers, num_queries
):
    for sampling in (Sampling(), Sampling(temperature=1.0, top_k=50, seed=2)):
        options = Options(layout=layout, par_layers=par_layers, num_layers=num_layers, sampling=sampling)
        arguments = (task, QUERIES[:num_queries], lexicon)
        got = decode(tiny, *arguments, mode=mode, stride=stride, options=options)
        expected = decode_reference(tiny, *arguments, mode=mode, stride=stride, options=options)
        assert torch.equal(got.ids, expected.ids)
        assert len(got) == num_queries
        assert got.num_layers == (num_layers or 3)


HOT = Sampling(temperature=2.0, top_p=0.9, seed=4)


@pytest.mark.parametrize(
    ("mode", "stride", "par_layers"), [("par", 3, None), ("pnar", 4, None), ("par", 2, 1)]
)
@pytest.mark.parametrize("layout", ["examples", "segments"])
def test_the_best_of_some_is_the_likeliest(tiny, task, lexicon, layout, mode, stride, par_layers, tmp_path):
    """As the reference scores them, whether the model knows the probabilities already or is asked for them,
    and when a stopped run goes on."""
    options = Options(layout=layout, par_layers=par_layers, num_layers=2, sampling=HOT, best_of=4)
    arguments = (task, QUERIES[:2], lexicon)
    expected = decode_reference(tiny, *arguments, mode=mode, stride=stride, options=options)
    logged = dataclasses.replace(options, log=tmp_path / "log.jsonl")
    with pytest.raises(KeyboardInterrupt):
        decode(Counting(tiny, fail_after=1), *arguments, mode=mode, stride=stride, options=logged)
    for model, chosen in ((tiny, options), (Counting(tiny), options), (Counting(tiny), logged)):
        got = decode(model, *arguments, mode=mode, stride=stride, options=chosen)
        assert torch.equal(got.ids, expected.ids)
    one = decode(tiny, *arguments, mode=mode, stride=stride, options=dataclasses.replace(options, best_of=1))
    assert not torch.equal(one.ids, expected.ids)


def test_more_samples_are_likelier(tiny, task, lexicon):
    """The whole image in one pass, so that its probability can be asked for."""
    from spae.incontext import prompt

    def score(best_of):
        options = Options(num_layers=2, sampling=HOT, best_of=best_of)
        tokens = decode(tiny, task, QUERIES, lexicon, stride=5, options=options)
        short = Task(task.template, tuple(dataclasses.replace(e, answer=e.answer[:5]) for e in task.examples))
        prompts = [prompt(tiny, short, query, 5).ids for query in QUERIES]
        return torch.stack([row.sum() for row in tiny.logprobs(prompts, lexicon.llm_ids(tokens))])

    few, many = score(2), score(8)
    assert (many >= few - 1e-4).all()
    assert (many > few + 0.1).any()


def test_the_examples_change_the_answer(tiny, task, lexicon):
    other = Task(task.template, task.examples[:2])
    assert not torch.equal(
        decode(tiny, task, QUERIES, lexicon).ids, decode(tiny, other, QUERIES, lexicon).ids
    )


@pytest.mark.parametrize("layout", ["examples", "segments"])
@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_every_token_is_a_word_that_its_layer_may_use(tiny, codebook, task, layout, temperature):
    seen = images(3, seed=5)
    masks = seen_masks(seen, WORDS)
    narrow = Lexicon(codebook, PYRAMID, tiny, masks)
    options = Options(layout=layout, sampling=Sampling(temperature=temperature), par_layers=2)
    tokens = decode(tiny, task, QUERIES, narrow, stride=3, options=options)
    for layer in range(3):
        assert masks[layer][tokens.layer(layer)].all()
    control = (codebook.llm_ids == 0).nonzero().flatten().tolist()
    assert all(0 not in narrow.allowed(position) for position in range(PYRAMID.num_tokens))
    assert not set(control) & set(tokens.ids.flatten().tolist())


def test_in_segments_no_example_is_read_twice(tiny, task, lexicon):
    counting = Counting(tiny)
    decode(counting, task, QUERIES, lexicon, stride=4, options=Options(layout="segments"))
    spans = [span for (span,) in plan(PYRAMID, "par", 4, Options(layout="segments"))]
    line = len(tiny.encode("an image of 0:")) + len(tiny.encode("\n"))
    examples = len(task.examples) * (PYRAMID.num_tokens + len(spans) * line)
    queries = [len(tiny.encode(f"an image of {query.condition}:")) for query in QUERIES]
    tails = sum((t + 1) * size + t * (4 + 1) for t in range(len(spans)) for size in queries)
    assert counting.read == examples + tails


@pytest.mark.parametrize("num_queries", [1, 2])
def test_only_what_several_read_is_read_before(tiny, task, lexicon, num_queries):
    """A pass's examples are read ahead for several queries; one query reads them with its own line."""
    ahead = []

    class Watched(Counting):
        def prefix(self, ids, base=None):
            ahead.append(len(ids))
            return super().prefix(ids, base)

    decode(Watched(tiny), task, QUERIES[:num_queries], lexicon, stride=4)
    head = len(tiny.start_ids)
    assert ahead == [head] if num_queries == 1 else len(ahead) == 1 + 6 and min(ahead[1:]) > head


def test_independent_segments_of_one_query_run_as_one_batch_per_layer(tiny, task, lexicon):
    counting = Counting(tiny)
    decode(counting, task, QUERIES[:1], lexicon, mode="pnar", stride=4)
    assert counting.calls == 3


def test_the_estimate_is_what_the_reference_asks(tiny, task, lexicon):
    counting = Counting(tiny)
    options = Options(par_layers=2)
    decode_reference(counting, task, QUERIES, lexicon, stride=3, options=options)
    cost = estimate(tiny, task, QUERIES, lexicon, stride=3, options=options)
    assert (cost.requests, cost.prompt_tokens) == (counting.calls, counting.read)
    assert cost.completion_tokens == 3 * PYRAMID.num_tokens
    many = dataclasses.replace(options, sampling=HOT, best_of=2)
    assert estimate(tiny, task, QUERIES, lexicon, stride=3, options=many).requests == 4 * cost.requests
    assert cost.price(2.0, 10.0) == pytest.approx(
        (cost.prompt_tokens * 2 + cost.completion_tokens * 10) / 1e6
    )


@pytest.mark.parametrize("mode", ["par", "pnar"])
def test_a_stopped_run_goes_on_and_a_finished_one_asks_nothing(tiny, task, lexicon, tmp_path, mode):
    expected = decode(tiny, task, QUERIES, lexicon, mode=mode)
    options = Options(log=tmp_path / "log.jsonl")
    stopped = Counting(tiny, fail_after=4)
    with pytest.raises(KeyboardInterrupt):
        decode(stopped, task, QUERIES, lexicon, mode=mode, options=options)
    with options.log.open("a") as file:
        file.write('{"key": "cut o')  # as a killed process leaves it
    rest = Counting(tiny)
    assert torch.equal(decode(rest, task, QUERIES, lexicon, mode=mode, options=options).ids, expected.ids)
    total = sum(len(group) for group in plan(PYRAMID, mode, 4, options))
    assert stopped.calls + rest.calls == total
    again = Counting(tiny)
    assert torch.equal(decode(again, task, QUERIES, lexicon, mode=mode, options=options).ids, expected.ids)
    assert again.calls == again.read == 0
    for line in options.log.read_text().splitlines():
        json.loads(line)


def test_another_run_takes_nothing_from_the_log(tiny, task, lexicon, tmp_path):
    log = tmp_path / "log.jsonl"
    decode(tiny, task, QUERIES, lexicon, options=Options(log=log))
    for change in (
        {"options": Options(log=log, sampling=Sampling(temperature=1.0))},
        {"options": Options(log=log, layout="segments")},
        {"options": Options(log=log, sampling=Sampling(temperature=1.0), best_of=2)},
        {"options": Options(log=log), "mode": "pnar"},
    ):
        counting = Counting(tiny)
        decode(counting, task, QUERIES, lexicon, **change)
        assert counting.calls
    counting = Counting(tiny)
    decode(
        counting,
        dataclasses.replace(task, examples=task.examples[:3]),
        QUERIES,
        lexicon,
        options=Options(log=log),
    )
    assert counting.calls


def test_overflow_comes_before_any_work(codebook, task):
    small = tiny_llm(context=100)
    counting = Counting(small)
    with pytest.raises(ContextOverflow, match=r"4 examples .* \d examples would fit"):
        decode(counting, task, QUERIES, Lexicon(codebook, PYRAMID, small))
    assert counting.read == 0


def test_no_queries_give_no_images(tiny, task, lexicon):
    assert len(decode(tiny, task, [], lexicon)) == 0


@given(
    sizes=st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=4),
    stride=st.integers(1, 30),
    mode=st.sampled_from(["par", "pnar"]),
    layout=st.sampled_from(["examples", "segments"]),
    data=st.data(),
)
def test_every_plan_covers_every_token_once_and_only_looks_back(sizes, stride, mode, layout, data):
    pyramid = Pyramid.square(8, tuple(sizes))
    num_layers = data.draw(st.integers(1, len(sizes)))
    par_layers = data.draw(st.none() | st.integers(1, num_layers)) if mode == "par" else None
    groups = plan(pyramid, mode, stride, Options(num_layers=num_layers, par_layers=par_layers, layout=layout))
    spans = [span for group in groups for span in group]
    covered = [position for span in spans for position in span.tokens]
    assert covered == list(range(pyramid.num_tokens_upto(num_layers)))
    known = 0
    for group in groups:
        for span in group:
            shown = {p for part in (span.context, *span.blocks) for p in part}
            assert shown == set(range(known if mode == "par" else 0))
            assert 1 <= len(span.tokens) <= stride
        known = group[-1].tokens.stop
    assert segments(pyramid.num_tokens, stride) == [
        range(i, min(i + stride, pyramid.num_tokens)) for i in range(0, pyramid.num_tokens, stride)
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 0}, "stride: expected 1 or more, got 0"),
        ({"mode": "ar"}, 'mode: expected "par" or "pnar", got \'ar\''),
        ({"options": Options(num_layers=4)}, "num_layers: expected 1 to 3 or None, got 4"),
        ({"options": Options(par_layers=4)}, 'par_layers: expected 1 to 3 with mode "par", or None, got 4'),
        ({"options": Options(par_layers=1), "mode": "pnar"}, "par_layers: expected 1 to 3 with mode"),
        ({"options": Options(window=4, layout="segments")}, 'window: expected 0 or more in the layout "examples"'),
        ({"options": Options(layout="columns")}, 'layout: expected "examples" or "segments", got \'columns\''),
        ({"options": Options(best_of=0)}, "best_of: expected 1 to 256, got 0"),
        ({"options": Options(best_of=2)}, "best_of: expected 1 at temperature 0, got 2"),
        ({"queries": [Example("3", (5,))]}, "queries[0]: expected no answer"),
    ],
)  # fmt: skip
def test_errors_say_what_came_and_what_was_expected(tiny, task, lexicon, arguments, message):
    arguments = {"queries": QUERIES} | arguments
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the message is compared below
        decode(tiny, task, lexicon=lexicon, **arguments)
    assert message in str(error.value)


def test_the_lexicon_is_a_round_trip(codebook, lexicon):
    tokens = images(5, seed=3)
    ids = lexicon.llm_ids(tokens)
    assert ids[0][2] == int(codebook.llm_ids[tokens.ids[0, 2]])
    assert torch.equal(lexicon.tokens(ids).ids, tokens.ids)
    unknown = next(i for i in range(VOCABULARY) if i not in set(codebook.llm_ids.tolist()))
    with pytest.raises(
        ValueError, match=rf"llm_ids\[0\]: expected ids of words .*, got {unknown} at position 1"
    ):
        lexicon.tokens([[ids[0][0], unknown, *ids[0][2:]]])


def test_masks_must_fit_and_leave_a_word(codebook, tiny):
    with pytest.raises(ValueError, match=r"masks: expected one per layer \(3\), got 2"):
        Lexicon(codebook, PYRAMID, tiny, [torch.ones(WORDS, dtype=torch.bool)] * 2)
    with pytest.raises(ValueError, match=r"masks\[0\]: expected bool \[120\], got torch.float32"):
        Lexicon(codebook, PYRAMID, tiny, torch.ones(WORDS))
    with pytest.raises(
        ValueError, match="masks: expected a word that may be generated in each layer, got none in layer 0"
    ):
        Lexicon(codebook, PYRAMID, tiny, torch.zeros(WORDS, dtype=torch.bool))


def test_a_tokenizer_s_vocabularies_are_what_may_be_written(codebook, tiny):
    rows = torch.arange(WORDS)
    own = torch.stack([rows < 10, rows < 40, rows >= 40])
    tokenizer = SimpleNamespace(borrowed_ids=None, codebook=codebook, pyramid=PYRAMID, word_masks=own)
    control = set(tiny.special_ids)

    def allowed(lexicon):
        starts = [PYRAMID.num_tokens_upto(layer) for layer in range(3)]
        return [set(lexicon.allowed(position).tolist()) for position in starts]

    def ids(masks):
        return [set(codebook.llm_ids[mask].tolist()) - control for mask in masks]

    assert allowed(Lexicon.of(tokenizer, tiny)) == ids(own)
    even = rows % 2 == 0
    assert allowed(Lexicon.of(tokenizer, tiny, even)) == ids(own & even)
    with pytest.raises(
        ValueError, match="masks: expected a word that may be generated in each layer, got none in layer 0"
    ):
        Lexicon.of(tokenizer, tiny, rows >= 10)
    with pytest.raises(ValueError, match=r"masks: expected one per layer \(3\), got 2"):
        Lexicon.of(tokenizer, tiny, [even] * 2)
    free = SimpleNamespace(borrowed_ids=None, codebook=codebook, pyramid=PYRAMID, word_masks=None)
    assert Lexicon.of(free, tiny).fingerprint == Lexicon(codebook, PYRAMID, tiny).fingerprint


def test_words_of_another_vocabulary_are_refused(codebook, tiny):
    words = [*codebook.words[1:], codebook.words[0]]
    other = Codebook(words, codebook.vectors, codebook.llm_ids)
    with pytest.raises(
        ValueError, match=r"codebook: expected the words of .*, where id \d+ is .*, got .* in "
    ):
        Lexicon(other, PYRAMID, tiny)


@pytest.mark.parametrize("wrong", [-1, -WORDS, WORDS])
def test_ids_that_are_no_rows_are_no_words(lexicon, wrong):
    ids = images(2).ids.clone()
    ids[1, 3] = wrong
    message = rf"tokens: expected ids 0 to {WORDS - 1}, got {wrong} at position 3 of image 1"
    with pytest.raises(ValueError, match=message):
        lexicon.llm_ids(PyramidTokens(ids, PYRAMID))
    with pytest.raises(ValueError, match=message):
        seen_masks(PyramidTokens(ids, PYRAMID), WORDS)
