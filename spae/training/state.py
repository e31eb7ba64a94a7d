"""The state of a run as tensors (safetensors) and JSON, so that reading it back never runs what it holds."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_TENSORS, _TREE = "state.safetensors", "state.json"


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state dict of any depth: dicts, lists and tuples of tensors, numbers, strings, bools and None.

    Raises TypeError, which names the place, for a value of any other kind.
    """
    tensors: dict[str, Tensor] = {}
    tree = _encode(state, "", tensors)
    save_file(_apart(tensors), folder / _TENSORS)
    (folder / _TREE).write_text(json.dumps(tree), encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """What `write_state` wrote, tensors on the CPU."""
    # Copies: the loaded tensors are views of the mapped file, and optimizers keep what they are given.
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / _TENSORS).items()}
    return _decode(json.loads((folder / _TREE).read_text(encoding="utf-8")), tensors)


def random_state(device: torch.device) -> dict[str, Any]:
    """Of this process's generators, as JSON: Python's, NumPy's, torch's and, if it has one, the device's."""
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": _hex(torch.get_rng_state()),
        "device": None if device.type == "cpu" else _hex(torch.get_device_module(device).get_rng_state()),
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore what `random_state` gave."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(_bytes(state["torch"]))
    if state["device"] is not None:
        torch.get_device_module(device).set_rng_state(_bytes(state["device"]))


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON, where an object has one entry, its kind; tensors go into `tensors`."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"dict": [[key, _encode(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"state{path}: expected tensors and plain values, got {type(value).__name__}")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and no two in the same memory (tied weights), as safetensors wants them."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        tensor = tensor.cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart
