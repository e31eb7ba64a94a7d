"""Language models behind an OpenAI-compatible HTTP server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from spae.configs import Count, Weight, checked
from spae.llm import answers
from spae.llm.client import Client, Patience
from spae.llm.protocol import GREEDY, ContextOverflow, Cost, LLMError, Prefix, Sampling
from spae.llm.sampling import uniform
from spae.llm.tokens import LLMTokenizer, server_tokenizer, text_of

T = TypeVar("T")

_LONGEST_TOKEN = 1024  # characters; what a longer answer has beyond those it can need is not read


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server, and how to ask it.

    url: up to the version, "http://127.0.0.1:8000/v1". model: its name there; None takes the only one that
    the server lists. tokenizer: the model's tokenizer on this machine (a name, GGUF file or folder as for
    `spae.llm.load`, "cl100k", or a `TextTokenizer` or `TiktokenTokenizer` of `spae.llm.tokens`): prompts go
    out as text, so that it must be the server's own.
    context_window: None takes what the server says (vLLM's `max_model_len`).
    endpoint: "completions" continues a text; "chat" asks for it as a user's message.
    allowed_ids: how generation is held to the allowed ids. "retry": what came is cut at the first other word
        and asked for again from there; the same position failing `attempts` times, with temperature
        `retry_temperature` after the first, raises LLMError. "server": the ids are sent as vLLM's
        `allowed_token_ids`, and checked.
    concurrency: requests under way at once. log: see `Client`. extra: further fields of every request.
    """

    url: str = field(repr=False)  # it may hold a password
    model: str | None = None
    tokenizer: str | os.PathLike[str] | LLMTokenizer = "smollm2"
    context_window: int | None = None
    endpoint: Literal["completions", "chat"] = "completions"
    allowed_ids: Literal["retry", "server"] = "retry"
    attempts: int = 8
    retry_temperature: float = 0.7
    concurrency: int = 1
    api_key: str | None = field(default=None, repr=False)
    patience: Patience = field(default_factory=Patience)
    log: str | os.PathLike[str] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in (("endpoint", ("completions", "chat")), ("allowed_ids", ("retry", "server"))):
            if getattr(self, name) not in values:
                raise ValueError(f"{name}: expected {' or '.join(values)}, got {getattr(self, name)!r}")
        for name, hint in (
            *(("attempts", Count), ("concurrency", Count)),
            *(("retry_temperature", Weight), ("patience", Patience)),
        ):
            checked(name, getattr(self, name), hint)
        if self.context_window is not None:
            checked("context_window", self.context_window, Count)


@dataclass(frozen=True)
class TextPrefix:
    """A prompt's beginning; a server reads it anew for each prompt, unless it caches prefixes itself."""

    ids: tuple[int, ...]


