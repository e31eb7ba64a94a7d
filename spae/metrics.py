"""Measures of reconstructions and of how a codebook is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Usage(NamedTuple):
    """distinct: how many codes occur. perplexity: exp of the entropy of their frequencies, at most
    `distinct`."""

    distinct: int
    perplexity: float


def psnr(images: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, float32 [B]; both [B, C, *shape] in [-1, 1] (peak 2).

    >>> psnr(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.2))
    tensor([20.])
    """
    if images.shape != reconstruction.shape:
        raise ValueError(
            f"reconstruction: expected shape {list(images.shape)}, got {list(reconstruction.shape)}"
        )
    mse = (images.float() - reconstruction.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / mse)


def psnr_per_frame(clips: Tensor, reconstruction: Tensor) -> Tensor:
    """`psnr` of each frame, float32 [B, T]; both [B, C, T, H, W] in [-1, 1].

    >>> psnr_per_frame(torch.zeros(1, 3, 2, 4, 4), torch.full((1, 3, 2, 4, 4), 0.2))
    tensor([[20., 20.]])
    """
    _check_clips(clips, reconstruction)
    frames, made = (video.transpose(1, 2).flatten(0, 1) for video in (clips, reconstruction))
    return psnr(frames, made).reshape(len(clips), clips.shape[2])


def temporal_difference_error(clips: Tensor, reconstruction: Tensor) -> Tensor:
    """How far the changes from frame to frame are off, mean ((y_t+1 - y_t) - (x_t+1 - x_t))^2 of each clip x
    and its reconstruction y, float32 [B]; both [B, C, T, H, W], T of at least 2.

    A still error, the same in all frames, is none of it; flicker is.

    >>> clips = torch.zeros(1, 3, 3, 4, 4)
    >>> temporal_difference_error(clips, clips + 0.2)
    tensor([0.])
    """
    _check_clips(clips, reconstruction)
    if clips.shape[2] < 2:
        raise ValueError(f"clips: expected at least 2 frames, got {list(clips.shape)}")
    return (reconstruction.float() - clips.float()).diff(dim=2).square().flatten(1).mean(1)


def _check_clips(clips: Tensor, reconstruction: Tensor) -> None:
    if clips.shape != reconstruction.shape or clips.ndim != 5:
        raise ValueError(
            f"reconstruction: expected shape {list(clips.shape)}, that of clips [B, C, T, H, W], got "
            f"{list(reconstruction.shape)}"
        )


