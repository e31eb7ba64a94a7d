"""Saved tokenizers: where they are found, and the codebooks that they name or bring with them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from spae.assets.hub import is_repository, snapshot
from spae.codebook import NAMES, Codebook
from spae.processing import FILE as PROCESSOR

WEIGHTS, CONFIG, CODEBOOK = "model.safetensors", "config.json", "codebook"
ROWS = "codebook_rows"  # in the weights' file beside the state dict, if the codebook is a part of a table
BUNDLED = Path(__file__).parent.parent / "bundled"


def bundled_models() -> list[str]:
    """Names of the models that come with the package, for ``SPAE.from_pretrained(name)``."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG}"))


@dataclass(frozen=True)
class SavedCodebook:
    """A frozen codebook as a checkpoint has it.

    identity: `Codebook.identity()`. rows: int64 [K], which rows of the source; None: all. folder: the
    checkpoint's, which holds the codebook itself if no source makes it again.
    """

    identity: dict[str, Any]
    rows: Tensor | None
    folder: Path

    def load(self) -> Codebook:
        """Raises ValueError if the codebook is neither there nor known by name."""
        if (self.folder / CODEBOOK).is_dir():
            return Codebook.load(self.folder / CODEBOOK)
        # Checkpoints of before the subsets have no source.
        source = self.identity.get("source", self.identity.get("name"))
        if source not in NAMES:
            raise ValueError(
                f"codebook: expected the checkpoint's, {self.identity}, got none: it has no name that "
                "Codebook.load knows; pass that codebook"
            )
        whole = Codebook.load(source)
        try:
            part = whole if self.rows is None else whole.subset(self.rows, name=self.identity.get("name"))
            return part.normalised(self.identity.get("normalisation", "none"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.folder}: codebook: {error}") from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises FileNotFoundError or ValueError, which name the file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected a tokenizer's weights, got no such file")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file}: expected a tokenizer's weights, got what is none ({error})") from error


def find(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a saved tokenizer: a folder, a bundled model's name, or a hub repository, downloaded.

    Only a string "owner/name" whose first part is no folder here is looked up on the hub: any other spelling
    is a path.

    Raises FileNotFoundError if there is none; the message says what was looked for.
    """
    expected = f"a folder with {CONFIG}, a bundled model ({', '.join(bundled_models())}) or a hub repository"
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"name: expected {expected}, got {name!r:.80}")
    for folder in (Path(name), BUNDLED / str(name)):
        if (folder / CONFIG).is_file():
            return folder
    if not is_repository(name):
        raise FileNotFoundError(f"name: expected {expected}, got {str(name)!r}")
    options = {
        "revision": revision,
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
    }
    try:
        folder = snapshot(str(name), [WEIGHTS, CONFIG, PROCESSOR, f"{CODEBOOK}/*"], **options)
    except LookupError as error:
        raise FileNotFoundError(
            f"name: expected {expected}, got {str(name)!r}, which the hub does not give: {error}"
        ) from error
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"name: expected a hub repository with {CONFIG}, got {str(name)!r} without")
    return folder
