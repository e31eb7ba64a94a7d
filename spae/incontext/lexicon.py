"""How the words of a tokenizer's codebook are written in a language model, and which ones it may write."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from spae.codebook import Codebook
from spae.llm import FrozenLLM
from spae.tokenizers import PyramidTokens
from spae_ops import Pyramid


class Lexicon:
    """PyramidTokens as ids of a language model and back, with the ids that each position may take.

    codebook, pyramid: the tokenizer's (``Lexicon(model.codebook, model.pyramid, llm)``).
    masks: bool [K] over codebook rows, one for all layers or one per layer: True = may be generated. None
        means every word. The model's control tokens (`llm.special_ids`) are never allowed, and every layer
        needs at least one word that is.

    Raises ValueError for a codebook whose ids are not the model's (out of its vocabulary, or repeated).
    """

    def __init__(
        self,
        codebook: Codebook,
        pyramid: Pyramid,
        llm: FrozenLLM,
        masks: Tensor | Sequence[Tensor] | None = None,
    ) -> None:
        self.codebook = codebook
        self.pyramid = pyramid

    def llm_ids(self, tokens: PyramidTokens) -> list[tuple[int, ...]]:
        """Each image's words as the language model's ids, layer by layer in raster order."""
        raise NotImplementedError

    def tokens(self, llm_ids: Sequence[Sequence[int]]) -> PyramidTokens:
        """The inverse of `llm_ids`. Raises ValueError for an id that no word of the codebook has."""
        raise NotImplementedError

    def allowed(self, position: int) -> Tensor:
        """The ids that the token at a position of the answer may take, int64 [m] ascending. One tensor per
        layer: positions of one layer share the object."""
        raise NotImplementedError


def seen_masks(tokens: PyramidTokens, num_words: int) -> list[Tensor]:
    """For each layer the words that occur there in some images: bool [K] per layer, for `Lexicon`'s masks."""
    raise NotImplementedError
