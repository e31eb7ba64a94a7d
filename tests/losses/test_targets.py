"""The ways beside the paper's to find each position's word, on small known cases."""

import itertools

import pytest
import torch

from spae import Codebook
from spae.losses import Regions, SemanticLoss, TargetRules, hub_offset, semantic_pools
from spae.losses.targets import draw_targets, same_pools
from spae_ops import Pyramid

PYRAMID = Pyramid.square(4, (1, 2, 4))
EYE = torch.eye(12)  # twelve words, each its own direction: a feature is the list of its raw scores


def loss(thresholds=(1.0, 1.0), words=12, **rules):
    book = Codebook.from_arrays([f" w{i}" for i in range(words)], torch.randn(words, 4))
    return SemanticLoss(book, torch.eye(words), thresholds, rules=TargetRules(**rules))


def scores(*best, words=12):
    """Raw scores of one image: the words named are the best, in this order; the others get 0."""
    row = torch.zeros(words)
    for place, word in enumerate(best):
        row[word] = 1 - 0.01 * place
    return row


# Pools by threshold and by size


def test_sizes_bound_pools_whatever_the_threshold():
    raw = torch.tensor([[1.0, 0.99, 0.5, 0.0], [1.0, 1.0, 1.0, 1.0]])
    plain = semantic_pools(raw, (0.98, 0.98, 0.98))
    assert plain.sizes.tolist() == [[2, 2, 2], [4, 4, 4]]
    bounded = semantic_pools(raw, (0.98, 0.98, 0.98), least=(None, 3, 9), most=(1, None, 3))
    assert bounded.sizes.tolist() == [[1, 3, 4], [1, 4, 4]], "the least wins; no pool has more than all words"
    assert bounded.ranked[0].tolist() == [0, 1, 2, 3]
    by_size = semantic_pools(raw[:1], (1.0,), least=(2,))
    assert by_size.ranked[0, : by_size.sizes[0, 0]].tolist() == [0, 1]


# Draws


@pytest.mark.parametrize("size", [16, 21])
def test_distinct_draws_do_not_repeat_while_the_pool_lasts(size):
    ranked = torch.stack([torch.randperm(30)[:21] for _ in range(5)])[:, None]
    sizes = torch.full((5, 1), size)
    uniform = torch.rand(5, 16, dtype=torch.float64)
    chosen = draw_targets(ranked, sizes, torch.zeros(16, dtype=torch.int64), uniform)
    for image in range(5):
        words = chosen[image].tolist()
        assert len(set(words)) == 16
        assert set(words) <= set(ranked[image, 0, :size].tolist())


def test_a_pool_that_is_too_small_comes_again_evenly():
    ranked = torch.tensor([[[7, 2, 5, 9]]])
    uniform = torch.rand(1, 8, dtype=torch.float64)
    chosen = draw_targets(ranked, torch.tensor([[3]]), torch.zeros(8, dtype=torch.int64), uniform)
    counts = torch.bincount(chosen[0], minlength=10)
    assert sorted(counts[[7, 2, 5]].tolist()) == [2, 3, 3]
    assert counts[9] == 0, "beyond its pool"


