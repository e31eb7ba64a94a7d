"""Prompts that share their beginnings, read once."""

from __future__ import annotations

from collections.abc import Sequence

from spae.llm import FrozenLLM, Prefix


class Reader:
    """What the language model has read last, section by section; what a next prompt shares is not read
    again."""

    def __init__(self, llm: FrozenLLM) -> None:
        self.llm = llm
        self._chain: list[tuple[list[int], Prefix]] = []

    def read(self, sections: Sequence[list[int]]) -> Prefix | None:
        known = 0
        while known < min(len(self._chain), len(sections)) and self._chain[known][0] == sections[known]:
            known += 1
        del self._chain[known:]
        for section in sections[known:]:
            base = self._chain[-1][1] if self._chain else None
            self._chain.append((section, self.llm.prefix(section, base)))
        return self._chain[-1][1] if self._chain else None