class HTTPLLM:
    """A `FrozenLLM` behind an OpenAI-compatible server.

    Prompts travel as text and must read back as the same ids (`text_of` says which word does not). Sampling
    is the server's own: greedy is temperature 0, and seeds reach servers that know the field.

    Attributes:
        spent: what has been asked of the server so far, without what came from the log.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        log = None if server.log is None else Path(server.log)
        self._client = Client(server.url, api_key=server.api_key, patience=server.patience, log=log)
        self._tokenizer = server_tokenizer(server.tokenizer)
        self.start_ids = self._tokenizer.start_ids
        self.special_ids = self._tokenizer.special_ids
        self.name, self.context_window = self._about()
        self.identity = f"{self._client.address.url} {self.name}"
        self.spent = Cost()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)

    def check(self, ids: Sequence[int]) -> None:
        text_of(self, ids)

    def prefix(self, ids: Sequence[int], base: Prefix | None = None) -> TextPrefix:
        return TextPrefix((*(base.ids if base else ()), *ids))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        num_tokens: int,
        *,
        prefix: Prefix | None = None,
        allowed: Sequence[Tensor] | None = None,
        sampling: Sampling = GREEDY,
        streams: Sequence[int] | None = None,
        stop: Sequence[int] = (),
    ) -> Tensor:
        if allowed is not None and len(allowed) != num_tokens:
            raise ValueError(f"allowed: expected one set per token ({num_tokens}), got {len(allowed)}")
        streams = list(range(len(prompts))) if streams is None else streams
        if len(streams) != len(prompts):
            raise ValueError(f"streams: expected one per prompt ({len(prompts)}), got {len(streams)}")
        sets = None if allowed is None else [frozenset(ids.tolist()) for ids in allowed]
        whole = self._whole(prompts, prefix, num_tokens)

        async def one(row: int) -> list[int]:
            asked = _Asked(whole[row], num_tokens, sampling, streams[row], tuple(stop))
            return await (self._free(asked) if sets is None else self._constrained(asked, sets))

        rows = self._client.run(self._each(one, len(prompts)))
        padded = [row + [-1] * (num_tokens - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64).reshape(len(prompts), num_tokens)

    def logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        prefix: Prefix | None = None,
    ) -> list[Tensor]:
        """See `FrozenLLM`. Only for servers that return a prompt's log-probabilities (echo with logprobs, as
        vLLM does); LLMError otherwise."""
        if len(continuations) != len(prompts):
            raise ValueError(
                f"continuations: expected one per prompt ({len(prompts)}), got {len(continuations)}"
            )
        whole = self._whole(prompts, prefix, max(map(len, continuations), default=0))

        async def one(row: int) -> Tensor:
            return await self._score(whole[row], list(continuations[row]))

        return self._client.run(self._each(one, len(prompts)))

    async def _each(self, one: Callable[[int], Awaitable[T]], count: int) -> list[T]:
        """`one` of every row, `concurrency` at a time. Once a row has failed no other is begun; those under
        way end, so that their answers are recorded."""
        results: dict[int, T] = {}
        rows, failed = iter(range(count)), []

        async def work() -> None:
            for row in rows:
                try:
                    results[row] = await one(row)
                except Exception as error:
                    failed.append(error)
                if failed:
                    return

        await asyncio.gather(*(work() for _ in range(min(self.server.concurrency, count))))
        if failed:
            raise failed[0]
        return [results[row] for row in range(count)]

    def _whole(
        self, prompts: Sequence[Sequence[int]], prefix: Prefix | None, room: int
    ) -> list[tuple[int, ...]]:
        whole = [(*(prefix.ids if prefix else ()), *prompt) for prompt in prompts]
        for i, ids in enumerate(whole):
            if len(prompts[i]) == 0:
                raise ValueError(f"prompts[{i}]: expected at least one id after the prefix, got none")
            if len(ids) + room > self.context_window:
                raise ContextOverflow(
                    f"prompts: expected at most {self.context_window} tokens, {self.name}'s context window, "
                    f"got {len(ids)} and {room} to follow"
                )
        return whole

    async def _free(self, asked: _Asked) -> list[int]:
        """A row of its own choice. A control token in the text ends it as a stop does: no row holds one."""
        reply = await self._continue(asked, text_of(self, asked.ids), 0, asked.num_tokens, None)
        ids = self._ids(reply, asked.num_tokens)
        ends = self.special_ids.union(asked.stop)
        return next((ids[:i] for i, token in enumerate(ids) if token in ends), ids)

    async def _constrained(self, asked: _Asked, sets: Sequence[frozenset[int]]) -> list[int]:
        done: list[int] = []
        failures = 0
        while len(done) < asked.num_tokens:
            text = text_of(self, (*asked.ids, *done))
            same = next((i for i in range(len(done), len(sets)) if sets[i] != sets[len(done)]), len(sets))
            count = (same if self.server.allowed_ids == "server" else len(sets)) - len(done)
            only = sorted(sets[len(done)]) if self.server.allowed_ids == "server" else None
            reply = await self._continue(asked, text, failures * len(sets) + len(done), count, only)
            taken = self._usable(asked.ids, done, reply, sets[: len(done) + count])
            done += taken
            failures = 0 if taken else failures + 1
            if failures >= self.server.attempts:
                raise LLMError(
                    f"{self.name} gave no allowed word at position {len(done)} in {failures} attempts; "
                    f"the last time it continued with {self._client.address.redact(reply)[:80]!r}"
                )
        return done

    def _usable(
        self, prompt: Sequence[int], done: list[int], reply: str, sets: Sequence[frozenset[int]]
    ) -> list[int]:
        """The beginning of a reply that is allowed and that, as text behind the prompt, reads back."""
        taken: list[int] = []
        sets = sets[len(done) :]
        for token, ids in zip(self._ids(reply, len(sets)), sets, strict=False):
            if token not in ids:
                break
            taken.append(token)
        while taken:
            whole = [*prompt[len(self.start_ids) :], *done, *taken]
            if self.encode(self.decode(whole)) == whole:
                break
            taken.pop()
        return taken

    def _ids(self, reply: str, num_tokens: int) -> list[int]:
        """The first ids of an answer; a server may send more than was asked for."""
        return self.encode(reply[: (num_tokens + 1) * _LONGEST_TOKEN])[:num_tokens]

    async def _continue(
        self, asked: _Asked, text: str, attempt: int, num_tokens: int, only: list[int] | None
    ) -> str:
        sampling = asked.sampling
        again = attempt >= asked.num_tokens
        temperature = max(sampling.temperature, self.server.retry_temperature if again else 0.0)
        body: dict[str, Any] = {"model": self.name, "max_tokens": num_tokens, "temperature": temperature}
        if temperature > 0:
            body["seed"] = int(uniform(sampling.seed, asked.stream, attempt) * 2**31)
        if sampling.top_p is not None:
            body["top_p"] = sampling.top_p
        if sampling.top_k is not None:
            body["top_k"] = sampling.top_k
        if only is not None:
            body["allowed_token_ids"] = only
        if asked.stop:
            body["stop"] = [self.decode([token]) for token in asked.stop]
        if self.server.endpoint == "chat":
            body["messages"] = [{"role": "user", "content": text}]
            path, read = "/chat/completions", answers.message
        else:
            body["prompt"] = text
            path, read = "/completions", answers.completion
        reply, paid = await self._client.post(path, body | self.server.extra, read)
        if paid:
            self.spent += Cost(1, len(asked.ids), num_tokens)
        return reply

    async def _score(self, prompt: tuple[int, ...], continuation: list[int]) -> Tensor:
        text, tail = text_of(self, (*prompt, *continuation)), self.decode(continuation)
        body = {
            "model": self.name,
            "prompt": text,
            "max_tokens": 1,
            "temperature": 0,
            "echo": True,
            "logprobs": 1,
        }

        def read(reply: Any) -> list[float]:
            scored = answers.echoed(reply)
            if scored is None:
                raise LLMError(
                    f"{self.name}: the server returns no log-probabilities of a prompt (echo, logprobs)"
                )
            found = _last_of_prompt(*scored, len(text) - len(tail), len(continuation), tail)
            if found is None:
                raise LLMError(f"{self.name}: the server reads {tail!r} as other tokens than {continuation}")
            return found

        found, paid = await self._client.post("/completions", body | self.server.extra, read)
        if paid:
            self.spent += Cost(1, len(prompt) + len(continuation), 1)
        return torch.tensor(found, dtype=torch.float32)

    def _about(self) -> tuple[str, int]:
        """The model's name and context window, from the server where they are not given."""
        name, window = self.server.model, self.server.context_window
        if name is not None and window is not None:
            return name, window
        listed = self._client.run(self._client.get("/models", answers.models))
        found = [model for model in listed if name in (None, model[0])]
        if len(found) != 1 and name is None:
            raise ValueError(f"model: expected a name, for the server lists {len(found)}, got None")
        if name is None and self._client.address.redact(found[0][0]) != found[0][0]:
            raise ValueError("model: expected a name, for the server's own cannot be shown, got None")
        if window is None:
            window = found[0][1] if found else None
        if window is None:
            raise ValueError("context_window: expected a number, for the server does not say it, got None")
        return name or found[0][0], window


def _last_of_prompt(
    tokens: Sequence[str], values: Sequence[float | None], start: int, count: int, tail: str
) -> list[float] | None:
    """The values of the `count` tokens that are the text `tail` and begin `start` characters in, or None."""
    read = 0
    for first, token in enumerate(tokens):
        if read == start and "".join(tokens[first : first + count]) == tail:
            found = [value for value in values[first : first + count] if value is not None]
            return found if len(found) == count else None
        read += len(token)
    return None


@dataclass(frozen=True)
class _Asked:
    """One row of `generate`."""

    ids: tuple[int, ...]
    num_tokens: int
    sampling: Sampling
    stream: int
    stop: tuple[int, ...]
