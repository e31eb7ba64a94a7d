"""A clean end on SIGINT (Ctrl-C) and SIGTERM."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopSignals:
    """Context that notes the first SIGINT or SIGTERM in `received`, and gives the next one its usual effect.

    Outside the main thread, where Python allows no handlers, it notes nothing.
    """

    def __init__(self):
        self.received = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, *_: Any) -> None:
        self.received = True
        self.__exit__()

    def __exit__(self, *_: Any) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


def ignore_in_worker(_worker: int) -> None:
    """For a loader's processes: Ctrl-C reaches them too, but they must live until the trainer closes them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
