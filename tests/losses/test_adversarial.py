import pytest
import torch

from spae.losses import LeCAM, discriminator_loss, generator_loss

REAL = torch.tensor([[2.0, -0.5], [0.5, 1.0]])
FAKE = torch.tensor([[-3.0, 0.0], [-0.5, 0.5]])


def test_hinge_by_hand():
    assert generator_loss(FAKE).item() == pytest.approx(0.75)
    # Real: 0, 1.5, 0.5, 0. Fake: 0, 1, 0.5, 1.5.
    assert discriminator_loss(REAL, FAKE).item() == pytest.approx((2 / 4 + 3 / 4) / 2)


def test_non_saturating_is_the_logistic_loss():
    right = torch.ones(2, 2)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    expected = entropy(REAL, right) + entropy(FAKE, 1 - right)
    assert torch.isclose(discriminator_loss(REAL, FAKE, kind="non_saturating"), expected)
    assert torch.isclose(generator_loss(FAKE, kind="non_saturating"), entropy(FAKE, right))
    with pytest.raises(ValueError, match="kind: expected one of hinge, non_saturating, got 'wasserstein'"):
        generator_loss(FAKE, kind="wasserstein")  # type: ignore[arg-type]


def test_losses_of_half_precision_are_computed_in_float32():
    fake = FAKE.to(torch.bfloat16)
    assert generator_loss(fake).dtype == discriminator_loss(fake, fake).dtype == torch.float32


def test_lecam_follows_its_formula():
    lecam = LeCAM(decay=0.75)
    assert lecam(REAL, FAKE) == 0, "there are no averages before the first update"
    lecam.update(1.0, -1.0)
    assert (lecam.ema_real, lecam.ema_fake) == (1.0, -1.0)
    lecam.update(3.0, 1.0)
    assert (lecam.ema_real, lecam.ema_fake) == (1.5, -0.5)
    above = (REAL + 0.5).clamp(min=0).square().mean()
    below = (1.5 - FAKE).clamp(min=0).square().mean()
    assert torch.isclose(lecam(REAL, FAKE), above + below)
    twin = LeCAM(decay=0.75)
    twin.load_state_dict(lecam.state_dict())
    assert torch.equal(twin(REAL, FAKE), lecam(REAL, FAKE))


def test_lecam_pulls_the_discriminator_s_outputs_together():
    lecam = LeCAM()
    lecam.update(1.0, -1.0)
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    lecam(real, fake).backward()
    assert (real.grad >= 0).all()
    assert (fake.grad <= 0).all()
    with pytest.raises(ValueError, match="decay: expected at least 0 and below 1, got 1"):
        LeCAM(1.0)
