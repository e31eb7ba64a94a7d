"""The one face of all tokenizers: images to tokens to words and back, and checkpoints."""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spae.codebook import NAMES, Codebook
from spae.processing import FILE as PROCESSOR
from spae.processing import ImageProcessor, Layout, check_images
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.tokens import PyramidTokens
from spae_ops import Pyramid

_CARD = """---
library_name: spae
---

# {name}

An image tokenizer over the words of a frozen codebook: {book}, {pyramid}.

```python
from spae import {name}

model = {name}.from_pretrained("this folder or repository")
```
"""
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_ROWS = "codebook_rows"  # in the weights' file beside the state dict, if the codebook is a part of a table
BUNDLED = Path(__file__).parent.parent / "bundled"


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


class Tokenizer(nn.Module, ModelHubMixin, library_name="spae", tags=["image-tokenizer"]):
    """An image tokenizer over a frozen codebook of words.

    Subclasses are built as ``Class(config, codebook)`` and give `latents` and `pixels`. State dicts hold the
    codebook's name and checksum, never its table; loading them against another codebook raises ValueError.
    """

    config_class: ClassVar[type[SPAEConfig]] = SPAEConfig
    config: SPAEConfig
    codebook: Codebook
    pyramid: Pyramid
    _processor: ImageProcessor | None = None

    @abstractmethod
    def forward(self, images: Tensor) -> SPAEOutput: ...

    @abstractmethod
    def encode(self, images: Tensor, num_layers: int | None = None) -> PyramidTokens: ...

    @abstractmethod
    def decode(self, tokens: PyramidTokens) -> Tensor: ...

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

    def _check_images(self, images: Tensor) -> None:
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
        """What a checkpoint holds of the codebook: its name and the source's, normalisation, size and
        checksum."""
        book = self.codebook
        return {
            "name": book.name,
            "source": book.source,
            "normalisation": book.normalisation,
            "shape": list(book.vectors.shape),
            "checksum": book.checksum,
        }

    def _check_codebook(self, saved: dict[str, Any]) -> None:
        own = self.codebook_identity()
        if saved["checksum"] != own["checksum"]:
            raise ValueError(
                f"codebook: the checkpoint was made with {saved}, got {own}; ids would mean other words. "
                "Load the codebook that the checkpoint names."
            )

    def _save_pretrained(self, save_directory: Path) -> None:
        config = {
            "class": type(self).__name__,
            "config": self.config.to_dict(),
            "codebook": self.codebook_identity(),
        }
        tensors = {k: v.contiguous() for k, v in self.state_dict().items()}
        if self.codebook.rows is not None:
            tensors[_ROWS] = self.codebook.rows.to(torch.int32)
        save_file(tensors, save_directory / WEIGHTS)
        (save_directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        if self.config.ndim == 2 and self.config.in_channels in (1, 3):
            self.processor.save(save_directory)
        card = _CARD.format(name=type(self).__name__, book=self.codebook, pyramid=self.pyramid)
        (save_directory / "README.md").write_text(card)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # simpler than the mixin's: no config injection
        cls, name: str | Path, *, codebook: Codebook | None = None, device: str | torch.device = "cpu"
    ) -> Tokenizer:
        """A trained tokenizer in eval mode, from a folder, a bundled model's name (`bundled_models`) or a hub
        repository.

        codebook: the table it was trained with; None loads the one that the checkpoint names.
        Raises FileNotFoundError for an unknown name and ValueError for another codebook than the
        checkpoint's.
        """
        folder = _find(name)
        saved = json.loads((folder / CONFIG).read_text())
        if saved["class"] != cls.__name__:
            raise ValueError(f"name: {name} holds a {saved['class']}, expected a {cls.__name__}")
        tensors = load_file(folder / WEIGHTS)
        rows = tensors.pop(_ROWS, None)
        if codebook is None:
            codebook = _named_codebook(saved["codebook"], rows)
        model = cls(cls.config_class.from_dict(saved["config"]), codebook)
        model._check_codebook(saved["codebook"])
        model.load_state_dict(tensors)
        model.processor = ImageProcessor.load(folder)
        return model.to(device).eval()


def bundled_models() -> list[str]:
    """Names of the models that come with the package, for ``SPAE.from_pretrained(name)``."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG}"))


def _named_codebook(identity: dict[str, Any], rows: Tensor | None) -> Codebook:
    source = identity.get("source", identity["name"])  # checkpoints of before the subsets have no source
    if source not in NAMES:
        raise ValueError(
            f"codebook: the checkpoint was made with {identity}, which has no name that Codebook.load knows; "
            "pass that codebook"
        )
    whole = Codebook.load(source)
    part = whole if rows is None else whole.subset(rows.long(), name=identity["name"])
    return part.normalised(identity["normalisation"])


def _find(name: str | Path) -> Path:
    for folder in (Path(name), BUNDLED / str(name)):
        if (folder / CONFIG).is_file():
            return folder
    if Path(name).exists() or str(name).count("/") != 1 or str(name).startswith((".", "/")):
        known = ", ".join(bundled_models()) or "none"
        raise FileNotFoundError(f"name: {name} is no folder with {CONFIG} and no bundled model ({known})")
    return Path(snapshot_download(str(name), allow_patterns=[WEIGHTS, CONFIG, PROCESSOR]))
