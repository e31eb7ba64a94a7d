import math

import numpy as np
import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.eval.reconstruction import evaluate_reconstruction, layer_table
from spae.figures import pyramid_text, reconstruction_page, shown
from spae.metrics import (
    MS_SSIM_WEIGHTS,
    class_score,
    codebook_usage,
    frechet_distance,
    kernel_distance,
    log_spectral_distance,
    ms_ssim,
    ms_ssim_scales,
    multi_resolution_stft,
    psnr,
    ssim,
)
from spae_ops import Pyramid


def test_psnr_is_per_image_with_a_peak_of_2():
    images = torch.zeros(3, 1, 4, 4)
    noisy = images + torch.tensor([0.02, 0.2, 2.0]).reshape(3, 1, 1, 1)
    assert psnr(images, noisy).tolist() == pytest.approx([40, 20, 0], abs=1e-4)
    assert math.isinf(psnr(images, images)[0].item())
    with pytest.raises(ValueError, match="reconstruction: expected shape"):
        psnr(images, noisy[:1])


@pytest.mark.parametrize("shape", [(2, 3, 14, 12), (1, 1, 8, 20)])
def test_ssim_is_the_published_one(shape):
    """Against its definition, window by window in plain Python."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(shape, generator=generator).double() * 2 - 1 for _ in range(2))
    sides = [min(11, side) for side in shape[2:]]
    bells = [[math.exp(-((i - (n - 1) / 2) ** 2) / 4.5) for i in range(n)] for n in sides]
    window = torch.tensor([[u * v for v in bells[1]] for u in bells[0]], dtype=torch.float64)
    window /= window.sum()
    for image, other, found in zip(a, b, ssim(a, b).tolist(), strict=True):
        values = []
        for x, y in zip(image, other, strict=True):
            for top in range(shape[2] - sides[0] + 1):
                for left in range(shape[3] - sides[1] + 1):
                    p, q = (channel[top : top + sides[0], left : left + sides[1]] for channel in (x, y))
                    mp, mq = (window * p).sum(), (window * q).sum()
                    vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                    cov = (window * (p - mp) * (q - mq)).sum()
                    luminance = (2 * mp * mq + 0.0004) / (mp**2 + mq**2 + 0.0004)
                    values.append(luminance * (2 * cov + 0.0036) / (vp + vq + 0.0036))
        assert found == pytest.approx(float(sum(values) / len(values)), abs=1e-6)
    assert ssim(a, a).tolist() == pytest.approx([1] * shape[0])
    with pytest.raises(ValueError, match=r"reconstruction: expected shape .* images"):
        ssim(a, b[:, :, :-1])


@pytest.mark.parametrize(
    ("shape", "scales"), [((2, 3, 48, 60), 3), ((1, 1, 176, 176), 5), ((1, 3, 9, 30), 1)]
)
def test_ms_ssim_is_the_published_one(shape, scales):
    """Against SciPy's convolutions, in NumPy."""
    signal = pytest.importorskip("scipy.signal", reason="needs SciPy")
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(shape, generator=generator).double() * 2 - 1
    b = (a + 0.3 * torch.randn(shape, generator=generator)).clamp(-1, 1)
    assert ms_ssim_scales(shape[2:]) == scales
    bells = [
        np.exp(-((np.arange(n) - (n - 1) / 2) ** 2) / 4.5) for n in (min(11, side) for side in shape[2:])
    ]
    window = np.outer(*bells) / np.outer(*bells).sum()
    exponents = np.array(MS_SSIM_WEIGHTS[:scales]) / sum(MS_SSIM_WEIGHTS[:scales])
    for image, other, found in zip(a.numpy(), b.numpy(), ms_ssim(a, b).tolist(), strict=True):
        expected = 1.0
        for scale, exponent in enumerate(exponents):
            factors = []
            for x, y in zip(image, other, strict=True):
                mx, my, xx, yy, xy = (
                    signal.correlate2d(values, window, mode="valid") for values in (x, y, x * x, y * y, x * y)
                )
                factor = (2 * (xy - mx * my) + 0.0036) / (xx - mx**2 + yy - my**2 + 0.0036)
                if scale == scales - 1:
                    factor = factor * (2 * mx * my + 0.0004) / (mx**2 + my**2 + 0.0004)
                factors.append(factor.mean())
            expected *= np.mean(factors) ** exponent
            even = [side // 2 * 2 for side in image.shape[1:]]
            image, other = (
                values[:, : even[0], : even[1]].reshape(-1, even[0] // 2, 2, even[1] // 2, 2).mean((2, 4))
                for values in (image, other)
            )
        assert found == pytest.approx(expected, abs=1e-6)
        assert 0.2 < found < 0.99


def test_ms_ssim_of_flat_images_is_the_luminance_of_the_coarsest_scale():
    a, b = torch.full((1, 3, 256, 256), 0.5), torch.full((1, 3, 256, 256), -0.1)
    assert ms_ssim(a, a).item() == pytest.approx(1)
    assert ms_ssim(a, a.flip(3) * 0.8).item() == pytest.approx((0.4004 / 0.4104) ** 0.1333, abs=1e-6)
    assert ms_ssim(a, b).item() == 0  # its luminance is negative
    with pytest.raises(ValueError, match=r"reconstruction: expected shape .* images"):
        ms_ssim(a, b[0])


@pytest.mark.parametrize(("rows", "others", "width"), [(40, 30, 6), (5, 7, 12), (30, 8, 12)])
def test_frechet_distance_is_scipys(rows, others, width):
    """Of more rows than columns, of fewer, and of one of each."""
    linalg = pytest.importorskip("scipy.linalg", reason="needs SciPy")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, width)), rng.normal(size=(others, width)) * 2 + 1
    covariances = [np.cov(values, rowvar=False) for values in (x, y)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
    found = frechet_distance(torch.tensor(x), torch.tensor(y))
    assert found == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(torch.tensor(y), torch.tensor(x)) == pytest.approx(found)


def test_frechet_distance_of_known_gaussians():
    """Rows at ±s sqrt((n - 1) / 2) e_i have the covariance diag(s^2) and the mean 0."""
    scales = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.5])]
    x, y = (torch.cat([torch.diag(s), -torch.diag(s)]) * (5 / 2) ** 0.5 for s in scales)
    assert frechet_distance(x, y + 2) == pytest.approx(3 * 4 + 1 + 2.5**2, rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match=r"others: expected shape \[M, 3\], got \[6, 2\]"):
        frechet_distance(x, y[:, :2])
    with pytest.raises(ValueError, match=r"features: expected shape \[N, E\] with N >= 2, got \[1, 3\]"):
        frechet_distance(x[:1], y)


