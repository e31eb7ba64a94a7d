"""The one face of all tokenizers: images to tokens to words and back, and checkpoints."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from huggingface_hub import ModelHubMixin
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spae.codebook import Codebook, CodeTable
from spae.processing import ImageProcessor, Layout, check_images
from spae.tokenizers.checkpoints import CODEBOOK, CONFIG, ROWS, WEIGHTS, SavedCodebook, find
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.registry import registered
from spae.tokenizers.tokens import PyramidTokens
from spae_ops import Pyramid

if TYPE_CHECKING:
    from typing_extensions import Self

_CARD = """---
library_name: spae
---

# {name}

An image tokenizer over the words of a frozen codebook: {book}, {pyramid}.

```python
import spae

model = spae.load("this folder or repository")
```
"""


class SPAEOutput(NamedTuple):
    """reconstruction: [B, C, *image_size], not clamped. tokens: their PyramidTokens.

    features: the latents [B, D, *shape] before quantization, float32. quantized: the same after it, whose
    gradient passes straight to the latents. losses: unweighted scalar terms by name.
    """

    reconstruction: Tensor
    tokens: PyramidTokens
    features: Tensor
    quantized: Tensor
    losses: dict[str, Tensor]


class Tokenizer(nn.Module, ModelHubMixin, ABC, library_name="spae", tags=["image-tokenizer"]):
    """Images as words of a code table, and back; the contract of SPAE, RQ, VQGAN, LQAE and your own.

    A class of your own is built as ``Class(config, codebook)``, is decorated with `register`, and gives
    `forward`, `latents`, `quantize` and `pixels`; the rest follows. `spae.tokenizers.parts` has what the
    others are put together from.

    Only `forward` knows training: in that mode it may use and move batch statistics (see `MatchedNorm` for
    whose), drop features, mask words and let a codebook learn. `encode`, `decode`, `latents` and `pixels` do
    none of it, whatever mode a parent module has put this one into.

    State dicts hold what `codebook.identity()` says, never a frozen table; loading them against another
    codebook raises ValueError.

    config: architecture; a frozen dataclass, kept in checkpoints. codebook: K words and their vectors.
    """

    config_class: ClassVar[type[SPAEConfig]] = SPAEConfig
    config: SPAEConfig
    codebook: CodeTable
    pyramid: Pyramid

    def __init__(self, config: SPAEConfig, codebook: CodeTable) -> None:
        super().__init__()
        self.config = config
        self.codebook = codebook
        _ = codebook.index  # prepared now, outside of any torch.compile
        self.pyramid = config.pyramid
        self._processor: ImageProcessor | None = None

    @abstractmethod
    def forward(self, images: Tensor) -> SPAEOutput:
        """Images through words and back, with the unweighted losses of this model; what training calls."""

    @abstractmethod
    def latents(self, images: Tensor) -> Tensor:
        """Images to latents float32 [B, D, *shape], what `encode` looks up (also under autocast)."""

    @abstractmethod
    def quantize(self, latents: Tensor, num_layers: int | None = None) -> Tensor:
        """Latents [B, D, *shape] to ids int64 [B, n] of the first `num_layers` layers (None: all)."""

    @abstractmethod
    def pixels(self, ids: Tensor) -> Tensor:
        """Ids int64 [B, n] of any number of layers to images that are not clamped."""

    @property
    def word_masks(self) -> Tensor | None:
        """The words that each layer may take, bool [L, K]; None where every layer may take every word."""
        return None

    @property
    def vocabulary_sizes(self) -> list[int]:
        """How many words each layer may take."""
        masks = self.word_masks
        return [len(self.codebook)] * self.pyramid.num_layers if masks is None else masks.sum(1).tolist()

    @torch.no_grad()
    def encode(self, images: Tensor, num_layers: int | None = None) -> PyramidTokens:
        """Images to the words of the first `num_layers` layers (None: all)."""
        return PyramidTokens(self.quantize(self.latents(images), num_layers), self.pyramid)

    def decode(self, tokens: PyramidTokens) -> Tensor:
        """Words of any number of layers to images float32 in [-1, 1]."""
        self._check_tokens(tokens)
        return self.pixels(tokens.ids.to(self.device)).float().clamp(-1, 1)

    def tokenize(self, images: Tensor, num_layers: int | None = None) -> Tensor:
        """`encode` as a bare tensor, int64 [B, n]: rows of the codebook, below `vocab_size`."""
        return self.encode(images, num_layers).ids

    def detokenize(self, ids: Tensor) -> Tensor:
        """`decode` of integers [B, n], or [n] for one image, of any number of layers: float32 images [B, ..].

        Raises ValueError for ids out of range or of no whole number of layers.
        """
        return self.decode(PyramidTokens.from_ids(ids, self.pyramid))

    def get_image_tokens(self, images: Tensor | PyramidTokens, num_layers: int | None = None) -> Tensor:
        """Images, or their tokens, as the language model's own ids, int64 [B, n].

        Raises ValueError for a codebook of no language.
        """
        llm_ids = self.codebook.llm_ids
        if llm_ids is None:
            raise ValueError(f"codebook: expected one with llm_ids, {self.codebook.name!r} is in no language")
        tokens = images if isinstance(images, PyramidTokens) else self.encode(images, num_layers)
        self._check_tokens(tokens)
        return llm_ids[tokens.ids.to(llm_ids.device)]

    @property
    def vocab_size(self) -> int:
        """K, the words of the codebook."""
        return len(self.codebook)

    def words(self, tokens: PyramidTokens) -> list[list[list[str]]]:
        """The words of each image, layer by layer: ``words(tokens)[image][layer][token]``."""
        self._check_tokens(tokens)
        vocabulary = self.codebook.words
        layers = [ids.tolist() for ids in tokens.layers()]
        return [[[vocabulary[i] for i in layer[image]] for layer in layers] for image in range(len(tokens))]

    def tokens(self, words: list[list[list[str]]]) -> PyramidTokens:
        """The inverse of `words`, exactly. Raises ValueError for a word that the codebook does not hold."""
        ids = []
        for image, layers in enumerate(words):
            sizes = tuple(len(layer) for layer in layers)
            if not sizes or sizes != self.pyramid.tokens_per_layer[: len(sizes)]:
                expected = self.pyramid.tokens_per_layer
                raise ValueError(
                    f"words[{image}]: expected the first layers of {expected} words, got {sizes}"
                )
            if len(layers) != len(words[0]):
                raise ValueError(
                    f"words[{image}]: expected {len(words[0])} layers as in words[0], got {len(layers)}"
                )
            ids.append(self.codebook.ids_of([word for layer in layers for word in layer]))
        empty = torch.empty(0, self.pyramid.tokens_per_layer[0], dtype=torch.int64)
        stacked = torch.stack(ids) if ids else empty
        return PyramidTokens(stacked.to(self.device), self.pyramid)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the networks' weights. Latents, lookups, statistics and codebooks are float32 whatever this is:
        ids are those of the latents that weights of this precision give."""
        table = {id(parameter) for parameter in _parameters(self.codebook)}
        return next(p.dtype for p in self.parameters() if id(p) not in table)

    # Pictures

    @property
    def processor(self) -> ImageProcessor:
        """How pictures become images of this model; saved beside it. Assign another one to change it.

        Raises ValueError for models of video or of other than 1 or 3 channels.
        """
        if self._processor is None:
            if self.config.ndim != 2:
                raise ValueError(
                    f"processor: expected a model of images, got one of {self.config.image_size}"
                )
            height, width = self.config.image_size
            self._processor = ImageProcessor((height, width), self.config.in_channels)
        return self._processor

    @processor.setter
    def processor(self, processor: ImageProcessor | None) -> None:
        self._processor = processor

    def preprocess(self, images: Any, *, layout: Layout | None = None) -> Tensor:
        """Pictures of any kind and size (`ImageProcessor.preprocess`) as this model's images, on its device:
        float32 [B, C, H, W] in [-1, 1]."""
        return self.processor.preprocess(images, layout=layout).to(self.device)

    def postprocess(self, images: Tensor, output: Literal["pil", "numpy", "tensor"] = "pil") -> Any:
        """Images in [-1, 1] as pictures of 8 bits (`ImageProcessor.postprocess`)."""
        return self.processor.postprocess(images, output)

    def check_images(self, images: Tensor) -> None:
        """Raises TypeError or ValueError unless these are images of this model (`spae.processing`)."""
        check_images(images, (self.config.in_channels, *self.config.image_size))

    def _check_tokens(self, tokens: PyramidTokens) -> None:
        if not isinstance(tokens, PyramidTokens):
            raise TypeError(f"tokens: expected PyramidTokens, got {type(tokens).__name__}")
        if tokens.pyramid != self.pyramid:
            raise ValueError(f"tokens: expected {self.pyramid}, got {tokens.pyramid}")

    # Checkpoints

    def get_extra_state(self) -> Tensor:
        # As bytes in a tensor, so that anything that stores state dicts of tensors (safetensors, accelerate)
        # stores it.
        text = json.dumps(self.codebook_identity(), sort_keys=True)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self._check_codebook(json.loads(bytes(state.tolist()).decode()))

    def codebook_identity(self) -> dict[str, Any]:
        """What a checkpoint holds of the codebook: `CodeTable.identity`, and what else its ids depend on."""
        return self.codebook.identity()

    def _check_codebook(self, saved: dict[str, Any]) -> None:
        own = self.codebook_identity()
        if saved["checksum"] != own["checksum"]:
            raise ValueError(
                f"codebook: the checkpoint was made with {saved}, got {own}; ids would mean other words. "
                "Load the codebook that the checkpoint names."
            )

    def _save_pretrained(self, save_directory: Path) -> None:
        name, book = type(self).__name__, self.codebook
        registered(name)  # raises here rather than when the checkpoint is to be loaded
        about = {"class": name, "config": self.config.to_dict(), "codebook": self.codebook_identity()}
        tensors = {k: v.contiguous() for k, v in self.state_dict().items()}
        shutil.rmtree(save_directory / CODEBOOK, ignore_errors=True)
        if isinstance(book, Codebook) and book.rows is not None:
            tensors[ROWS] = book.rows.to(torch.int32)
        if isinstance(book, Codebook) and book.source is None:
            book.save(save_directory / CODEBOOK)
        save_file(tensors, save_directory / WEIGHTS)
        (save_directory / CONFIG).write_text(json.dumps(about, indent=2) + "\n")
        if self.config.ndim == 2 and self.config.in_channels in (1, 3):
            self.processor.save(save_directory)
        card = _CARD.format(name=name, book=book, pyramid=self.pyramid)
        (save_directory / "README.md").write_text(card)

    @classmethod
    def load_codebook(cls, config: Any, saved: SavedCodebook) -> CodeTable:
        """The codebook of a checkpoint, for `from_pretrained`: that which it brings with it or names.

        A class whose codebook is in its weights, or that has words of its own, says so here.
        """
        return saved.load()

    @classmethod
    def from_pretrained(  # type: ignore[override]  # simpler than the mixin's: no config injection
        cls,
        name: str | Path,
        *,
        codebook: CodeTable | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """A trained tokenizer in eval mode; of any class as `Tokenizer.from_pretrained`, or `spae.load`.

        Args:
            name: a folder, a bundled model's name (`bundled_models`) or a hub repository, "owner/name".
            codebook: the table it was trained with; None takes the one that the checkpoint brings or names.
            device, dtype: of the weights; None: the dtype that they were saved in.
            revision, token, cache_dir, local_files_only: for the hub, as huggingface_hub has them.
                `SPAE_OFFLINE=1` in the environment means `local_files_only`.

        Raises:
            FileNotFoundError: there is no such folder, model or repository.
            ValueError: it holds another class than this, or was made with another codebook.
        """
        folder = find(
            name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        saved = json.loads((folder / CONFIG).read_text())
        kind = registered(saved["class"])
        if not issubclass(kind, cls):
            raise ValueError(
                f"name: {name} holds a {kind.__name__}, expected a {cls.__name__}; spae.load takes any"
            )
        tensors = load_file(folder / WEIGHTS)
        rows = tensors.pop(ROWS, None)
        config = kind.config_class.from_dict(saved["config"])
        if codebook is None:
            codebook = kind.load_codebook(config, SavedCodebook(saved["codebook"], rows, folder))
        model = kind(config, codebook)
        model._check_codebook(saved["codebook"])
        model.load_state_dict(tensors)
        model.processor = ImageProcessor.load(folder)
        return model.to(device=device, dtype=dtype).eval()


def _parameters(table: CodeTable) -> list[nn.Parameter]:
    return list(table.parameters()) if isinstance(table, nn.Module) else []
