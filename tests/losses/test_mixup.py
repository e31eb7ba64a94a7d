"""Pictures mixed in pairs, with words from either's pools."""

import pytest
import torch

from spae import Codebook
from spae.losses import Objective, ObjectiveConfig, SemanticLoss, TargetRules
from spae.losses.semantic import Mixture
from spae_ops import Pyramid

PYRAMID = Pyramid.square(4, (1, 2, 4))
WORDS, BATCH = 12, 6


def loss(a: float = 0.5, thresholds=(1.0, 1.0, 1.0), seed: int = 0, **rules) -> SemanticLoss:
    """Words are directions of their own, so that an image's pool of threshold 1 is the word it points to."""
    book = Codebook.from_arrays([f" w{i}" for i in range(WORDS)], torch.eye(WORDS))
    return SemanticLoss(book, torch.eye(WORDS), thresholds, seed=seed, rules=TargetRules(mixup=a, **rules))


def batch(size: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(size, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return images, torch.eye(WORDS)[torch.arange(size) % WORDS]


def mixed(
    semantic: SemanticLoss, images: torch.Tensor, guidance: torch.Tensor
) -> tuple[torch.Tensor, Mixture]:
    pictures, mixture = semantic.mix(images, guidance)
    assert isinstance(mixture, Mixture)
    return pictures, mixture


def test_pixels_and_words_come_from_the_pair_in_the_same_shares():
    semantic = loss(a=1.0)
    images, guidance = batch(4000)
    pictures, (kept, shares) = mixed(semantic, images, guidance)
    assert torch.equal(kept, guidance)
    assert 0 <= shares.min() < 0.1
    assert 0.9 < shares.max() <= 1
    for i in (0, 1, 17):
        torch.testing.assert_close(pictures[i], shares[i] * images[i] + (1 - shares[i]) * images[i - 1])
    own = torch.arange(4000)[:, None] % WORDS
    other = own.roll(1, 0)
    for layer, words in enumerate(semantic.targets(mixed(semantic, images, guidance)[1], PYRAMID, 4000)):
        assert words.shape == (4000, PYRAMID.tokens_per_layer[layer])
        assert ((words == own) | (words == other)).all()
        share = (words == own).float().mean(1)
        # The binomial deviation of a mean of 400 is at most 0.025.
        for tenth in shares.argsort().split(400):
            assert abs(share[tenth].mean() - shares[tenth].mean()) < 0.1
        if layer:
            assert ((share > 0) & (share < 1)).any(), "positions choose for themselves"


@pytest.mark.parametrize("draw", ["uniform", "distinct", "ranked"])
def test_whatever_the_draw_words_are_of_the_pair_s_pools(draw):
    semantic = loss(thresholds=(0.0, 0.0, 0.0), draw=draw, most=3)
    images, guidance = batch()
    generator = torch.Generator().manual_seed(3)
    guidance = guidance + 0.1 * torch.rand(BATCH, WORDS, generator=generator)
    pools = guidance.topk(3, dim=1).indices
    either = torch.cat([pools, pools.roll(1, 0)], 1)
    for words in semantic.targets(mixed(semantic, images, guidance)[1], PYRAMID, BATCH):
        assert (words[:, :, None] == either[:, None]).any(2).all()


def test_none_is_the_paper_s_way_and_evaluation_mixes_nothing():
    images, guidance = batch()
    for semantic in (loss(a=0), loss().eval()):
        same, kept = semantic.mix(images, guidance)
        assert same is images
        assert kept is guidance
    without, plain = loss(a=0), SemanticLoss(loss().codebook, torch.eye(WORDS), (1.0,) * 3)
    pairs = zip(
        without.targets(guidance, PYRAMID, BATCH), plain.targets(guidance, PYRAMID, BATCH), strict=True
    )
    assert all(torch.equal(*pair) for pair in pairs)


def test_shares_follow_from_seed_and_step():
    images, guidance = batch()
    semantic = loss()
    first = mixed(semantic, images, guidance)[1].shares
    torch.rand(3)  # the global generators do not matter
    assert torch.equal(mixed(semantic, images, guidance)[1].shares, first)
    assert not torch.equal(mixed(loss(seed=1), images, guidance)[1].shares, first)
    semantic.step += 1
    second = mixed(semantic, images, guidance)[1].shares
    assert not torch.equal(second, first)
    resumed = loss()
    resumed.load_state_dict(semantic.state_dict())
    assert torch.equal(mixed(resumed, images, guidance)[1].shares, second)


def test_processes_draw_what_one_would(monkeypatch):
    images, guidance = batch()
    whole = mixed(loss(), images, guidance)[1].shares
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        part = mixed(loss(), images[rank::2], guidance[rank::2])[1].shares
        assert torch.equal(part, whole[rank::2])


def test_an_objective_mixes_as_its_semantic_loss_does():
    images, guidance = batch()
    pictures, seen = Objective(ObjectiveConfig(), semantic=loss()).mixed(images, guidance)
    expected, kept = mixed(loss(), images, guidance)
    assert torch.equal(pictures, expected)
    assert torch.equal(seen.shares, kept.shares)
    for objective in (Objective(), Objective(semantic=lambda output, guidance: output.sum())):
        same, seen = objective.mixed(images, guidance)
        assert same is images
        assert seen is guidance


@pytest.mark.parametrize("a", [-1, float("inf"), "much", True])
def test_errors_name_the_entry(a):
    with pytest.raises(ValueError, match="mixup: expected a number from 0"):
        TargetRules(mixup=a)
