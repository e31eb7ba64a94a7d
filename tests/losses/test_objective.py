from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spae.losses import (
    DISTS,
    LPIPS,
    AppearanceConfig,
    FeatureDistance,
    Objective,
    ObjectiveConfig,
    appearance_loss,
    reconstruction_loss,
)
from spae.models.dists import DISTSNetwork
from spae.models.lpips import LPIPSNetwork

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def output(seed=1, **losses):
    reconstruction = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    losses = {name: torch.tensor(value) for name, value in losses.items()}
    return SimpleNamespace(
        reconstruction=reconstruction, losses={"reconstruction": torch.tensor(9.0)} | losses
    )


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layer = nn.Conv2d(3, 1, 3)

    def forward(self, images):
        return self.layer(images)


def distance(images, reconstruction):
    return (images - reconstruction).abs().amax()


def test_reconstruction_is_l2_or_l1():
    a, b = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    assert reconstruction_loss(a, b) == 0.25
    assert reconstruction_loss(a, b, kind="l1") == 0.5


def test_appearance_is_equation_8():
    out, judge = output(), Judge()
    logits = judge(out.reconstruction)
    config = AppearanceConfig(beta=0.2, lambda_=0.3, eta=0.4)
    total, terms = appearance_loss(
        IMAGES,
        out.reconstruction,
        commitment=torch.tensor(2.0),
        logits=logits,
        perceptual=distance,
        further={"codebook": torch.tensor(0.5)},
        config=config,
    )
    assert set(terms) == {"reconstruction", "commitment", "generator", "perceptual", "codebook"}
    expected = (
        F.mse_loss(out.reconstruction, IMAGES)
        + 0.2 * 2.0
        - 0.3 * logits.mean()
        + 0.4 * distance(IMAGES, out.reconstruction)
        + 0.5
    )
    assert torch.isclose(total, expected)
    alone, terms = appearance_loss(IMAGES, out.reconstruction)
    assert torch.equal(alone, terms["reconstruction"])
    assert list(terms) == ["reconstruction"]


def test_the_defaults_are_the_paper_s():
    config = ObjectiveConfig()
    assert (config.alpha, config.beta, config.lambda_, config.eta, config.phi) == (1, 0.33, 0.1, 0.1, 1e-4)
    assert config.dynamic_weight
    assert config.reconstruction == "l2"
    assert ObjectiveConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("dynamic", [True, False])
def test_equation_9_with_and_without_the_dynamic_weight(dynamic):
    out = output(commitment=1.5)
    features = torch.full((4, 5), 2.0, requires_grad=True)

    def semantic(given, guidance):
        assert given is out
        return (features * guidance).square().mean()

    objective = Objective(ObjectiveConfig(alpha=0.5, dynamic_weight=dynamic), semantic=semantic)
    guidance = torch.full((4, 5), 1.5)
    total, terms = objective(out, IMAGES, guidance)
    total.backward()
    appearance = F.mse_loss(out.reconstruction, IMAGES) + 0.33 * 1.5
    assert torch.isclose(terms["appearance"], appearance)
    weight = 0.5 * (appearance / 9 if dynamic else 1)
    assert torch.isclose(total, appearance + weight * 9)
    # The gradient sees the weight as a constant.
    assert torch.allclose(
        features.grad, weight.detach() * 2 * 2.0 * 1.5**2 / 20 if dynamic else torch.tensor(0.5 * 0.45)
    )
    expected = torch.autograd.grad(F.mse_loss(out.reconstruction, IMAGES), out.reconstruction)[0]
    assert torch.allclose(out.reconstruction.grad, expected)


@pytest.mark.parametrize(
    ("appearance", "semantic", "weight"),
    [(-3.0, 2.0, 0.0), (3.0, 2.0, 1.5), (3.0, 0.0, 3e6), (0.0, 0.0, 0.0), (-3.0, 0.0, 0.0)],
)
def test_the_dynamic_weight_neither_turns_around_nor_divides_by_zero(appearance, semantic, weight):
    """With the hinge game's -D(fake) the appearance loss can be negative; a semantic loss can be exactly 0."""
    out = output(commitment=appearance)
    out.reconstruction = IMAGES.clone().requires_grad_()
    score = torch.tensor(semantic, requires_grad=True)
    objective = Objective(ObjectiveConfig(beta=1.0), semantic=lambda given, guidance: score)
    total, terms = objective(out, IMAGES, 0)
    total.backward()
    assert terms["appearance"].item() == appearance
    assert score.grad.item() == pytest.approx(weight)
    assert total.item() == pytest.approx(appearance + weight * semantic)