def test_distinct_draws_are_uniform_over_orders():
    ranked = torch.tensor([[[4, 1, 3]]]).expand(6000, 1, 3)
    uniform = torch.rand(6000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sizes, zero = torch.full((6000, 1), 3), torch.zeros(3, dtype=torch.int64)
    chosen = draw_targets(ranked, sizes, zero, uniform)
    orders = [tuple(row) for row in chosen.tolist()]
    for order in itertools.permutations((4, 1, 3)):
        assert abs(orders.count(order) - 1000) < 5 * (1000 * 5 / 6) ** 0.5


def test_distinct_draws_respect_every_region_s_pool():
    """Two regions want the same two words, a third others: nobody gets a word from outside its own pool."""
    ranked = torch.tensor([[[0, 1], [0, 1], [0, 5]]])
    sizes = torch.tensor([[2, 2, 2]])
    for seed in range(20):
        uniform = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        (words,) = draw_targets(ranked, sizes, torch.tensor([0, 1, 2]), uniform).tolist()
        assert {words[0], words[1]} == {0, 1}
        assert words[2] == 5, "0 is taken, and 5 is not"


def test_ranked_takes_the_best_that_is_left():
    ranked = torch.tensor([[[3, 8, 1], [3, 8, 1]], [[2, 0, 6], [7, 2, 6]]])
    sizes = torch.tensor([[3, 3], [3, 2]])
    words = draw_targets(ranked, sizes, torch.tensor([0, 1, 0, 0]), None)
    assert words.tolist() == [[3, 8, 1, 3], [2, 7, 0, 6]]


def test_the_largest_number_below_1_stays_in_the_pool():
    ranked = torch.arange(3)[None, None]
    uniform = torch.tensor([[1 - 2**-53]], dtype=torch.float64)
    assert draw_targets(ranked, torch.tensor([[3]]), torch.tensor([0]), uniform).item() == 2


# In the loss


def test_the_default_is_the_paper_s_for_every_layer():
    """Same draws as `SemanticPools.sample` from pools of the whole image, which tests of eqs. 4 and 7 cover."""
    semantic = loss((0.98, 0.5, 0.2))
    guidance = torch.rand(6, 12)
    targets = semantic.targets(guidance, PYRAMID, 6)
    pools = semantic_pools(guidance, (0.98, 0.5, 0.2))
    uniform = semantic._uniform(6, 21).split((1, 4, 16), dim=1)
    for layer in range(3):
        assert torch.equal(targets[layer], pools.sample(uniform[layer], layer))


@pytest.mark.parametrize("draw", ["distinct", "ranked"])
def test_a_layer_s_words_differ(draw):
    semantic = loss((1.0, 1.0, 0.0), draw=draw, least=(1, 4, 1), words=20)
    guidance = torch.rand(3, 20)
    first, second, third = semantic.targets(guidance, PYRAMID, 3)
    assert torch.equal(first[:, 0], guidance.argmax(1))
    best = guidance.topk(4).indices
    assert torch.equal(second.sort(1).values, best.sort(1).values)
    assert all(len(set(row)) == 16 for row in third.tolist())
    semantic.train()
    semantic.step += 1
    again = semantic.targets(guidance, PYRAMID, 3)
    assert torch.equal(again[1], second) == (draw == "ranked")


def test_cells_are_guided_by_their_own_crops():
    semantic = loss((1.0, 1.0, 1.0), regions=Regions((1, 2)))
    crops = torch.stack([scores(9), scores(2), scores(3), scores(5), scores(7)])[None]
    first, second, third = semantic.targets(crops, PYRAMID, 1)
    assert first.tolist() == [[9]]
    assert second.tolist() == [[2, 3, 5, 7]]
    assert third.reshape(4, 4).tolist() == [[2, 2, 3, 3]] * 2 + [[5, 5, 7, 7]] * 2
    with pytest.raises(ValueError, match=r"guidance: expected shape \[1, 5, 12\], got \[1, 12\]"):
        semantic.targets(crops[:, 0], PYRAMID, 1)
    assert torch.equal(semantic.scores(crops, 1), crops[:, 0])


def test_crops_that_want_the_same_word_share_it_out():
    semantic = loss((1.0, 1.0), regions=Regions((1, 2)), draw="ranked", least=(1, 2))
    crops = torch.stack([scores(9), scores(2, 3), scores(2, 4), scores(2, 6), scores(8, 2)])[None]
    assert semantic.targets(crops, PYRAMID, 1)[1].tolist() == [[2, 4, 6, 8]]


def test_only_allowed_words_guide_and_span_the_scores():
    allowed = torch.zeros(2, 12, dtype=torch.bool)
    allowed[0, [1, 2]] = allowed[1, [5, 6, 7]] = True
    semantic = loss((1.0, 0.5), allowed=allowed)
    row = scores(0, 3, 6, 2, 1)[None]
    row[0, 5], row[0, 7] = 0.9, 0.95
    first, second = semantic.targets(row.expand(50, -1), PYRAMID, 50)
    assert first.unique().tolist() == [2]
    # Among 5, 6 and 7 alone, 0.9 is the worst and 0.95 is above the middle of 0.9 and 0.98.
    assert second.unique().tolist() == [6, 7]


def test_layers_share_a_ranking_where_they_can():
    regions = [torch.tensor([0]), torch.tensor([1, 2]), torch.tensor([2, 1, 1]), torch.tensor([0, 0])]
    assert same_pools(regions, None) == [[0, 3], [1, 2]]
    assert same_pools(regions, torch.eye(4).bool()) == [[0], [1], [2], [3]]


# Hubs


def test_hubs_lose_what_they_are_near_to_everything():
    """Word 0 is near all images and first nowhere once that is taken off; words 1 to 3 are each near one."""
    text = torch.nn.functional.normalize(torch.tensor([[1, 1, 1.0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]), dim=1)
    images = torch.nn.functional.normalize(torch.eye(3) + 1, dim=1)
    raw = images @ text.T
    assert raw.argmax(1).tolist() == [0, 0, 0]
    offset = hub_offset(images, text, weight=1.0, neighbours=None)
    assert torch.allclose(offset, raw.mean(0))
    assert (raw - offset).argmax(1).tolist() == [1, 2, 3]
    nearest = hub_offset(images, text, weight=0.5, neighbours=2)
    assert torch.allclose(nearest, 0.5 * raw.topk(2, dim=0).values.mean(0))
    assert torch.equal(
        hub_offset(images, text, weight=0.5, neighbours=99),
        hub_offset(images, text, weight=0.5, neighbours=3),
    )
    book = Codebook.from_arrays([f" w{i}" for i in range(4)], torch.randn(4, 4))
    semantic = SemanticLoss(book, text, (1.0,), rules=TargetRules(offset=offset))
    assert semantic.targets(images, PYRAMID, 3)[0][:, 0].tolist() == [1, 2, 3]
    assert "offset" not in semantic.state_dict()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"draw": "all"}, "draw: expected one of 'uniform', 'distinct', 'ranked', got 'all'"),
        ({"least": 0}, "least: expected a whole number from 1 or .*, got 0"),
        ({"most": (1, 2, 3)}, r"most: expected one for each of 2 layers, got \(1, 2, 3\)"),
        ({"least": 5, "most": (9, 4)}, r"least: expected at most \(9, 4\), the most, got 5"),
        ({"offset": torch.zeros(3)}, r"offset: expected finite \[12\], got torch.float32 \[3\]"),
        ({"offset": torch.full((12,), torch.nan)}, r"offset: expected finite \[12\]"),
        ({"allowed": torch.ones(2, 12)}, r"allowed: expected bool \[2, 12\], got torch.float32 \[2, 12\]"),
        ({"allowed": torch.zeros(2, 12, dtype=torch.bool)}, "allowed: expected at least one word for each layer, got none for 0"),
    ],
)  # fmt: skip
def test_errors_name_the_rule(rules, message):
    with pytest.raises(ValueError, match=message):
        loss(**rules)
