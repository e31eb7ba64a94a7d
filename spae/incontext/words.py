"""Words of one or more ids, where a language model may write nothing else."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from spae.codebook import WordIds
from spae.llm import GREEDY, FrozenLLM, Prefix, Sampling


def ids_of(word: WordIds) -> tuple[int, ...]:
    """A word's ids, one or more."""
    return (word,) if isinstance(word, int) else word


class Trie:
    """Some words by the ids they begin with. Words with one of the `special` ids are left out.

    >>> trie = Trie([5, (5, 7), (6, 8)])
    >>> trie.after(()).tolist(), trie.after((5,)).tolist(), (5,) in trie, (6,) in trie
    ([5, 6], [7], True, False)
    """

    def __init__(self, words: Sequence[WordIds], special: frozenset[int] = frozenset()) -> None:
        self.words = sorted(ids for ids in map(ids_of, words) if not special.intersection(ids))
        self.longest = max(map(len, self.words), default=0)
        self._complete = frozenset(self.words)
        following: dict[tuple[int, ...], set[int]] = {}
        for word in self.words:
            for end, token in enumerate(word):
                following.setdefault(word[:end], set()).add(token)
        self._after = {begin: torch.tensor(sorted(ids)) for begin, ids in following.items()}

    def twin(self) -> Trie:
        """The same words, with a tensor of its own for what they begin with."""
        twin = copy.copy(self)
        twin._after = {**self._after, (): self.after(()).clone()}
        return twin

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, ids: object) -> bool:
        """Whether these ids are a whole word."""
        return ids in self._complete

    def after(self, ids: tuple[int, ...]) -> Tensor:
        """What goes on from the first ids of a word, int64 [m] ascending; [0] where nothing does."""
        return self._after.get(ids, torch.empty(0, dtype=torch.int64))

    def content(self) -> Tensor:
        """All of it: the ids of the words in order; behind each, where they have several, -1."""
        if self.longest <= 1:
            return self.after(())
        return torch.tensor([token for word in self.words for token in (*word, -1)])


def write_words(
    llm: FrozenLLM,
    prompts: Sequence[Sequence[int]],
    tries: Sequence[Trie],
    end: int,
    *,
    prefix: Prefix | None = None,
    sampling: Sampling = GREEDY,
    streams: Sequence[int] | None = None,
) -> list[list[WordIds]]:
    """Continue each prompt by one word of each trie, in order.

    Id by id: after the first ids of a word the model may write what goes on to a word, and, where they are a
    word already, what the next one may begin with; behind the last word that is `end`, which is left out.
    What could be either goes on. Prompts that may take the same ids run together.

    streams: see `FrozenLLM.generate`; below 2^20 in their low 32 bits, so that every id has its own draw.
    """
    streams = range(len(prompts)) if streams is None else streams
    done: list[list[tuple[int, ...]]] = [[] for _ in prompts]
    begun: list[tuple[int, ...]] = [() for _ in prompts]
    for step in range(sum(trie.longest for trie in tries) + 1):
        groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for row in range(len(prompts)):
            if _settle(tries, done[row], begun, row):
                groups.setdefault((len(done[row]), begun[row]), []).append(row)
        if not groups:
            break
        for (place, ids), rows in groups.items():
            trie, goes_on = tries[place], tries[place].after(ids)
            allowed = goes_on
            if ids in trie:
                last = place + 1 == len(tries)
                allowed = torch.cat([goes_on, torch.tensor([end]) if last else tries[place + 1].after(())])
            asked = [[*prompts[row], *(t for word in done[row] for t in word), *begun[row]] for row in rows]
            found = llm.generate(
                asked,
                1,
                prefix=prefix,
                allowed=[allowed.unique()],
                sampling=sampling,
                streams=[streams[row] | step << 20 for row in rows],
            )[:, 0].tolist()
            for row, token in zip(rows, found, strict=True):
                if (goes_on == token).any():
                    begun[row] = (*ids, token)
                else:
                    done[row].append(ids)
                    begun[row] = (token,) if place + 1 < len(tries) else ()
    return [[word[0] if len(word) == 1 else word for word in words] for words in done]


def _settle(
    tries: Sequence[Trie], done: list[tuple[int, ...]], begun: list[tuple[int, ...]], row: int
) -> bool:
    """Take a word that nothing could go on from as done; whether the row still has a word to write."""
    if len(done) < len(tries):
        trie, ids = tries[len(done)], begun[row]
        if ids in trie and not len(trie.after(ids)):
            done.append(ids)
            begun[row] = ()
    return len(done) < len(tries)
