"""Devices that users name."""

from __future__ import annotations

from typing import Any

import torch


def checked_device(device: Any) -> torch.device:
    """The device by torch's name for it. Raises ValueError for what is none."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device: expected one of torch's, got {device!r} ({error})") from error
