"""How the words of a tokenizer's codebook are written in a language model, and which ones it may write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from spae.checksum import checksum
from spae.codebook import CodeTable, WordIds, spellings
from spae.incontext.words import Trie, ids_of
from spae.llm import FrozenLLM
from spae.tokenizers import PyramidTokens, Tokenizer
from spae_ops import Pyramid


class Lexicon:
    """PyramidTokens as ids of a language model and back, with the ids that each position may take.

    `Lexicon.of(model, llm)` makes that of a tokenizer.

    codebook, pyramid: the tokenizer's.
    masks: bool [K] over codebook rows, one for all layers or one per layer: True = may be generated. None
        means every word. The model's control tokens (`llm.special_ids`) are never allowed, and every layer
        needs at least one word that is.
    llm_ids: int64 [K], how the words are written in place of the codebook's own ids (`borrow_words`).

    Raises ValueError for masks that leave a layer without words, for a codebook without LLM ids or with
    repeated ones, and for one of another model's vocabulary: the model does not read its ids as its words.
    """

    def __init__(
        self,
        codebook: CodeTable,
        pyramid: Pyramid,
        llm: FrozenLLM,
        masks: Tensor | Sequence[Tensor] | None = None,
        *,
        llm_ids: Tensor | None = None,
    ) -> None:
        self.codebook = codebook
        self.pyramid = pyramid
        self._borrowed = llm_ids is not None
        llm_ids = llm_ids if self._borrowed else codebook.llm_ids
        if llm_ids is None:
            raise ValueError(
                f"codebook: expected one with llm_ids, got {codebook.name!r}, which is in no language; "
                f"its codes may borrow words (spae.incontext.borrow_words)"
            )
        self._words = spellings(llm_ids)
        self._rows = {word: row for row, word in enumerate(self._words)}
        if len(self._rows) != len(codebook):
            raise ValueError(
                f"codebook: expected distinct llm_ids, got {codebook.name!r}, which repeats some"
            )
        if not self._borrowed:
            _check_words(codebook, self._words, llm)
        known: dict[int, Trie] = {}  # a mask of several layers is looked through once
        self._tries: list[Trie] = []
        for layer, mask in enumerate(_per_layer(masks, pyramid, len(codebook))):
            if id(mask) not in known:
                known[id(mask)] = self._trie(layer, mask, llm.special_ids)
            self._tries.append(known[id(mask)].twin())
        self._layer_of = [layer for layer, size in enumerate(pyramid.tokens_per_layer) for _ in range(size)]

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, llm: FrozenLLM, masks: Tensor | Sequence[Tensor] | None = None
    ) -> Lexicon:
        """That of a tokenizer: each layer's words are those of its vocabulary there (`Tokenizer.word_masks`)
        that `masks` allow, or those that it borrowed (`borrow_words`)."""
        codebook, own = tokenizer.codebook, tokenizer.word_masks
        if own is not None:
            given = _per_layer(masks, tokenizer.pyramid, len(codebook))
            masks = [mask & words for mask, words in zip(given, own.cpu(), strict=True)]
        return cls(codebook, tokenizer.pyramid, llm, masks, llm_ids=tokenizer.borrowed_ids)

    def _trie(self, layer: int, mask: Tensor, special: frozenset[int]) -> Trie:
        words = [self._words[row] for row in mask.nonzero()[:, 0].tolist()]
        trie = Trie(words, special)
        if not trie:
            raise ValueError(
                f"masks: expected a word that may be generated in each layer, got none in layer {layer}"
            )
        return trie

    def llm_ids(self, tokens: PyramidTokens) -> list[tuple[WordIds, ...]]:
        """Each image's words as the language model's ids, layer by layer in raster order: a word's id, or a
        tuple where it has several. Raises ValueError for tokens of another pyramid and for an id that is no
        row of the codebook."""
        if tokens.pyramid != self.pyramid:
            raise ValueError(f"tokens: expected {self.pyramid}, got {tokens.pyramid}")
        tokens.check_rows(len(self._words))
        return [tuple(self._words[row] for row in image) for image in tokens.ids.tolist()]

    def tokens(self, llm_ids: Sequence[Sequence[WordIds]]) -> PyramidTokens:
        """The inverse of `llm_ids`. Raises ValueError for an id that no word of the codebook has."""
        rows = []
        for image, ids in enumerate(llm_ids):
            if unknown := [(i, token) for i, token in enumerate(ids) if token not in self._rows]:
                position, token = unknown[0]
                raise ValueError(
                    f"llm_ids[{image}]: expected ids of words of codebook {self.codebook.name!r}, got "
                    f"{token!r:.40} at position {position}"
                )
            if len(ids) != len(llm_ids[0]):
                raise ValueError(
                    f"llm_ids[{image}]: expected {len(llm_ids[0])} ids as in llm_ids[0], got {len(ids)}"
                )
            rows.append([self._rows[token] for token in ids])
        empty = torch.empty(0, self.pyramid.tokens_per_layer[0], dtype=torch.int64)
        return PyramidTokens(torch.tensor(rows, dtype=torch.int64) if rows else empty, self.pyramid)

    def allowed(self, position: int) -> Tensor:
        """The ids that the token at a position of the answer may take, or begin with where words have
        several, int64 [m] ascending. One tensor per layer: positions of one layer share the object."""
        return self.trie(position).after(())

    def trie(self, position: int) -> Trie:
        """The words that may stand at a position of the answer, by their ids."""
        if not 0 <= position < len(self._layer_of):
            raise ValueError(f"position: expected 0..{len(self._layer_of) - 1}, got {position}")
        return self._tries[self._layer_of[position]]

    def longest(self, num_layers: int | None = None) -> int:
        """How many ids a word of the first layers (None: all) may have."""
        return max(trie.longest for trie in self._tries[:num_layers])

    def lengths(self, num_tokens: int) -> list[int]:
        """How many ids the word at each of the first positions may have."""
        return [self.trie(position).longest for position in range(num_tokens)]

    def check_single(self, positions: Iterable[int]) -> None:
        """Raises ValueError if a word at one of some positions may have several ids."""
        for position in positions:
            if (longest := self.trie(position).longest) > 1:
                raise ValueError(
                    f"lexicon: expected words of one id each, "
                    f"got words of up to {longest} at position {position}"
                )

    def word(self, llm_id: WordIds) -> str:
        """The codebook's word for an id of the language model, or for several."""
        if llm_id not in self._rows:
            name = self.codebook.name
            raise ValueError(f"llm_id: expected that of a word of codebook {name!r}, got {llm_id!r}")
        return self.codebook.words[self._rows[llm_id]]

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the codebook, the pyramid and what is allowed where."""
        sets = [part for trie in self._tries for part in (len(trie).to_bytes(8, "little"), trie.content())]
        borrowed = [repr(self._words)] if self._borrowed else []  # of others the codebook's checksum knows
        return checksum([f"{self.codebook.checksum} {self.pyramid}", *sets, *borrowed])


def seen_masks(tokens: PyramidTokens, num_words: int) -> list[Tensor]:
    """For each layer the words that occur there in some images: bool [num_words] per layer, for `Lexicon`'s
    masks. Layers that the tokens do not hold allow every word. Raises ValueError for an id that is no row."""
    tokens.check_rows(num_words)
    masks = []
    for layer in range(tokens.pyramid.num_layers):
        held = layer < tokens.num_layers
        mask = torch.full((num_words,), not held)
        if held:
            mask[tokens.layer(layer).cpu().flatten()] = True
        masks.append(mask)
    return masks


def speaks(codebook: CodeTable, llm: FrozenLLM) -> bool:
    """Whether a codebook's words are those of a language model, by a look at words spread over it."""
    return codebook.llm_ids is not None and not _foreign(codebook, spellings(codebook.llm_ids), llm)