def ssim(images: Tensor, reconstruction: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004), float32 [B]; both [B, C, H, W] in [-1, 1].

    As published: a Gaussian window of 11 x 11 pixels (of fewer where a side is shorter) with standard
    deviation 1.5, K1 = 0.01, K2 = 0.03, the mean over all whole windows and channels.

    >>> ssim(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    tensor([1.])
    """
    _check_pair(images, reconstruction)
    return _similarity(images.double(), reconstruction.double())[0].float()


MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""The published exponents of the five scales, finest first."""


def ms_ssim(images: Tensor, reconstruction: Tensor) -> Tensor:
    """Multi-scale structural similarity of each image (Wang et al. 2003), float32 [B]; arguments as `ssim`.

    The published five scales take sides of 176 pixels or more, for the 11 x 11 window is to lie in the
    coarsest; of smaller images the scales are those that hold it (`ms_ssim_scales`), with the first of the
    exponents made to sum to 1, so figures of different image sizes do not compare. A scale's contrast that is
    negative counts as 0.

    >>> ms_ssim(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    tensor([1.])
    """
    _check_pair(images, reconstruction)
    x, y = images.double(), reconstruction.double()
    scales = ms_ssim_scales(images.shape[-2:])
    weights = [weight / sum(MS_SSIM_WEIGHTS[:scales]) for weight in MS_SSIM_WEIGHTS[:scales]]
    result = torch.ones(len(x), dtype=x.dtype, device=x.device)
    for scale, weight in enumerate(weights):
        whole, contrast = _similarity(x, y)
        last = scale + 1 == scales
        result = result * (whole if last else contrast).clamp_min(0) ** weight
        if not last:
            x, y = (F.avg_pool2d(pixels, 2) for pixels in (x, y))
    return result.float()


def ms_ssim_scales(shape: Sequence[int]) -> int:
    """How many scales `ms_ssim` has for images of a height and width.

    >>> ms_ssim_scales((32, 32)), ms_ssim_scales((256, 256))
    (2, 5)
    """
    side, scales = min(shape), 1
    while side // 2 >= _WINDOW and scales < len(MS_SSIM_WEIGHTS):
        side, scales = side // 2, scales + 1
    return scales


def frechet_distance(features: Tensor, others: Tensor) -> float:
    """The squared Fréchet distance of the Gaussians that fit two sets of features [N, E] and [M, E] (Dowson &
    Landau 1982; of Inception's features it is the FID of Heusel et al. 2017).

    It is biased: the fewer the rows, the larger. Compare only figures of as many images.
    """
    _check_sets(features, others)
    x, y = features.double(), others.double()
    means = (x.mean(0) - y.mean(0)).square().sum()
    a, b = (_factor(rows) for rows in (x, y))
    # With covariances a'a and b'b, the eigenvalues of their product are the squared singular values of a b'.
    return float(means + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum())


def kernel_distance(features: Tensor, others: Tensor) -> tuple[float, float]:
    """The squared maximum mean discrepancy, unbiased, of two sets of features [N, E], and its standard error.

    The kernel is (x.y / E + 1)^3; of Inception's features the distance is the KID of Binkowski et al. 2018.
    The standard error is the jackknife's over pairs of rows: each is left out of both sets in turn.
    """
    _check_sets(features, others, alike=True)
    x, y = features.double(), others.double()
    count = len(x)

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        return (p @ q.T / x.shape[1] + 1) ** 3

    inner = (kernel(x, x) + kernel(y, y)).fill_diagonal_(0)
    cross = kernel(x, y)
    of_row = cross.sum(0) + cross.sum(1) - cross.diagonal()
    value = inner.sum() / (count * (count - 1)) - 2 * cross.sum() / count**2
    without = (inner.sum() - 2 * inner.sum(1)) / ((count - 1) * (count - 2))
    without = without - 2 * (cross.sum() - of_row) / (count - 1) ** 2
    variance = (without - without.mean()).square().sum() * (count - 1) / count
    return float(value), float(variance.sqrt())


def class_score(log_probabilities: Tensor) -> float:
    """exp of the mean divergence of each image's classes from those of all: how sure a classifier is of each
    image, and how different the images are; 1 to the number of classes, more is better. Of Inception it is
    the Inception score (Salimans et al. 2016), of one split.

    log_probabilities: [N, classes], each row's exp sums to 1.

    >>> class_score(torch.eye(4).log())
    4.0
    """
    if log_probabilities.ndim != 2 or not len(log_probabilities):
        raise ValueError(
            f"log_probabilities: expected shape [N, classes], got {list(log_probabilities.shape)}"
        )
    p = log_probabilities.double().exp()
    # The mean over images of the divergence is the entropy of the mean less the mean entropy.
    return float(torch.exp(_entropy(p.mean(0)) - _entropy(p).mean()))


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(-1)


def _factor(rows: Tensor) -> Tensor:
    """A matrix whose product with itself, a'a, is the covariance of rows [N, E]; min(N, E) rows."""
    centred = (rows - rows.mean(0)) / (len(rows) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R if len(rows) > rows.shape[1] else centred


def _check_sets(features: Tensor, others: Tensor, *, alike: bool = False) -> None:
    least = 3 if alike else 2
    if features.ndim != 2 or len(features) < least:
        raise ValueError(f"features: expected shape [N, E] with N >= {least}, got {list(features.shape)}")
    rows = str(len(features)) if alike else "M"
    fits = others.ndim == 2 and others.shape[1] == features.shape[1]
    if not fits or (len(others) != len(features) if alike else len(others) < 2):
        raise ValueError(f"others: expected shape [{rows}, {features.shape[1]}], got {list(others.shape)}")


def _check_pair(images: Tensor, reconstruction: Tensor) -> None:
    if images.shape != reconstruction.shape or images.ndim != 4:
        raise ValueError(
            f"reconstruction: expected shape {list(images.shape)}, that of images [B, C, H, W], got "
            f"{list(reconstruction.shape)}"
        )


_WINDOW = 11


def _similarity(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM of each image, and its factor of contrast and structure alone; float64 [B, C, H, W] -> [B]."""
    x, y = (pixels.flatten(0, 1)[:, None] for pixels in (images, others))
    weights = [_gaussian(min(_WINDOW, side), x) for side in x.shape[-2:]]
    kernel = torch.outer(*weights)[None, None]

    def local(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel)

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    contrast = (2 * covariance + c2) / (var_x + var_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    whole, contrast = (
        index.flatten(1).mean(1).reshape(images.shape[:2]).mean(1)
        for index in (luminance * contrast, contrast)
    )
    return whole, contrast


def _gaussian(count: int, like: Tensor) -> Tensor:
    places = torch.arange(count, dtype=like.dtype, device=like.device) - (count - 1) / 2
    weights = torch.exp(-places.square() / (2 * 1.5**2))
    return weights / weights.sum()


def log_spectral_distance(sound: Tensor, reconstruction: Tensor, *, window: int = 256) -> Tensor:
    """Log-spectral distance of each recording in dB, float32 [B]; both [B, n], n at least `window` samples.

    The root mean square over frequencies of the difference of power spectra in dB, the mean over frames (of
    `window` samples under a Hann window, half a window apart). What is 60 dB or more below the loudest of
    `sound` counts as 60 dB below.

    >>> tone = torch.sin(torch.arange(512) / 3)[None]
    >>> log_spectral_distance(tone, tone)
    tensor([0.])
    """
    x, y = (_magnitudes(one, window, window // 2) for one in _pair(sound, reconstruction, window))
    least = x.amax((1, 2), keepdim=True) * 1e-3
    difference = 20 * torch.log10(x.maximum(least) / y.maximum(least))
    difference = torch.where(least > 0, difference, 0.0 * y)  # nothing is below silence
    return difference.square().mean(1).sqrt().mean(1).float()


def multi_resolution_stft(
    sound: Tensor, reconstruction: Tensor, *, windows: tuple[int, ...] = (128, 256, 512)
) -> Tensor:
    """The multi-resolution STFT distance (Yamamoto et al. 2020) of each recording, float32 [B]; both [B, n].

    The mean over window lengths (Hann, a quarter apart) of spectral convergence, || |X| - |Y| || / || |X| ||
    with Frobenius norms, and the mean of |log |X| - log |Y||, magnitudes of at least 1e-5. X is of `sound`.
    Differentiable in both.

    >>> tone = torch.sin(torch.arange(512) / 3)[None]
    >>> multi_resolution_stft(tone, tone)
    tensor([0.])
    """
    pair = _pair(sound, reconstruction, max(windows))
    total = torch.zeros(len(sound), dtype=torch.float64, device=sound.device)
    for window in windows:
        x, y = (_magnitudes(one, window, window // 4).clamp(min=1e-5) for one in pair)
        convergence = (x - y).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
        total = total + convergence + (x.log() - y.log()).abs().flatten(1).mean(1)
    return (total / len(windows)).float()


def _pair(sound: Tensor, reconstruction: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if sound.shape != reconstruction.shape or sound.ndim != 2 or sound.shape[1] < least:
        raise ValueError(
            f"reconstruction: expected shape {list(sound.shape)}, that of recordings [B, n] of {least} "
            f"samples or more, got {list(reconstruction.shape)}"
        )
    return sound.double(), reconstruction.double()


def _magnitudes(sound: Tensor, window: int, hop: int) -> Tensor:
    """Of whole frames, float64 [B, window // 2 + 1, frames]."""
    weights = torch.hann_window(window, dtype=sound.dtype, device=sound.device)
    return torch.stft(sound, window, hop, window=weights, center=False, return_complex=True).abs()


def codebook_usage(ids: Tensor) -> Usage:
    """Distinct codes and perplexity of int64 ids of any shape.

    >>> codebook_usage(torch.tensor([[7, 7, 3, 5]]))
    Usage(distinct=3, perplexity=2.82842712474619)
    """
    counts = torch.unique(ids, return_counts=True)[1].double()
    p = counts / counts.sum()
    return Usage(len(counts), float(torch.exp(-(p * p.log()).sum())))
