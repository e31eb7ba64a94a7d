"""Language models on this machine, through transformers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import takewhile
from operator import index
from typing import Any

import torch
from torch import Tensor

from spae.configs import Count, checked
from spae.devices import checked_device
from spae.llm import folders, lora
from spae.llm.protocol import GREEDY, ContextOverflow, Prefix, Sampling
from spae.llm.reading import Network, Reading, ReadPrefix, check_prefix
from spae.llm.sampling import choose
from spae.llm.tokens import TextTokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WORTH_SHARING = 16


def load(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    pack_tokens: int = 2048,
    progress: bool = True,
) -> LocalLLM:
    """A model by name, from a GGUF file, from a folder or from an adapter's; see `spae.llm.load`.

    Args:
        dtype: of the weights and the computation, one of float32, bfloat16, float16, by name or torch's own.
        pack_tokens: how many tokens of different prompts run as one sequence at most; a longer prompt runs
            alone.
        progress: report conversion and download on stderr.
    """
    named = str(dtype).removeprefix("torch.")
    if named not in _DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(_DTYPES)}, got {dtype!r}")
    device = checked_device(device)
    checked("pack_tokens", pack_tokens, Count)
    transformers = folders.require_transformers()
    adapter = source if isinstance(source, (str, os.PathLike)) and lora.is_adapter(source) else None
    name, identity, path = folders.folder(
        source if adapter is None else lora.base_of(adapter), progress=progress
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=_DTYPES[named], local_files_only=True
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    if adapter is not None:
        model, identity = lora.merged(model, adapter), f"{identity}-lora-{lora.identity_of(adapter)}"
    return LocalLLM(
        model.to(device), tokenizer, name=name, identity=f"{identity}-{named}", pack_tokens=pack_tokens
    )


class LocalLLM:
    """A `FrozenLLM` on this machine: any causal language model of transformers with attention in every layer.

    Prompts that share a prefix run as one sequence behind it: each token sees the prefix and its own prompt,
    by the attention mask, and stands at the position it has in its own prompt. So the prefix's keys and
    values are held once, prompts of different lengths need no padding, and the results are those of one
    prompt at a time up to rounding.

    Args:
        model, tokenizer: of transformers. The model is set to evaluation; nothing ever trains it.
        name, identity: see `FrozenLLM`; by default the model's own.
        pack_tokens: see `load`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str | None = None,
        identity: str | None = None,
        pack_tokens: int = 2048,
    ) -> None:
        self._network = Network(model)
        self._tokenizer = TextTokenizer(tokenizer)
        self._pack_tokens = pack_tokens
        self._packs_rightly: bool | None = None
        self.name = name or str(model.name_or_path) or type(model).__name__
        self.identity = identity or self.name
        self.context_window: int = self._network.config.max_position_embeddings
        self.start_ids = self._tokenizer.start_ids
        self.special_ids = self._tokenizer.special_ids
        self._vocabulary: int = self._network.config.vocab_size

    @property
    def device(self) -> torch.device:
        return self._network.device

    def trainable(self) -> AbstractContextManager[Any]:
        """The model of transformers, frozen as it is, for what trains through it: with an attention that can
        be differentiated whatever the processor."""
        return self._network.trainable()

    @contextmanager
    def more_embeddings(self, rows: Tensor) -> Iterator[None]:
        """Inside, ids from `vocabulary_size` on stand for rows [n, D] in place of embeddings; they can be
        read, not written."""
        known = self._vocabulary
        with self._network.more_embeddings(known, rows):
            self._vocabulary = known + len(rows)
            try:
                yield
            finally:
                self._vocabulary = known

    @property
    def vocabulary_size(self) -> int:
        """How many ids the model knows: 0 up to this one."""
        return self._vocabulary

    @property
    def width(self) -> int:
        """Of the model's embeddings."""
        return self._network.config.hidden_size

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)

    def check(self, ids: Sequence[int]) -> None:
        self._check_ids("prompt", ids)

    def prefix(self, ids: Sequence[int], base: Prefix | None = None) -> ReadPrefix:
        self._check_ids("ids", ids)
        self._check_room(ids, base, 0)
        with Reading(self._network, base) as reading:
            if ids:
                reading.read([list(ids)], [0], [])
            prefix = ReadPrefix((*(base.ids if base else ()), *ids), reading.memory)
            reading.memory.hold(prefix)
        return prefix

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
        options = {"prefix": prefix, "allowed": allowed, "sampling": sampling, "streams": streams}
        return self.generate_scored(prompts, num_tokens, **options, stop=stop)[0]

    def generate_scored(
        self,
        prompts: Sequence[Sequence[int]],
        num_tokens: int,
        *,
        prefix: Prefix | None = None,
        allowed: Sequence[Tensor] | None = None,
        sampling: Sampling = GREEDY,
        streams: Sequence[int] | None = None,
        stop: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor]:
        """`generate`, and what `logprobs` gives for its tokens, float32 [B, num_tokens]; 0 after a stop."""
        if not isinstance(num_tokens, int) or num_tokens < 0:
            raise ValueError(f"num_tokens: expected 0 or more, got {num_tokens!r}")
        self._check_prompts("prompts", prompts, prefix, num_tokens)
        streams = range(len(prompts)) if streams is None else streams
        _check_lengths(prompts, num_tokens, allowed, streams, self._vocabulary)
        sets = None if allowed is None else [ids.to(self.device) for ids in allowed]
        result = torch.full((len(prompts), num_tokens), -1)
        scores = torch.zeros(len(prompts), num_tokens)
        if num_tokens == 0:
            return result, scores
        hidden = sorted(self.special_ids - set(stop))
        for rows, tails, base in self._packs(prompts, prefix, num_tokens):
            with Reading(self._network, base) as reading:
                live, inputs = list(range(len(rows))), tails
                for position in range(num_tokens):
                    ends = torch.tensor([len(tail) for tail in inputs]).cumsum(0) - 1
                    logits = reading.read(inputs, live, ends.tolist())
                    total = logits.logsumexp(dim=1).cpu()
                    if sets is None:
                        logits[:, hidden] = -torch.inf
                        columns = torch.arange(logits.shape[1])
                    else:
                        columns = sets[position]
                        logits = logits[:, columns]
                    picks = choose(logits, sampling, [streams[rows[row]] for row in live], position)
                    found = logits.cpu().gather(1, picks[:, None])[:, 0] - total
                    chosen = columns.cpu()[picks].tolist()
                    scored = dict(zip(live, found.tolist(), strict=True))
                    live, chosen = _still_running(live, chosen, stop)
                    places = [rows[row] for row in live]
                    result[places, position] = torch.tensor(chosen, dtype=torch.int64)
                    scores[places, position] = torch.tensor([scored[row] for row in live])
                    if not live:
                        break
                    inputs = [[token] for token in chosen]
        return result, scores

    def likeliest(
        self, prompts: Sequence[Sequence[int]], k: int, *, allowed: Tensor, prefix: Prefix | None = None
    ) -> Tensor:
        """The k likeliest next ids of each prompt among `allowed`; see `spae.llm.ranking.likeliest`."""
        self._check_prompts("prompts", prompts, prefix, 1)
        _check_lengths(prompts, 1, [allowed], range(len(prompts)), self._vocabulary)
        result = torch.empty(len(prompts), k, dtype=torch.int64)
        columns = allowed.to(self.device)
        for rows, tails, base in self._packs(prompts, prefix, 1):
            ends = torch.tensor([len(tail) for tail in tails]).cumsum(0) - 1
            with Reading(self._network, base) as reading:
                logits = reading.read(tails, list(range(len(rows))), ends.tolist())[:, columns]
            for place in range(k):
                best = logits.argmax(dim=1, keepdim=True)
                result[rows, place] = allowed[best[:, 0].cpu()]
                logits.scatter_(1, best, -torch.inf)
        return result

    def logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        prefix: Prefix | None = None,
    ) -> list[Tensor]:
        if len(continuations) != len(prompts):
            raise ValueError(
                f"continuations: expected one per prompt ({len(prompts)}), got {len(continuations)}"
            )
        self._check_prompts("prompts", prompts, prefix, max(map(len, continuations), default=0))
        for i, continuation in enumerate(continuations):
            self._check_ids(f"continuations[{i}]", continuation)
            if not continuation:
                raise ValueError(f"continuations[{i}]: expected at least one id, got none")
        result: list[Tensor] = [torch.empty(0)] * len(prompts)
        room = max(map(len, continuations), default=0)
        for rows, tails, base in self._packs(prompts, prefix, room):
            # The last token is scored, not read.
            texts = [[*tail, *continuations[row][:-1]] for row, tail in zip(rows, tails, strict=True)]
            keep, end = [], 0
            for row, text in zip(rows, texts, strict=True):
                end += len(text)
                keep.extend(range(end - len(continuations[row]), end))
            with Reading(self._network, base) as reading:
                logits = reading.read(texts, list(range(len(rows))), keep)
            targets = torch.tensor([token for row in rows for token in continuations[row]])
            scores = logits.log_softmax(dim=1).cpu().gather(1, targets[:, None])[:, 0]
            for row, part in zip(rows, scores.split([len(continuations[row]) for row in rows]), strict=True):
                result[row] = part
        return result

    def _packs(
        self, prompts: Sequence[Sequence[int]], prefix: Prefix | None, room: int
    ) -> Iterator[tuple[list[int], list[list[int]], Prefix | None]]:
        """Rows that run as one sequence: (which, what is left of their prompts, the prefix they share)."""
        tails = [list(prompt) for prompt in prompts]
        if len(tails) > 1:
            shortest = min(map(len, tails)) - 1
            columns = zip(*(tail[:shortest] for tail in tails), strict=True)
            common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
            if common >= _WORTH_SHARING:
                prefix = self.prefix(tails[0][:common], prefix)
                tails = [tail[common:] for tail in tails]
        pack: list[int] = []
        size = 0
        for row, tail in enumerate(tails):
            if pack and size + len(tail) + room > self._pack_tokens:
                yield pack, [tails[i] for i in pack], prefix
                pack, size = [], 0
            if pack:
                self._check_packing()
            pack.append(row)
            size += len(tail) + room
        if pack:
            yield pack, [tails[i] for i in pack], prefix

    def _check_packing(self) -> None:
        """Whether the model honours the mask and the positions that packing needs; some architectures do
        not."""
        if self._packs_rightly is None:
            first, second = [5, 7, 3], [2, 4, 6]
            alone = torch.cat([self._read_once([ids], [0], [2]) for ids in (first, second)])
            try:
                packed = self._read_once([first, second], [0, 1], [2, 5])
            except (ValueError, RuntimeError, TypeError, IndexError):  # a mask it was not made for
                packed = torch.full_like(alone, torch.inf)
            self._packs_rightly = bool((packed - alone).abs().max() < 0.1 * alone.std())
        if not self._packs_rightly:
            raise ValueError(
                f"pack_tokens: expected 1 for {self._network.name}, which does not take the "
                f"attention mask that several prompts in one sequence need, got {self._pack_tokens}"
            )

    def _read_once(self, *arguments: Any) -> Tensor:
        with Reading(self._network, None) as reading:
            return reading.read(*arguments)

    def _check_prompts(
        self, name: str, prompts: Sequence[Sequence[int]], prefix: Prefix | None, room: int
    ) -> None:
        for i, prompt in enumerate(prompts):
            self._check_ids(f"{name}[{i}]", prompt)
            if not len(prompt):
                raise ValueError(f"{name}[{i}]: expected at least one id after the prefix, got none")
            self._check_room(prompt, prefix, room)

    def _check_ids(self, name: str, ids: Sequence[int]) -> None:
        if not hasattr(ids, "__len__"):
            raise TypeError(f"{name}: expected a sequence of ids, got {ids!r:.80}")
        for position, token in enumerate(ids):
            if not _is_id(token, self._vocabulary):
                raise ValueError(
                    f"{name}: expected ids 0 to {self._vocabulary - 1}, "
                    f"got {token!r:.40} at position {position}"
                )

    def _check_room(self, prompt: Sequence[int], prefix: Prefix | None, room: int) -> None:
        check_prefix(prefix)
        length = len(prefix.ids if prefix else ()) + len(prompt)
        if length + room > self.context_window:
            raise ContextOverflow(
                f"prompts: expected at most {self.context_window} tokens, {self.name}'s context window, got "
                f"{length} and {room} to follow"
            )


