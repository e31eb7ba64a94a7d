import math

import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.eval.reconstruction import evaluate_reconstruction, layer_table
from spae.figures import pyramid_text, reconstruction_page, shown
from spae.metrics import codebook_usage, psnr, ssim
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
