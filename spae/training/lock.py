"""One run at a time in a folder."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from spae.training.processes import on_main

if TYPE_CHECKING:
    from accelerate import Accelerator


class RunInUseError(RuntimeError):
    """Another run is at work in the folder. The message says which process on which host."""


class RunLock:
    """The right to write in a run's folder, as a context that may be entered again inside itself.

    The processes of a run share one: its main process holds it. The system takes it from a process that dies,
    so what a killed run leaves behind locks nobody out.

    Raises RunInUseError, in all processes, if another run has it.
    """

    def __init__(self, accelerator: Accelerator, folder: Path):
        self.accelerator, self.folder = accelerator, folder
        self._lock = FileLock(folder / "run.lock")
        # Beside the lock, not in it: some systems let nobody else read a locked file.
        self._owner = folder / "run.owner.json"

    def __enter__(self) -> RunLock:
        on_main(self.accelerator, self._acquire)
        return self

    def _acquire(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunInUseError(
                f"{self.folder}: another run is at work in it ({self._describe_owner()}); "
                "wait for its end, or use another output_dir"
            ) from None
        owner = {"host": socket.gethostname(), "pid": os.getpid()}
        try:
            self._owner.write_text(json.dumps(owner), encoding="utf-8")
        except OSError:
            self._lock.release()
            raise

    def _describe_owner(self) -> str:
        try:
            owner = json.loads(self._owner.read_text(encoding="utf-8"))
            return f"process {owner['pid']} on {owner['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "process unknown"

    def __exit__(self, *_: object) -> None:
        if self.accelerator.is_main_process:
            self._lock.release()
