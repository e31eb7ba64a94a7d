"""tiktoken's cl100k_base: its ranks, wherever they lie."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from pathlib import Path

from spae import assets

_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"


def ranks_file(*, progress: bool = True) -> Path:
    """The file of ranks: from our cache, else from tiktoken's own, else fetched."""
    try:
        return assets.path("cl100k")
    except assets.AssetNotCached:
        folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
        folder = Path(folder or Path(tempfile.gettempdir()) / "data-gym-cache")
        file = folder / hashlib.sha1(_URL.encode()).hexdigest()
        expected = assets.REGISTRY["cl100k"].files[0].sha256
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == expected:
            return file
        return assets.require("cl100k", progress=progress)


def ranks(file: Path) -> dict[bytes, int]:
    """Each token's rank, which is its id, ascending."""
    lines = (line.split() for line in file.read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}