def test_guidance_rests_while_a_hinge_game_outweighs_the_rest():
    judge, out = Judge(), output()
    with torch.no_grad():
        judge.layer.bias.fill_(100.0)
    score = torch.tensor(2.0, requires_grad=True)
    objective = Objective(discriminator=judge, semantic=lambda given, guidance: score)
    total, terms = objective(out, IMAGES, 0)
    assert terms["appearance"] < -5
    total.backward()
    assert score.grad == 0
    assert out.reconstruction.grad.abs().sum() > 0


def test_a_semantic_loss_needs_guidance():
    with pytest.raises(ValueError, match="guidance: expected what the semantic loss looks at, got None"):
        Objective(semantic=lambda output, guidance: guidance.sum())(output(), IMAGES)


def test_the_generator_s_gradient_reaches_the_image_but_no_discriminator():
    judge, out = Judge(), output()
    objective = Objective(ObjectiveConfig(lambda_=1.0), discriminator=judge)
    total, terms = objective(out, IMAGES)
    total.backward()
    assert all(p.grad is None for p in judge.parameters())
    alone = torch.autograd.grad(F.mse_loss(out.reconstruction, IMAGES), out.reconstruction)[0]
    (verdict,) = torch.autograd.grad(-judge(out.reconstruction).mean(), out.reconstruction)
    assert torch.allclose(out.reconstruction.grad, alone + verdict)
    assert torch.isclose(terms["generator"], -judge(out.reconstruction).mean())


def test_the_discriminator_s_gradient_reaches_no_image():
    judge, out = Judge(), output()
    objective = Objective(ObjectiveConfig(phi=0.1), discriminator=judge)
    objective.lecam.update(0.3, -0.2)
    total, terms = objective.discriminator_loss(judge, IMAGES, out.reconstruction)
    total.backward()
    assert out.reconstruction.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in judge.parameters())
    real, fake = judge(IMAGES), judge(out.reconstruction)
    assert torch.isclose(terms["logits_real"], real.mean())
    assert torch.isclose(terms["logits_fake"], fake.mean())
    assert torch.isclose(terms["hinge"], (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2)
    assert torch.isclose(total, terms["hinge"] + 0.1 * terms["lecam"])


def test_the_adversary_waits_for_its_start():
    objective = Objective(ObjectiveConfig(discriminator_start=3), discriminator=Judge())
    assert "generator" not in objective(output(), IMAGES, step=2)[1]
    assert "generator" in objective(output(), IMAGES, step=3)[1]
    assert not Objective().adversarial(10)


def test_feature_distance_is_zero_for_equal_images_and_trains_nothing():
    network = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
    network.features = lambda images: {8: network(images), 16: network(images).square()}  # type: ignore[assignment]
    measure = FeatureDistance(network, "toy_features").train()
    assert not network.training, "frozen statistics"
    reconstruction = (IMAGES * 0.5).requires_grad_()
    loss = measure(IMAGES, reconstruction)
    loss.backward()
    assert loss > 0
    assert reconstruction.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.parameters())
    assert measure(IMAGES, IMAGES) == 0
    assert measure.name in appearance_loss(IMAGES, reconstruction, perceptual=measure)[1]


def test_feature_distance_by_hand():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).reshape(2, 2, 1, 1)
    b = torch.tensor([[6.0, 8.0], [0.0, 2.0]]).reshape(2, 2, 1, 1)
    measure = FeatureDistance(lambda images: [images, 5 * images], "plain")
    assert measure(a, b).item() == pytest.approx(2 * (0 + 2) / 2)
    with pytest.raises(TypeError, match="network: expected several feature maps, got one tensor"):
        FeatureDistance(lambda images: images, "plain")(a, b)


