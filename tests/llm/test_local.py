from typing import Any

import numpy as np
import pytest
import torch

from spae import assets, llm
from spae.llm.local import LocalLLM
from spae.llm.reading import Reading
from spae.llm.sampling import choose, uniform
from spae.testing.tiny_llm import tiny_model


def random_ids(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 340, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def one_by_one(model, ids, num_tokens):
    """Greedy, re-reading everything for every token."""
    ids = list(ids)
    for _ in range(num_tokens):
        logits = model(torch.tensor([ids])).logits[0, -1]
        logits[0] = -torch.inf
        ids.append(int(logits.argmax()))
    return ids[-num_tokens:]


@pytest.mark.parametrize("kind", ["llama", "gemma3", "mistral"])
def test_prompts_in_one_sequence_are_answered_as_if_alone(tokenizer, kind):
    model = tiny_model(kind)
    local = LocalLLM(model, tokenizer)
    (shared,) = random_ids(20)
    tails = random_ids(3, 9, 1, 9, seed=1)
    whole = [shared + tail for tail in tails]
    expected = [one_by_one(model, ids, 8) for ids in whole]

    prefix = local.prefix(shared[7:], local.prefix(shared[:7]))
    assert prefix.ids == tuple(shared)
    assert local.generate(tails, 8, prefix=prefix).tolist() == expected
    assert local.generate(tails, 8, prefix=prefix).tolist() == expected  # a prefix is not used up
    assert local.generate(whole, 8).tolist() == expected  # what they share is found
    few = LocalLLM(model, tokenizer, pack_tokens=20)
    assert few.generate(tails, 8, prefix=prefix).tolist() == expected

    continuations = random_ids(3, 1, 2, 2, seed=2)
    with torch.no_grad():
        for got, ids, continuation in zip(
            local.logprobs(tails, continuations, prefix=prefix), whole, continuations, strict=True
        ):
            table = model(torch.tensor([ids + continuation])).logits[0].log_softmax(-1)
            rows = torch.arange(len(ids) - 1, len(ids) + len(continuation) - 1)
            torch.testing.assert_close(got, table[rows, continuation], atol=1e-4, rtol=1e-4)


def test_what_is_written_comes_with_its_probability(tokenizer):
    """Of the whole vocabulary, whatever may be written; nothing for a stop and what would follow."""
    local = LocalLLM(tiny_model("llama"), tokenizer)
    prompts = random_ids(5, 9, 12, seed=6)
    for allowed in (None, [torch.arange(40, 60)] * 4):
        ids, scores = local.generate_scored(prompts, 4, allowed=allowed)
        assert torch.equal(ids, local.generate(prompts, 4, allowed=allowed))
        expected = torch.stack(local.logprobs(prompts, ids.tolist()))
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    stop = int(local.generate(prompts, 4)[1, 2])
    ids, scores = local.generate_scored(prompts, 4, stop=[stop])
    assert ((scores == 0) == (ids == -1)).all()
    assert (ids[1, 2:] == -1).all()


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_what_prompts_begin_with_is_read_once(tokenizer, kind, monkeypatch):
    """A tree of prompts: two that are the same, one that another continues, and two that part."""
    model = tiny_model(kind)
    local = LocalLLM(model, tokenizer)
    first, second, third = random_ids(6, 5, 4, seed=8)
    prompts = [first + second, first + second, first + second + third, first + third, third]
    alone = [local.generate([prompt], 6)[0].tolist() for prompt in prompts]
    local.generate(prompts, 1)  # at first it is examined whether the model takes packs at all
    lengths, forward = [], model.forward

    def counting(*arguments, input_ids, **options):
        lengths.append(input_ids.shape[1])
        return forward(*arguments, input_ids=input_ids, **options)

    monkeypatch.setattr(model, "forward", counting)
    # Each draws on its own: equal prompts part where their draws do.
    apart = local.generate(prompts[:2], 6, sampling=llm.Sampling(temperature=2.0)).tolist()
    parted = [i for i in range(6) if apart[0][: i + 1] != apart[1][: i + 1]]
    assert lengths == [11] + [2 if i in parted else 1 for i in range(5)]
    assert parted
    lengths.clear()
    assert local.generate(prompts, 6).tolist() == alone
    assert lengths == [6 + 5 + 4 + 4 + 4, 4, 4, 4, 4, 4]
    expected = [local.logprobs([prompt], [row])[0] for prompt, row in zip(prompts, alone, strict=True)]
    for got, row in zip(local.logprobs(prompts, alone), expected, strict=True):
        torch.testing.assert_close(got, row, atol=1e-4, rtol=1e-4)


def test_prefixes_stay_what_they_were_whatever_is_read_behind_them(tokenizer):
    """They share memory: each writes behind what is its own, or takes a copy."""
    model = tiny_model("llama")
    local = LocalLLM(model, tokenizer)
    base, one, other, more, tail = random_ids(300, 9, 12, 5, 4, seed=3)
    prefixes: dict[tuple[int, ...], Any] = {(): local.prefix(base)}
    for path, of in (((1,), ()), ((2,), ()), ((1, 3), (1,)), ((2, 3), (2,)), ((1, 3, 3), (1, 3))):
        prefixes[path] = local.prefix({1: one, 2: other, 3: more}[path[-1]], prefixes[of])
    expected = {path: one_by_one(model, [*prefix.ids, *tail], 3) for path, prefix in prefixes.items()}

    for path in (*prefixes, *reversed(prefixes)):
        assert local.generate([tail], 3, prefix=prefixes[path])[0].tolist() == expected[path], path
    longest = prefixes[1, 3, 3]
    with (
        Reading(local._network, longest) as first,
        Reading(local._network, longest) as second,
        torch.no_grad(),
    ):
        first.read([other], [0], [0])
        second.read([tail], [0], [0])
        alone = model(torch.tensor([[*longest.ids, *other, *tail]])).logits[0, -1]
        torch.testing.assert_close(first.read([tail], [0], [3])[0], alone, atol=1e-4, rtol=1e-4)
    del longest
    for path in list(prefixes):  # the room of those that are gone is taken by others
        prefix = prefixes.pop(path)
        assert local.generate([tail], 3, prefix=prefix)[0].tolist() == expected[path], path
        del prefix
        local.prefix(other, next(iter(prefixes.values()), None))


def test_a_model_that_cannot_pack_is_refused_unless_told_not_to(tokenizer):
    model = tiny_model("bloom")
    prompts = random_ids(4, 6)
    with pytest.raises(ValueError, match="pack_tokens: expected 1 for"):
        LocalLLM(model, tokenizer).generate(prompts, 3)
    alone = LocalLLM(model, tokenizer, pack_tokens=1)
    assert alone.generate(prompts, 3).tolist() == [one_by_one(model, ids, 3) for ids in prompts]


def test_every_token_is_one_of_those_allowed_at_its_position(tiny):
    sets = [torch.tensor([4, 9]), torch.tensor([300]), torch.tensor([7, 8, 11, 200])]
    for sampling in (llm.GREEDY, llm.Sampling(temperature=5.0, seed=1)):
        rows = tiny.generate(random_ids(*[5] * 20), 3, allowed=sets, sampling=sampling)
        for position, ids in enumerate(sets):
            assert set(rows[:, position].tolist()) <= set(ids.tolist())
    free = tiny.generate(random_ids(*[5] * 50), 3, sampling=llm.Sampling(temperature=50.0))
    assert not set(free.flatten().tolist()) & tiny.special_ids


def test_a_stop_ends_its_row_only(tiny):
    prompts = random_ids(3, 5, 8)
    free = tiny.generate(prompts, 6)
    stop = int(free[1, 2])
    rows = tiny.generate(prompts, 6, stop=[stop])
    for row, whole in zip(rows.tolist(), free.tolist(), strict=True):
        kept = whole.index(stop) if stop in whole else 6
        assert row == whole[:kept] + [-1] * (6 - kept)
    assert (rows == -1).any()


def test_draws_depend_on_seed_stream_and_position_only(tiny):
    prompts = random_ids(4, 7, 5)
    sampling = llm.Sampling(temperature=1.0, seed=3)
    together = tiny.generate(prompts, 6, sampling=sampling, streams=[7, 8, 9])
    alone = tiny.generate(prompts[2:], 6, sampling=sampling, streams=[9])
    assert torch.equal(together[2:], alone)
    other = tiny.generate(prompts[2:], 6, sampling=sampling, streams=[10])
    assert not torch.equal(alone, other)


def test_draws_follow_the_distribution():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    streams = range(4000)
    rows = logits.expand(len(streams), -1)

    def shares(**options):
        picks = choose(rows, llm.Sampling(temperature=1.0, seed=5, **options), streams, 0)
        return np.bincount(picks, minlength=4) / len(streams)

    p = logits[0].softmax(0).numpy()
    assert np.abs(shares() - p).max() < 4 * (0.25 / len(streams)) ** 0.5
    assert shares(top_k=2)[[0, 3]].sum() == 0
    assert shares(top_p=0.6).tolist() == [0, 1, 0, 0]
    assert (shares(top_p=0.7) > 0).tolist() == [False, True, True, False]
    draws = [uniform(1, stream, position) for stream in range(50) for position in range(20)]
    assert len(set(draws)) == 1000
    assert all(0 <= draw < 1 for draw in draws)


def test_every_seed_stream_and_position_has_draws_of_its_own():
    numbers = [0, 1, -1, -2, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 3]
    assert len({uniform(seed, 0, 0) for seed in numbers}) == len(numbers) == len(set(numbers))
    assert len({uniform(-1, stream, 0) for stream in numbers}) == len(numbers)
    assert len({uniform(-1, 1, position) for position in numbers}) == len(numbers)
    assert uniform(-1, 0, 0) == uniform(2**64 - 1, 0, 0)
    # What these have always been.
    assert [uniform(*key) for key in ((0, 0, 0), (3, 7, 5))] == [0.011546754286331562, 0.6130156599427308]


def test_greedy_takes_the_first_of_equals():
    assert choose(torch.tensor([[1.0, 2.0, 2.0]]), llm.GREEDY, [0], 0).tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_a_type_is_given_by_name_or_as_torch_has_it(tiny_folder, dtype):
    model = llm.load(tiny_folder, dtype=dtype)
    assert model._network._model.dtype == torch.bfloat16
    assert model.identity.endswith("-bfloat16")


@pytest.mark.filterwarnings("error")
def test_nothing_that_transformers_deprecates_is_used(tiny):
    tiny.generate([[5, 6], [7]], 2)
    tiny.logprobs([[5, 6]], [[7]])


def test_a_folder_is_loaded_and_known_by_its_weights(tiny, tiny_folder, tmp_path):
    loaded = llm.load(tiny_folder)
    prompts = random_ids(5)
    assert torch.equal(loaded.generate(prompts, 5), tiny.generate(prompts, 5))
    assert loaded.identity == llm.load(tiny_folder).identity
    other = tiny_model()
    other.lm_head.weight.data.zero_()
    other.save_pretrained(tmp_path)
    loaded._tokenizer._tokenizer.save_pretrained(tmp_path)
    assert llm.load(tmp_path).identity != loaded.identity
    assert llm.load(tiny_folder, dtype="bfloat16").identity != loaded.identity


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.generate([[]], 1), "prompts[0]: expected at least one id after the prefix, got none"),
        (lambda m: m.generate([[5, 340]], 1), "prompts[0]: expected ids 0 to 339, got 340 at position 1"),
        (lambda m: m.generate([[5]], 2, allowed=[torch.tensor([1])]), "allowed: expected one set per token (2), got 1"),
        (lambda m: m.generate([[5]], 1, allowed=[torch.tensor([])]), "allowed[0]: expected int64 [m] with m >= 1"),
        (lambda m: m.generate([[5]], -1), "num_tokens: expected 0 or more, got -1"),
        (lambda m: m.generate([[5]], 1, streams=[]), "streams: expected one per prompt (1), got 0"),
        (lambda m: m.generate([[5]], 4096), "prompts: expected at most 4096 tokens, tiny's context window, got 1 and 4096 to follow"),
        (lambda m: m.logprobs([[5]], []), "continuations: expected one per prompt (1), got 0"),
        (lambda m: m.logprobs([[5]], [[]]), "continuations[0]: expected at least one id, got none"),
        (lambda m: llm.Sampling(temperature=-1), "temperature: expected a number from 0"),
        (lambda m: llm.Sampling(top_p=0), "top_p: expected a number above 0 to 1"),
        (lambda m: llm.load("no-such-model"), "source: expected one of smollm2, gemma3, a GGUF file, a folder"),
        (lambda m: llm.load("smollm2", dtype="int8"), "dtype: expected one of float32, bfloat16, float16, got 'int8'"),
    ],
)  # fmt: skip
def test_errors_say_what_came_and_what_was_expected(tiny, call, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the message is compared below
        call(tiny)
    assert message in str(error.value)


def test_text_that_spells_a_control_token_is_plain_text(tiny):
    ids = tiny.encode("a<|end|>b")
    assert not set(ids) & tiny.special_ids
    assert tiny.decode(ids) == "a<|end|>b"


def test_text_of_names_the_word_that_does_not_read_back(tiny):
    fox, f = tiny.encode(" fox"), tiny.encode(" f")
    assert llm.text_of(tiny, fox + fox) == " fox fox"
    with pytest.raises(ValueError, match=r"got ' ' \(id \d+\) at position 1: ' f' is read as ' fo'"):
        llm.text_of(tiny, fox + f + tiny.encode("o"))
    with pytest.raises(
        ValueError, match=r"expected no control token, .* got id 0 \('<\|end\|>'\) at position 1"
    ):
        llm.text_of(tiny, [*fox, 0])


@pytest.fixture(scope="module")
def smollm2():
    try:
        assets.path("smollm2")
    except assets.AssetNotCached as error:
        pytest.skip(str(error))
    return llm.load("smollm2", progress=False)


def test_smollm2_knows_the_capital_of_france(smollm2):
    prompt = smollm2.encode("The capital of France is")
    prefix = smollm2.prefix(prompt[:-1])
    answer = smollm2.generate([prompt[-1:]], 1, prefix=prefix)
    assert smollm2.decode(answer[0].tolist()) == " Paris"
    names = [smollm2.encode(name) for name in (" London", " Paris", " the city of Rome")]
    scores = [float(row.sum()) for row in smollm2.logprobs([prompt] * 3, names)]
    assert scores.index(max(scores)) == 1
    assert smollm2.special_ids == frozenset(range(17))
    assert smollm2.context_window == 8192
