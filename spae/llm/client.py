"""Asking an HTTP server patiently: retries, time-outs, a rate limit, and a record of every answer."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spae.llm.journal import Journal
from spae.llm.protocol import LLMError
from spae.optional import needs

_RETRIED = {408, 409, 425, 429}
_LARGEST_REPLY = 1 << 26


@dataclass(frozen=True)
class Patience:
    """How a server is asked.

    timeout: seconds for one answer, from the request to its last byte. connect_timeout: seconds to reach the
    server. retries: further attempts after a failure that may pass: no connection, a time-out, a closed
    connection, an answer that is not what was asked for, status 408, 409, 425, 429 or 5xx.
    backoff: seconds before the first further attempt, doubled each time, with jitter, up to max_backoff; a
    server's Retry-After counts instead, up to max_backoff. requests_per_minute: the rate limit; None is none.
    """

    timeout: float = 120.0
    connect_timeout: float = 10.0
    retries: int = 5
    backoff: float = 1.0
    max_backoff: float = 60.0
    requests_per_minute: float | None = None


class Client:
    """JSON requests to one server. Safe to use from several threads.

    log: a JSONL file of every answer by the hash of its request; what is in it is not asked again.
    """

    def __init__(self, url: str, *, api_key: str | None, patience: Patience, log: Path | None) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ImportError(needs("asking a server", "httpx")) from error
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._httpx = httpx
        self._url = url.rstrip("/")
        self._client = httpx.Client(
            headers=headers, timeout=httpx.Timeout(patience.timeout, connect=patience.connect_timeout)
        )
        self._patience = patience
        self._journal = None if log is None else Journal(log)
        self._lock = threading.Lock()
        self._next_start = 0.0

    def close(self) -> None:
        self._client.close()

    def get(self, path: str) -> Any:
        """GET, as parsed JSON. Never from the log."""
        return self._ask("GET", path, None, lambda reply: reply)

    def post(self, path: str, body: dict[str, Any], read: Callable[[Any], Any]) -> tuple[Any, bool]:
        """(what `read` makes of the answer, whether the answer was in the log).

        `read` gets the parsed JSON and raises ValueError, KeyError, TypeError or IndexError for an answer
        that is not what was asked for; that is a failure like any other.

        Raises:
            LLMError: every attempt failed; the message says how often and how the last one did.
        """
        key = hashlib.sha256(json.dumps([self._url, path, body], sort_keys=True).encode()).hexdigest()
        if self._journal is not None and (logged := self._journal.get(key)) is not None:
            return read(logged["reply"]), True
        kept: list[Any] = []

        def read_and_keep(reply: Any) -> Any:
            value = read(reply)
            kept.append(reply)
            return value

        value = self._ask("POST", path, body, read_and_keep)
        if self._journal is not None:
            self._journal.put(key, {"path": path, "request": body, "reply": kept[-1], "time": time.time()})
        return value, False

    def _ask(self, method: str, path: str, body: Any, read: Callable[[Any], Any]) -> Any:
        patience = self._patience
        for attempt in range(patience.retries + 1):
            self._wait_for_turn()
            wait: float | None = None
            try:
                status, headers, content = self._request(method, path, body)
                if status == 200:
                    return read(json.loads(content))
                fault = f"status {status}: {content[:300].decode('utf-8', 'replace')}"
                if status not in _RETRIED and status < 500:
                    raise LLMError(f"{self._url}{path} refused the request with {fault}")
                wait = _seconds(headers.get("retry-after"))
            except self._httpx.TransportError as error:
                fault = f"{type(error).__name__}: {error}"
            except (ValueError, KeyError, TypeError, IndexError) as error:
                fault = f"an answer that is not what was asked for ({type(error).__name__}: {error})"
            if attempt < patience.retries:
                backoff = patience.backoff * 2**attempt * random.uniform(0.5, 1.0)
                time.sleep(min(backoff if wait is None else wait, patience.max_backoff))
        raise LLMError(f"{self._url}{path} failed {patience.retries + 1} times, the last time with {fault}")

    def _request(self, method: str, path: str, body: Any) -> tuple[int, Any, bytes]:
        # httpx's time-out runs from byte to byte: a server that trickles must not hold us either.
        deadline = time.monotonic() + self._patience.timeout
        content = bytearray()
        with self._client.stream(method, self._url + path, json=body) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if time.monotonic() > deadline:
                    raise self._httpx.ReadTimeout(f"no whole answer in {self._patience.timeout} s")
                if len(content) > _LARGEST_REPLY:
                    raise ValueError(f"more than {_LARGEST_REPLY} bytes")
            return response.status_code, response.headers, bytes(content)

    def _wait_for_turn(self) -> None:
        if self._patience.requests_per_minute is None:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + 60 / self._patience.requests_per_minute
        time.sleep(start - now)


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header in seconds; its other form, a date, is left to the back-off."""
    try:
        return None if retry_after is None else max(0.0, float(retry_after))
    except ValueError:
        return None