def _check_words(codebook: CodeTable, ids: list[WordIds], llm: FrozenLLM) -> None:
    """Raises ValueError unless words spread over the codebook are those of the model's vocabulary."""
    if row := _foreign(codebook, ids, llm):
        raise ValueError(
            f"codebook: expected the words of {llm.name}, where id {ids[row[0]]} is {row[1]!r}, got "
            f"{codebook.words[row[0]]!r} in {codebook.name!r}"
        )


def _foreign(
    codebook: CodeTable, ids: list[WordIds], llm: FrozenLLM, at_most: int = 256
) -> tuple[int, str] | None:
    """The first of some rows, spread over the codebook, whose word is another in the model's vocabulary, and
    which it is there."""
    for row in range(0, len(codebook), max(1, len(codebook) // at_most)):
        word = codebook.words[row]
        # Pieces of characters and control tokens have no text of their own that both would show alike.
        if word.isascii() and word.strip().isalnum() and (read := llm.decode(ids_of(ids[row]))) != word:
            return row, read
    return None


def _per_layer(masks: Tensor | Sequence[Tensor] | None, pyramid: Pyramid, num_words: int) -> list[Tensor]:
    num_layers = pyramid.num_layers
    if masks is None:
        masks = torch.ones(num_words, dtype=torch.bool)
    layers = [masks] * num_layers if isinstance(masks, Tensor) else list(masks)
    if len(layers) != num_layers:
        raise ValueError(f"masks: expected one per layer ({num_layers}), got {len(layers)}")
    for layer, mask in enumerate(layers):
        known = isinstance(mask, Tensor)
        if not known or mask.dtype != torch.bool or tuple(mask.shape) != (num_words,):
            got = f"{mask.dtype} {list(mask.shape)}" if known else type(mask).__name__
            raise ValueError(f"masks[{layer}]: expected bool [{num_words}], got {got}")
    return [mask.cpu() for mask in layers]