def mmd(x, y):
    def k(p, q):
        return (sum(u * v for u, v in zip(p, q, strict=True)) / len(p) + 1) ** 3

    n = len(x)
    inner = sum(k(z[i], z[j]) for z in (x, y) for i in range(n) for j in range(n) if i != j)
    return inner / (n * (n - 1)) - 2 * sum(k(p, q) for p in x for q in y) / n**2


def test_kernel_distance_and_its_jackknife_by_hand():
    x, y = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0)).double() + torch.tensor(
        [[[0.0]], [[0.5]]]
    )
    value, error = kernel_distance(x, y)
    a, b = x.tolist(), y.tolist()
    assert value == pytest.approx(mmd(a, b))
    left = np.array([mmd(a[:i] + a[i + 1 :], b[:i] + b[i + 1 :]) for i in range(9)])
    assert error == pytest.approx(np.sqrt(8 / 9 * ((left - left.mean()) ** 2).sum()))
    with pytest.raises(ValueError, match=r"others: expected shape \[9, 4\], got \[8, 4\]"):
        kernel_distance(x, y[:8])
    with pytest.raises(ValueError, match="with N >= 3"):
        kernel_distance(x[:2], y[:2])


def test_class_score():
    sure = torch.eye(5)[torch.arange(20) % 5]
    assert class_score(sure.log()) == pytest.approx(5)
    assert class_score(torch.full((20, 5), 0.2).log()) == pytest.approx(1)
    p = torch.softmax(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)).double(), 1)
    divergence = (p * (p.log() - p.mean(0).log())).sum(1).mean()
    assert class_score(p.log()) == pytest.approx(math.exp(divergence))
    with pytest.raises(ValueError, match=r"log_probabilities: expected shape \[N, classes\], got \[5\]"):
        class_score(p[0])


