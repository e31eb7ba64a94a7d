import pytest
import torch

from spae.models import FrameDiscriminator, PatchDiscriminator, ResidualDiscriminator

SIZES = [(32,), (32, 32), (16, 24), (5, 16, 16)]


def build(kind, size, **kwargs):
    torch.manual_seed(0)
    if kind == "patch":
        return PatchDiscriminator(ndim=len(size), channels=8, **kwargs)
    return ResidualDiscriminator(size, channels=8, **kwargs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["patch", "residual"])
def test_logits_by_dimension(kind, size):
    model = build(kind, size)
    images = torch.randn(3, 3, *size)
    logits = model(images)
    assert logits.shape[:2] == (3, 1)
    assert torch.isfinite(logits).all()
    assert logits.ndim == (2 if kind == "residual" else len(size) + 2)
    each = torch.cat([model(image[None]) for image in images])
    assert torch.allclose(logits, each, atol=1e-5), "a verdict must not depend on the rest of the batch"


@pytest.mark.parametrize("kind", ["patch", "residual"])
def test_it_learns_to_tell_two_textures_apart(kind):
    model = build(kind, (16, 16))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)

    def batch():
        smooth = torch.randn(8, 3, 4, 4, generator=generator)
        smooth = torch.nn.functional.interpolate(smooth, (16, 16), mode="bilinear")
        return smooth, torch.randn(8, 3, 16, 16, generator=generator) * smooth.std()

    for _ in range(25):
        real, fake = model(torch.cat(batch())).flatten(1).mean(1).chunk(2)
        loss = torch.nn.functional.softplus(-real).mean() + torch.nn.functional.softplus(fake).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    with torch.no_grad():
        real, fake = model(torch.cat(batch())).flatten(1).mean(1).chunk(2)
    assert real.min() > fake.max()


def passing_bars(generator, *, backwards):
    """Clips of a bar that goes once around to the right, or to the left: frame by frame they are alike."""
    place = torch.randint(8, (8, 1), generator=generator) + torch.arange(8) * (-1 if backwards else 1)
    bars = torch.nn.functional.one_hot(place % 8, 8).float() * 2 - 1
    return bars[:, None, :, None, :].expand(-1, 3, -1, 8, -1)


@pytest.mark.parametrize("kind", ["patch", "residual"])
def test_of_three_axes_it_learns_to_tell_which_way_clips_move(kind):
    kwargs = {"num_layers": 1} if kind == "patch" else {}
    model = build(kind, (8, 8, 8), **kwargs)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)

    def verdicts():
        clips = [passing_bars(generator, backwards=backwards) for backwards in (False, True)]
        return model(torch.cat(clips)).flatten(1).mean(1).chunk(2)

    for _ in range(40):
        real, fake = verdicts()
        loss = torch.nn.functional.softplus(-real).mean() + torch.nn.functional.softplus(fake).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        real, fake = verdicts()
    assert real.min() > fake.max()


@pytest.mark.parametrize("kind", ["patch", "residual"])
def test_frame_by_frame_it_judges_images(kind):
    of_images = build(kind, (16, 16))
    clips = torch.randn(2, 3, 5, 16, 16)
    logits = FrameDiscriminator(of_images)(clips)
    assert logits.shape[:2] == (2, 5)
    for time in range(5):
        torch.testing.assert_close(logits[:, time], of_images(clips[:, :, time]), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match=r"clips: expected \[B, C, T, H, W\], got \[5, 3, 16, 16\]"):
        FrameDiscriminator(of_images)(torch.zeros(5, 3, 16, 16))


def test_a_patch_of_three_layers_is_70_pixels():
    model = PatchDiscriminator(channels=4)
    for layer in model.modules():  # the norms would spread every pixel over the image
        if isinstance(layer, torch.nn.GroupNorm):
            layer.forward = lambda x: x  # type: ignore[method-assign]
    image = torch.randn(1, 3, 160, 160, requires_grad=True)
    logits = model(image)
    (gradient,) = torch.autograd.grad(logits[0, 0, 10, 10], image)
    assert gradient[0].abs().sum((0, 1)).count_nonzero() == 70


def test_errors():
    with pytest.raises(ValueError, match=r"images: expected \[B, 3, 2 axes\], got \[2, 1, 8, 8\]"):
        PatchDiscriminator()(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"images: expected \[B, 3, 16, 16\], got \[2, 3, 32, 32\]"):
        ResidualDiscriminator((16, 16))(torch.zeros(2, 3, 32, 32))
