"""What brings things as users have them to a tokenizer's images, as it is saved beside a model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spae.configs import Config

if TYPE_CHECKING:
    from typing_extensions import Self

FILE = "preprocessor_config.json"


class Processor(Config):
    """Base of the processors of pictures and of sound: how they go to a file and come back."""

    section = "processor"

    def to_dict(self) -> dict[str, Any]:
        return {"image_processor_type": type(self).__name__, **asdict(self)}  # pyright: ignore

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ValueError for another type, unknown fields and bad values."""
        entries = dict(values)
        if (kind := entries.pop("image_processor_type", cls.__name__)) != cls.__name__:
            raise ValueError(f"image_processor_type: expected {cls.__name__!r}, got {kind!r}")
        return super().from_dict(entries)

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