def test_usage():
    assert codebook_usage(torch.arange(8).reshape(2, 4)) == (8, pytest.approx(8.0))
    assert codebook_usage(torch.zeros(5, dtype=torch.int64)) == (1, pytest.approx(1.0))


def test_words_are_shown_legibly():
    assert shown(" guitar") == "_guitar"
    assert shown("\n") == "\\n"
    assert shown(" internationalisation") == "_internati…"
    text = pyramid_text([[" a"], [" b", " c", " d", " e"]], Pyramid.square(2, (1, 2)))
    assert text == "  1  _a\n  2  _b  _c\n     _d  _e"


def test_report_and_page(tmp_path):
    torch.manual_seed(0)
    config = SPAEConfig(image_size=(8, 8), grids=(1, 2), channels=4, multipliers=(1, 1, 1), num_res_blocks=1)
    words = [" $x$", "\\frac{", " a", "é", "\n"]
    model = SPAE(config, Codebook.from_arrays(words, torch.randn(5, 4))).eval()
    images = torch.rand(6, 3, 8, 8) * 2 - 1
    report = evaluate_reconstruction(model, images, batch_size=4)
    assert [row["words_per_image"] for row in report["layers"]] == [1, 4]
    assert 1 <= report["distinct_words"] <= 5
    expected = psnr(images, model.decode(model.encode(images)).detach()).mean().item()
    assert report["layers"][-1]["psnr"] == pytest.approx(expected, abs=1e-4)
    table = layer_table(report).splitlines()
    assert table[0] == "| layers | words | bits | PSNR (dB) | distinct words | perplexity |"
    assert table[3].startswith("| 2 | 5 | 12 | ")
    page = tmp_path / "folder" / "page.png"
    reconstruction_page(model, images[:2], model.encode(images[:2]), page)
    assert page.stat().st_size > 5000


def sounds(seed=0):
    return torch.randn(3, 2048, generator=torch.Generator().manual_seed(seed))


def test_log_spectral_distance_of_a_gain_is_the_gain_in_decibels():
    """Where no frequency is 60 dB below the loudest: of impulses, one to a frame, so that it is flat."""
    sound = torch.zeros(2, 1024)
    sound[:, 100::256] = 1.0
    gains = torch.tensor([[0.5], [4.0]])
    expected = (20 * torch.log10(gains[:, 0])).abs()
    assert torch.allclose(log_spectral_distance(sound, gains * sound), expected, atol=1e-4)
    assert (log_spectral_distance(sound, 0 * sound) > 40).all()
    assert (log_spectral_distance(0 * sound, sound) == 0).all()


def test_multi_resolution_stft_of_a_gain_is_convergence_and_logarithm():
    gain = 1.5
    expected = abs(gain - 1) + math.log(gain)
    found = multi_resolution_stft(sounds(), gain * sounds())
    assert torch.allclose(found, torch.full((3,), expected), atol=1e-4)
    assert (multi_resolution_stft(sounds(), sounds(1)) > 0.5).all()


def test_multi_resolution_stft_trains():
    sound = sounds().requires_grad_()
    multi_resolution_stft(sounds(1), sound).sum().backward()
    assert sound.grad is not None
    assert sound.grad.isfinite().all()
    assert sound.grad.abs().sum() > 0


@pytest.mark.parametrize("measure", [log_spectral_distance, multi_resolution_stft])
def test_sounds_of_different_lengths(measure):
    with pytest.raises(ValueError, match=r"reconstruction: expected shape \[3, 2048\].* got \[3, 2047\]"):
        measure(sounds(), sounds()[:, 1:])
