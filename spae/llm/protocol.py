"""What spae asks of a language model that never trains: tokens in, tokens or their probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from torch import Tensor

from spae.configs import Config, Count, Range, Weight


class LLMError(RuntimeError):
    """A language model gave nothing usable: no answer, or one that breaks what was asked."""


class ContextOverflow(ValueError):
    """A prompt and what should follow it do not fit the context window."""


@dataclass(frozen=True)
class Sampling(Config):
    """How the next token is chosen.

    temperature: 0 takes the likeliest allowed token (the lowest id of equals); otherwise the logits are
    divided by it. top_k, top_p: sample only among the k likeliest, or the fewest whose probability reaches p.
    seed: with the row's stream number and the position it fixes every draw, so results depend neither on
    batching nor on what was resumed.
    """

    section = "sampling"

    temperature: Weight = 0.0
    top_k: Count | None = None
    top_p: Annotated[float, Range(0, 1, "left")] | None = None
    seed: int = 0


GREEDY = Sampling()


@dataclass(frozen=True)
class Cost:
    """What a run asks of a model, every prompt counted in full: what a server charges for."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def price(self, per_million_prompt: float, per_million_completion: float) -> float:
        """In the currency of the two prices, each for a million tokens."""
        return (
            self.prompt_tokens * per_million_prompt + self.completion_tokens * per_million_completion
        ) / 1e6


class Prefix(Protocol):
    """A prompt's beginning that the model has read; what `FrozenLLM.prefix` returns."""

    @property
    def ids(self) -> tuple[int, ...]:
        """All the tokens read, the base's included."""
        ...


class FrozenLLM(Protocol):
    """A frozen language model. Everything is in the ids of its own tokenizer.

    A prompt is the sequence of ids after `prefix` (or after nothing); it is never empty. Nothing is added to
    it: `start_ids` are for whoever builds the prompt to put first.
    """

    @property
    def name(self) -> str:
        """What a report calls the model."""
        ...

    @property
    def identity(self) -> str:
        """A string that differs where the model's answers may: part of the key of whatever is stored."""
        ...

    @property
    def context_window(self) -> int:
        """How many tokens prompt and answer may have together."""
        ...

    @property
    def start_ids(self) -> tuple[int, ...]:
        """The ids that every prompt of this model begins with (Gemma's <bos>); often none."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Control tokens: they steer the model or its server, so no generated word may be one."""
        ...

    def encode(self, text: str) -> list[int]:
        """A text's ids, nothing added; text that spells a control token is read as plain text where the
        tokenizer can."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, control tokens included and nothing cleaned up."""
        ...

    def check(self, ids: Sequence[int]) -> None:
        """Raises ValueError if a prompt of these ids cannot be given to the model as it is."""
        ...

    def prefix(self, ids: Sequence[int], base: Prefix | None = None) -> Prefix:
        """Read the beginning of some prompts once: `base`'s tokens, then `ids`. `base` stays valid."""
        ...

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
        """Continue prompts: int64 [B, num_tokens] on the CPU.

        Args:
            prompts: B sequences of ids, of any lengths >= 1.
            prefix: what all of them begin with, read already.
            allowed: for each of the num_tokens positions the ids it may take, int64 [m] ascending, m >= 1;
                None leaves every id but the special ones that are not in `stop`.
            streams: a number for each row that its random draws follow; None means 0..B-1.
            stop: ids that end a row. The stop and whatever would follow are -1.

        Raises:
            ContextOverflow: a prompt with num_tokens more does not fit.
            LLMError: the model (a server) gave no usable answer.
        """
        ...

    def logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        prefix: Prefix | None = None,
    ) -> list[Tensor]:
        """The natural-log probability of each given token after those before it, over the whole vocabulary.

        Row i scores `continuations[i]` (n_i >= 1 ids) after `prefix` and `prompts[i]`: float32 [n_i] on the
        CPU. Sum them for the continuation's log-probability.
        """
        ...
