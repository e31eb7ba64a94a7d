"""What a server's answers must be: each is checked whole before anything is made of it or recorded.

The functions take parsed JSON and raise ValueError, KeyError, TypeError or IndexError for anything else.
"""

from __future__ import annotations

from typing import Any

_LEAST = -3.4e38  # of float32


def completion(answer: Any) -> str:
    """The text of a completion."""
    return text(_choice(answer)["text"])


def message(answer: Any) -> str:
    """The text of a chat completion."""
    return text(_of(dict, _choice(answer)["message"])["content"])


def echoed(answer: Any) -> tuple[list[str], list[float | None]] | None:
    """(tokens, the natural-log probability of each) of a prompt and what follows it; None if the server gives
    none. Only the first token may lack a probability, for nothing stands before it."""
    logprobs = _choice(answer).get("logprobs")
    if logprobs is None:
        return None
    tokens = [text(token) for token in _of(list, _of(dict, logprobs)["tokens"])]
    values = _of(list, logprobs["token_logprobs"])
    if len(tokens) != len(values):
        raise ValueError(f"token_logprobs: expected one per token ({len(tokens)}), got {len(values)}")
    for position, value in enumerate(values):
        if value is None and position == 0:
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not _LEAST <= value <= 0:
            raise ValueError(
                f"token_logprobs[{position}]: expected a finite number up to 0, got {value!r:.40}"
            )
    return tokens, values


def models(answer: Any) -> list[tuple[str, int | None]]:
    """(name, context window or None) of each model that a server lists."""
    return [
        (text(_of(dict, model)["id"]), _window(model.get("max_model_len")))
        for model in _of(list, _of(dict, answer)["data"])
    ]


def text(value: Any) -> str:
    """A string that has an encoding: JSON may hold half a surrogate pair."""
    _of(str, value).encode()
    return value


def _window(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _choice(answer: Any) -> dict[str, Any]:
    return _of(dict, _of(list, _of(dict, answer)["choices"])[0])


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        name = "text" if kind is str else kind.__name__
        raise TypeError(f"expected a {name}, got {type(value).__name__}")
    return value