def test_feature_distance_of_video_is_that_of_its_frames():
    clips = torch.rand(2, 3, 4, 8, 8)
    other = torch.rand(2, 3, 4, 8, 8)
    measure = FeatureDistance(lambda images: [images], "plain")
    by_frame = [measure(clips[:, :, t], other[:, :, t]) for t in range(4)]
    assert torch.isclose(measure(clips, other), torch.stack(by_frame).mean())


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_is_a_term_of_the_loss(net, monkeypatch):
    torch.manual_seed(0)
    network = LPIPSNetwork(net).requires_grad_(False)
    monkeypatch.setattr(LPIPSNetwork, "load", lambda net: network)
    measure = LPIPS(net).train()
    assert not network.training
    a, b = torch.rand(2, 2, 3, 32, 32).mul(2).sub(1)
    reconstruction = b.clone().requires_grad_()
    total, terms = appearance_loss(a, reconstruction, perceptual=measure, config=AppearanceConfig(eta=0.5))
    assert torch.isclose(terms["lpips"], network(a, b).mean())
    assert torch.isclose(total, terms["reconstruction"] + 0.5 * terms["lpips"])
    (gradient,) = torch.autograd.grad(terms["lpips"], reconstruction)
    assert gradient.abs().sum() > 0
    assert measure(a, a) == 0
    clips = torch.stack([a, b], 2)
    assert torch.isclose(measure(clips, clips.flip(2)), network(a, b).mean())


def test_dists_is_a_term_of_the_loss(monkeypatch):
    torch.manual_seed(0)
    network = DISTSNetwork().requires_grad_(False)
    monkeypatch.setattr(DISTSNetwork, "load", lambda: network)
    measure = DISTS().train()
    assert not network.training
    a, b = torch.rand(2, 2, 3, 32, 32).mul(2).sub(1)
    reconstruction = b.clone().requires_grad_()
    _, terms = appearance_loss(a, reconstruction, perceptual=measure, config=AppearanceConfig(eta=0.5))
    assert torch.isclose(terms["dists"], network(a, b).mean())
    (gradient,) = torch.autograd.grad(terms["dists"], reconstruction)
    assert gradient.abs().sum() > 0
    clips = torch.stack([a, b], 2)
    assert torch.isclose(measure(clips, clips.flip(2)), network(a, b).mean())


def test_lpips_over_squeezenet_is_the_package_s(monkeypatch):
    import sys

    class Network(nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            self.net, self.weight = net, nn.Parameter(torch.ones(()))

        def forward(self, a, b):
            return self.weight * (a - b).square().mean((1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Network))
    measure = LPIPS("squeeze")
    assert measure.network.net == "squeeze"
    assert torch.isclose(measure(IMAGES, IMAGES * 0), IMAGES.square().mean())
    assert "lpips" in appearance_loss(IMAGES, IMAGES, perceptual=measure)[1]
    assert not any(p.requires_grad for p in measure.parameters())
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match="needs lpips and torchvision: pip install lpips torchvision"):
        LPIPS("squeeze")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": -1}, "objective.beta: expected a number from 0, got -1"),
        ({"eta": float("nan")}, "objective.eta: expected a number from 0, got nan"),
        ({"alpha": float("inf")}, "objective.alpha: expected a number from 0, got inf"),
        ({"alpha": True}, "objective.alpha: expected a number from 0, got True"),
        (
            {"discriminator_start": 1.5},
            "objective.discriminator_start: expected a whole number from 0, got 1.5",
        ),
        ({"lecam_decay": 1}, "objective.lecam_decay: expected a number from 0 to below 1, got 1"),
        ({"dynamic_weight": 1}, "objective.dynamic_weight: expected true or false, got 1"),
        ({"gan": "wgan"}, "gan: expected 'hinge' or 'non_saturating', got 'wgan'"),
        ({"reconstruction": "l3"}, "objective.reconstruction: expected 'l2' or 'l1', got 'l3'"),
        ({"gamma": 1}, r"objective: expected no fields but .*, got \['gamma'\]"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig.from_dict(change)
