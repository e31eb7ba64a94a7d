"""Asking an HTTP server patiently: retries, hard time limits, a rate limit, and a record of every answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import threading
import time
import warnings
import weakref
from asyncio import sleep
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from spae.configs import Config, Count, Natural, Positive, Weight
from spae.llm.address import Address
from spae.llm.journal import Journal
from spae.llm.protocol import LLMError
from spae.optional import needs

T = TypeVar("T")

_RETRIED = {408, 409, 425, 429}
_NOT_ASKED_FOR = (ValueError, KeyError, TypeError, IndexError, RecursionError)
_LARGEST_EXPLANATION = 1 << 18  # so that no part of a secret at its end is among what is shown
_SHOWN = 300
_LOOKS_UP = 0.2  # seconds, for interrupts


@dataclass(frozen=True)
class Patience(Config):
    """How a server is asked.

    timeout: seconds for one answer, from the first attempt to connect to the last byte; nothing the server
    sends extends it. connect_timeout: seconds to reach the server. retries: further attempts after a failure
    that may pass: no connection, a time-out, a closed connection, an answer that is not what was asked for,
    status 408, 409, 425, 429 or 5xx.
    backoff: seconds before the first further attempt, doubled each time, with jitter, up to max_backoff; a
    server's Retry-After counts instead, up to max_backoff. requests_per_minute: the rate limit; None is none.
    largest_answer: bytes; a longer answer is not read further.
    """

    section = "patience"

    timeout: Positive = 120.0
    connect_timeout: Positive = 10.0
    retries: Natural = 5
    backoff: Weight = 1.0
    max_backoff: Weight = 60.0
    requests_per_minute: Positive | None = None
    largest_answer: Count = 1 << 24


class Client:
    """JSON requests to one server, on an event loop of its own thread; `run` is the way onto it.

    Safe to use from several threads. log: a JSONL file of every answer by the hash of its request; what is in
    it is not asked again.
    """

    def __init__(self, url: str, *, api_key: str | None, patience: Patience, log: Path | None) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ImportError(needs("asking a server", "httpx")) from error
        self.address = Address.parse(url, api_key)
        # Encoded answers could be of any size once decoded.
        headers = {"Accept-Encoding": "identity"}
        if self.address.api_key:
            headers["Authorization"] = f"Bearer {self.address.api_key}"
        try:
            httpx.URL(self.address.url)
        except httpx.InvalidURL as error:
            raise ValueError(
                f"url: expected one that can be asked, got {self.address.url!r} ({error})"
            ) from error
        self._httpx = httpx
        self._client = httpx.AsyncClient(
            headers=headers,
            auth=self.address.login,
            timeout=httpx.Timeout(patience.timeout, connect=patience.connect_timeout),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )
        self._patience = patience
        self._journal = None if log is None else Journal(log)
        self._under_way: dict[str, asyncio.Future[Any]] = {}
        self._next_start = 0.0
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(self._loop, self._client), daemon=True)
        thread.start()
        self._stop = weakref.finalize(self, _stop, self._loop)

    def close(self) -> None:
        self._stop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns. An interrupt (Ctrl-C) ends it, and whatever it waits for, at once."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            # A signal that comes just before this thread falls asleep does not wake it: it must look itself.
            while not future.done():
                wait([future], timeout=_LOOKS_UP)
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def get(self, path: str, read: Callable[[Any], T]) -> T:
        """What `read` makes of the answer to a GET. Never from the log."""
        return (await self._ask("GET", path, None, read))[1]

    async def post(self, path: str, body: dict[str, Any], read: Callable[[Any], T]) -> tuple[T, bool]:
        """(what `read` makes of the answer, whether this call was what it was asked for).

        `read` gets the parsed JSON and raises ValueError, KeyError, TypeError or IndexError for an answer
        that is not what was asked for; that is a failure like any other. Only what it accepts is recorded.
        The same request from several callers at once is asked once.

        Raises:
            LLMError: every attempt failed; the message says how often and how the last one did. `read` may
                raise it too where asking again would not help.
        """
        request = json.dumps([self.address.url, path, body], sort_keys=True)
        key = hashlib.sha256(request.encode()).hexdigest()
        while (pending := self._under_way.get(key)) is not None:
            await asyncio.wait({pending})
            if not pending.cancelled():
                return read(pending.result()), False
        if (logged := self._logged(key, read)) is not None:
            return logged[0], False
        self._under_way[key] = pending = self._loop.create_future()
        try:
            reply, value = await self._ask("POST", path, body, read)
            if self._journal is not None:
                entry = {"path": path, "request": body, "reply": reply, "time": time.time()}
                self._journal.put(key, entry)
            pending.set_result(reply)
        except LLMError as error:
            pending.set_exception(error)
            pending.exception()  # it need not have other callers
            raise
        finally:
            del self._under_way[key]
            pending.cancel()  # where neither was set, the others ask themselves
        return value, True

    def _logged(self, key: str, read: Callable[[Any], T]) -> tuple[T] | None:
        entry = None if self._journal is None else self._journal.get(key)
        if entry is None:
            return None
        try:
            return (read(entry["reply"]),)
        except _NOT_ASKED_FOR as error:
            fault = self.address.redact(f"{type(error).__name__}: {error}")[:_SHOWN]
            warnings.warn(f"an answer in the log is asked for again, it is unusable ({fault})", stacklevel=2)
            return None

    async def _ask(self, method: str, path: str, body: Any, read: Callable[[Any], T]) -> tuple[Any, T]:
        patience, where = self._patience, f"{self.address.url}{path}"
        fault = ""
        for attempt in range(patience.retries + 1):
            await self._turn()
            wait: float | None = None
            try:
                status, headers, content = await self._within_the_limit(self._request(method, path, body))
                if status == 200:
                    reply = json.loads(content)
                    return reply, read(reply)
                fault = f"status {status}: {content.decode('utf-8', 'replace')}"
                if status not in _RETRIED and status < 500:
                    raise LLMError(f"{where} refused the request with {self._shown(fault)}")
                wait = _seconds(headers.get("retry-after"))
            except self._httpx.TransportError as error:
                fault = f"{type(error).__name__}: {error}"
            except _NOT_ASKED_FOR as error:
                fault = f"an answer that is not what was asked for ({type(error).__name__}: {error})"
            if attempt < patience.retries:
                backoff = patience.backoff * 2**attempt * random.uniform(0.5, 1.0)
                await sleep(min(backoff if wait is None else wait, patience.max_backoff))
        raise LLMError(
            f"{where} failed {patience.retries + 1} times, the last time with {self._shown(fault)}"
        )

    def _shown(self, fault: str) -> str:
        return self.address.redact(fault)[:_SHOWN]

    async def _within_the_limit(self, work: Coroutine[Any, Any, T]) -> T:
        # httpx's own time-outs run from byte to byte, headers included: a server that trickles outlasts them.
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            done, _ = await asyncio.wait({task}, timeout=self._patience.timeout)
        finally:
            task.cancel()
        if not done:
            raise self._httpx.ReadTimeout(f"no whole answer in {self._patience.timeout} s")
        return task.result()

    async def _request(self, method: str, path: str, body: Any) -> tuple[int, Any, bytes]:
        content = bytearray()
        async with self._client.stream(method, self.address.url + path, json=body) as response:
            if response.status_code == 200:
                largest = self._patience.largest_answer
                if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
                    raise ValueError(f"expected no encoding, got {encoding}")
            else:
                largest = _LARGEST_EXPLANATION
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > largest:
                    if response.status_code == 200:
                        raise ValueError(f"expected at most {largest} bytes, got more")
                    break
            return response.status_code, response.headers, bytes(content[:largest])

    async def _turn(self) -> None:
        """Wait for this request's turn under the rate limit."""
        if self._patience.requests_per_minute is None:
            return
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + 60 / self._patience.requests_per_minute
        await sleep(start - now)


def _serve(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(client.aclose())
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header in seconds; its other form, a date, is left to the back-off."""
    try:
        return None if retry_after is None else max(0.0, float(retry_after))
    except ValueError:
        return None
