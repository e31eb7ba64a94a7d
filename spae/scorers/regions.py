"""What a scorer sees in every region of every image of a data set, computed once."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spae import assets
from spae.assets.resumable import resumable
from spae.losses.regions import Regions
from spae.scorers.features import dataset_features, finite
from spae.scorers.protocol import unit

_VERSION = 1
_FILE = "features.npy"


def region_features(
    scorer: Any, dataset: Any, regions: Regions, *, chunk: int = 64, progress: bool = True
) -> Tensor:
    """A scorer's feature of every region of every image, float32 [N, R, E] on the CPU; not to be modified.

    Crops are enlarged to the image's size before the scorer sees them. Of clips it sees frames, and the
    whole's feature is their mean, of unit length. Its features are kept in the cache,
    under the scorer's checksum, the regions and the images' pixels; an interrupted computation goes on where
    it stopped. A scorer that reads captions has one feature for an image, and nothing is kept of it.

    Args:
        scorer: an `ImageTextScorer`.
        dataset: of known length, whose items are or begin with an image float [3, H, W] or a clip
            [3, T, H, W] in [-1, 1].
        chunk: images per call, and per file that survives an interruption.

    Raises:
        ValueError: crops for a scorer that reads captions; or as `dataset_features`.
    """
    if hasattr(scorer, "caption_features"):
        if regions.moments > 1:
            raise ValueError(
                f"regions.moments: expected 1 for {scorer.name}, which reads names and sees no frames, "
                f"got {regions.moments}"
            )
        if len(regions) > 1:
            raise ValueError(
                f"regions.grids: expected (1,) for {scorer.name}, which reads names and sees no pixels, "
                f"got {regions.grids}"
            )
        return dataset_features(scorer, dataset, progress=progress)[:, None]
    total = len(dataset)
    moments = [regions.moments] if regions.moments > 1 else []
    described = json.dumps([_VERSION, scorer.checksum, regions.grids, regions.context, *moments])
    digest = hashlib.sha256(described.encode())
    for item in range(total):
        image = _image(dataset[item])
        digest.update(f"{tuple(image.shape)}".encode() + image.float().numpy().tobytes())
    slug = re.sub(r"[^\w.-]+", "-", scorer.name)
    entry = f"image-features/{slug}-{total}-{len(regions)}-{digest.hexdigest()[:16]}"
    parts = assets.cache_root() / "derived" / f"{entry}.parts"

    def compute(items: list[int]) -> np.ndarray:
        images = torch.stack([_image(dataset[item]) for item in items])
        return finite(_of_regions(scorer, images, regions), scorer.name, items).numpy()

    def build(into: Any) -> None:
        what = f"{scorer.name}: images in {len(regions)} regions"
        done = resumable(compute, range(total), parts, chunk=chunk, progress=progress, what=what)
        np.save(into / _FILE, done)

    folder = assets.cached(entry, build)
    shutil.rmtree(parts, ignore_errors=True)
    # Copy on write: torch wants an array that may be written to, and the file must not be.
    return torch.from_numpy(np.load(folder / _FILE, mmap_mode="c"))


@torch.no_grad()
def _of_regions(scorer: Any, images: Tensor, regions: Regions) -> Tensor:
    """Images [B, 3, H, W], or clips [B, 3, T, H, W] -> [B, R, E]."""
    if images.ndim == 5 and len(regions.grids) > 1:
        raise ValueError(f"regions.grids: expected (1,) for clips, got {regions.grids}")
    if images.ndim != 5 and regions.moments > 1:
        raise ValueError(f"regions.moments: expected 1 for images, got {regions.moments}")
    if images.ndim == 5:
        return _of_frames(scorer, images, regions)
    size = tuple(images.shape[2:])
    seen = []
    for top, left, height, width in regions.boxes(*size):
        crops = images[..., top : top + height, left : left + width]
        if (height, width) != size:
            crops = F.interpolate(crops, size, mode="bilinear", antialias=True)
        seen.append(scorer.image_features(crops))
    return torch.stack(seen, 1)


def _of_frames(scorer: Any, clips: Tensor, regions: Regions) -> Tensor:
    seen = torch.stack(
        [scorer.image_features(clips[:, :, time]) for time in regions.frames(clips.shape[2])], 1
    )
    if regions.moments == 1:
        return seen
    return torch.cat([unit(seen.mean(1, keepdim=True)), seen], 1)


def _image(sample: Any) -> Tensor:
    return sample[0] if isinstance(sample, list | tuple) else sample