def _check_lengths(
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    allowed: Sequence[Tensor] | None,
    streams: Sequence[int],
    vocabulary: int,
) -> None:
    if len(streams) != len(prompts):
        raise ValueError(f"streams: expected one per prompt ({len(prompts)}), got {len(streams)}")
    if allowed is None:
        return
    if len(allowed) != num_tokens:
        raise ValueError(f"allowed: expected one set per token ({num_tokens}), got {len(allowed)}")
    for position, ids in enumerate(allowed):
        if not isinstance(ids, Tensor) or ids.ndim != 1 or ids.dtype != torch.int64 or len(ids) == 0:
            got = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(f"allowed[{position}]: expected int64 [m] with m >= 1, got {got}")
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= vocabulary:
            got = low if low < 0 else high
            raise ValueError(f"allowed[{position}]: expected ids 0 to {vocabulary - 1}, got {got}")


def _is_id(token: Any, vocabulary: int) -> bool:
    try:
        return 0 <= index(token) < vocabulary
    except TypeError:
        return False


def _still_running(rows: list[int], chosen: list[int], stop: Sequence[int]) -> tuple[list[int], list[int]]:
    kept = [(row, token) for row, token in zip(rows, chosen, strict=True) if token not in stop]
    return [row for row, _ in kept], [token for _, token in kept]
