import pytest
import torch
import torch.nn.functional as F

from spae.llm import attention
from spae.llm.attention import blocks_of_rows
from spae.llm.local import LocalLLM
from spae.testing.tiny_llm import tiny_model


def inputs(queries, keys, seed=0):
    """Scores of a standard deviation of about 4, as peaked as a language model's."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (6, queries, 16), (2, keys, 16), (2, keys, 16)
    query, key, value = (torch.randn(*shape, generator=generator) for shape in shapes)
    return (2 * query).bfloat16(), (2 * key).bfloat16(), value.bfloat16()


def causal(queries, keys):
    return torch.arange(keys) <= torch.arange(keys - queries, keys)[:, None]


def packed(queries, keys):
    """Three prompts behind a prefix of all keys but as many as there are queries."""
    owners = torch.arange(queries) * 3 // queries
    own = (owners[:, None] == owners) & causal(queries, queries)
    return torch.cat([torch.ones(queries, keys - queries, dtype=torch.bool), own], 1)


def near(queries, keys):
    """A sliding window of 9."""
    oldest = torch.arange(keys - queries, keys)[:, None] - 8
    return causal(queries, keys) & (torch.arange(keys) >= oldest)


def exact(query, key, value, mask):
    """In float64, [q, H, d]."""
    query, key, value = (x.double() for x in (query, key, value))
    key, value = (x.repeat_interleave(3, 0) for x in (key, value))
    scores = (query @ key.transpose(1, 2) * 0.25).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(0, 1)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (64, 64), (150, 150), (40, 190), (130, 131)])
@pytest.mark.parametrize("seen", [causal, packed, near])
def test_blocks_of_rows_are_as_near_to_the_definition_as_bfloat16_allows(queries, keys, seen):
    query, key, value = inputs(queries, keys)
    mask = seen(queries, keys)
    expected = exact(query, key, value, mask)
    own = F.scaled_dot_product_attention(
        *(x[None] for x in (query, key, value)), attn_mask=mask, scale=0.25, enable_gqa=True
    )[0].transpose(0, 1)
    got = blocks_of_rows(query, key, value, mask, 0.25)
    # Scores up to 16 are rounded to 8 bits: each weight is off by up to 1/32, the sum of many by far less.
    bound = (own.double() - expected).abs().mean() + 0.02 * value.abs().mean()
    assert (got.double() - expected).abs().mean() <= bound
    if seen is causal:
        assert torch.equal(blocks_of_rows(query, key, value, None, 0.25), got)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "mistral"])
def test_models_in_bfloat16_take_them_where_the_processor_multiplies_it(tokenizer, monkeypatch, kind):
    generator = torch.Generator().manual_seed(1)
    shared, *tails = (torch.randint(1, 340, (size,), generator=generator).tolist() for size in (70, 20, 30))
    rows = []
    for able in (False, True):
        taken = []
        monkeypatch.setattr(attention, "_multiplies_bfloat16", lambda able=able: able)
        monkeypatch.setattr(
            attention,
            "blocks_of_rows",
            lambda *inputs, taken=taken: taken.append(1) or blocks_of_rows(*inputs),
        )
        local = LocalLLM(tiny_model(kind).bfloat16(), tokenizer)
        scores = local.logprobs(tails, [[5, 6], [7]], prefix=local.prefix(shared))
        assert bool(taken) == able
        rows.append(torch.cat(scores))
    full = LocalLLM(tiny_model(kind), tokenizer)
    expected = torch.cat(full.logprobs(tails, [[5, 6], [7]], prefix=full.prefix(shared)))
    own, blocks = ((row - expected).abs().max() for row in rows)
    assert blocks <= own + 0.05
