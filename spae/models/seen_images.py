"""What a frozen network says of images that training shows again and again, asked once for each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


class SeenImages:
    """Ids by an image's pixels: int64 [B, n] for images [B, ..], each image asked about once.

    On a CPU unknown images are asked about one by one, so that an image's ids never depend on what shares
    its batch: a run that goes on finds what it found before.

    most: how many images are kept, the first that come; an image takes some 300 bytes.
    """

    def __init__(self, most: int = 2**21) -> None:
        self.most = most
        self._known: dict[bytes, Tensor] = {}

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        self._known.clear()

    def ids(self, images: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
        """The ids of images, of those not seen before by `ask`, [b, ..] to int64 [b, n]."""
        pixels = images.detach().cpu().contiguous().view(torch.uint8).flatten(1)
        keys = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in pixels]
        found = {key: self._known[key] for key in keys if key in self._known}
        new = {key: row for row, key in enumerate(keys) if key not in found}
        if new:
            unknown = images[list(new.values())]
            parts = unknown.split(1 if images.device.type == "cpu" else len(unknown))
            found |= dict(
                zip(new, torch.cat([ask(part) for part in parts]).to("cpu", torch.int32), strict=True)
            )
            for key in new:
                if len(self._known) < self.most:
                    self._known[key] = found[key].clone()  # not a view, which would hold its whole batch
        return torch.stack([found[key] for key in keys]).to(images.device, torch.int64)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_known": {}}
