"""Checkpoints of a run: folders that appear whole or not at all, and that are looked over before use.

A checkpoint `step-00000500` holds

    state.safetensors, state.json   networks, optimizers, averages: see `state`
    random-0.json ..                the random number generators of each process
    checkpoint.json                 the manifest: step, settings, the SHA-256 of each file, and its own

It is written under another name, forced out to the disk and renamed when it is complete; older ones go only
then.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from spae.assets import sha256
from spae.training.disk import flush
from spae.training.processes import on_each, on_main
from spae.training.state import random_state, read_state, set_random_state, write_state

if TYPE_CHECKING:
    from accelerate import Accelerator

_MANIFEST = "checkpoint.json"
_NAME = re.compile(r"step-(\d{8,})")
_FILE = re.compile(r"[\w-]+\.\w+", re.ASCII)
_KINDS = {"step": int, "seconds": (int, float), "settings": dict, "files": dict}


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, or could not be written. The message names the file."""


@dataclass(frozen=True)
class Found:
    """The newest whole checkpoint with its manifest, and the damaged ones that are newer."""

    folder: Path
    manifest: dict[str, Any]
    damaged: list[Path] = field(default_factory=list)


def save_checkpoint(
    accelerator: Accelerator,
    root: str | Path,
    state: Mapping[str, Any],
    info: Mapping[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Write the checkpoint of `info["step"]` under `root`, then delete all but the newest `keep`.

    Every process must call this; the main one's `state` is written (see `write_state`), and each one's random
    number generators. `info` (JSON) goes into the manifest, with "step", "seconds" and "settings". Nodes must
    share the file system. Returns the folder.

    Raises CheckpointError if it cannot be written, for a full disk, say; the checkpoints before it are left.
    """
    root = Path(root)
    final = root / f"step-{info['step']:08d}"
    partial = root / f"{final.name}.partial"
    generators = partial / f"random-{accelerator.process_index}.json"
    try:
        on_main(accelerator, lambda: _begin(partial, state))
        content = json.dumps(random_state(accelerator.device))
        on_each(accelerator, lambda: generators.write_text(content, encoding="utf-8"))
        on_main(accelerator, lambda: _complete(partial, final, info))
    except (OSError, SafetensorError) as error:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        before = ", ".join(folder.name for folder in checkpoints(root)) or "none"
        raise CheckpointError(f"{final}: could not be written ({error}); kept: {before}") from error
    on_main(accelerator, lambda: _prune(root, keep))
    return final


def load_checkpoint(accelerator: Accelerator, folder: str | Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote; sets this process's random number generators."""
    folder = Path(folder)
    generators = folder / f"random-{accelerator.process_index}.json"
    set_random_state(json.loads(generators.read_text(encoding="utf-8")), accelerator.device)
    return read_state(folder)


def checkpoints(root: str | Path) -> list[Path]:
    """The checkpoints under `root` by name, oldest first, damaged ones among them."""
    steps = {int(m[1]): f for f in Path(root).glob("step-*") if (m := _NAME.fullmatch(f.name))}
    return [steps[step] for step in sorted(steps)]


def latest(root: str | Path) -> Path | None:
    """The newest whole checkpoint under `root`, as `newest_whole` finds it, or None."""
    found = newest_whole(root)
    return None if found is None else found.folder


def newest_whole(root: str | Path) -> Found | None:
    """The newest checkpoint of which every file is what was written; None if there are none at all.

    Warns of each newer one that is damaged, and of the file that is. Raises CheckpointError if all are.
    """
    problems: list[str] = []
    damaged: list[Path] = []
    for folder in reversed(checkpoints(root)):
        try:
            manifest = read_manifest(folder)
        except CheckpointError as error:
            problems.append(str(error))
            damaged.append(folder)
            continue
        for problem in problems:
            warnings.warn(f"damaged checkpoint: {problem}; using {folder.name}", RuntimeWarning, stacklevel=2)
        return Found(folder, manifest, damaged)
    if problems:
        raise CheckpointError(f"no checkpoint is whole: {'; '.join(problems)}. Restore one, or start afresh")
    return None


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a checkpoint, of which every file has been compared with its SHA-256.

    Raises CheckpointError, which names the first file that is missing or damaged.
    """
    file = Path(folder) / _MANIFEST
    try:
        text = file.read_text(encoding="utf-8")
        manifest = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: expected a manifest, got {error}") from error
    if not isinstance(manifest, dict) or not all(
        isinstance(manifest.get(name), kind) for name, kind in _KINDS.items()
    ):
        raise CheckpointError(f"{file}: expected an object with {', '.join(_KINDS)}")
    manifest.pop("sha256", None)
    if text != sealed(manifest):
        raise CheckpointError(f"{file}: its content is not what was written")
    for name, digest in manifest["files"].items():
        if not _FILE.fullmatch(name):
            raise CheckpointError(f"{file}: expected names of files in its folder, got {name!r}")
        try:
            found = sha256(file.parent / name)
        except OSError as error:
            raise CheckpointError(f"{file.parent / name}: {error.strerror or error}") from error
        if found != digest:
            raise CheckpointError(f"{file.parent / name}: expected SHA-256 {digest}, got {found}")
    return manifest


def set_aside(damaged: list[Path]) -> None:
    """Rename damaged checkpoints to `NAME.damaged`, so that they neither count nor stand in the way."""
    for folder in damaged:
        aside = folder.with_name(folder.name + ".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)


def _begin(partial: Path, state: Mapping[str, Any]) -> None:
    for unfinished in partial.parent.glob("step-*.partial"):
        shutil.rmtree(unfinished)
    partial.mkdir(parents=True)
    write_state(partial, state)


def _complete(partial: Path, final: Path, info: Mapping[str, Any]) -> None:
    files = sorted(partial.iterdir())
    manifest = {**info, "files": {file.name: sha256(file) for file in files}}
    (partial / _MANIFEST).write_text(sealed(manifest), encoding="utf-8")
    for path in (*files, partial / _MANIFEST, partial):
        flush(path)
    os.replace(partial, final)
    flush(final.parent)


def _prune(root: Path, keep: int) -> None:
    for old in checkpoints(root)[:-keep]:
        # Under its own name it must never be seen half deleted.
        partial = old.with_name(old.name + ".partial")
        os.replace(old, partial)
        shutil.rmtree(partial)


def sealed(manifest: Mapping[str, Any]) -> str:
    """The text of a manifest, with the SHA-256 of what it says."""
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=1) + "\n"
