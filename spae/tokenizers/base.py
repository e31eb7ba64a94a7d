"""The one face of all tokenizers: images to tokens to words and back, and checkpoints."""

from __future__ import annotations

import json
import re
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from spae.codebook import Codebook, CodeTable, VectorTable
from spae.configs import read_object
from spae.data.sound import SoundProcessor
from spae.devices import checked_device
from spae.processing import ImageProcessor, Layout, check_images, load_processor
from spae.tokenizers.checkpoints import (
    CODEBOOK,
    CONFIG,
    ROWS,
    WEIGHTS,
    SavedCodebook,
    find,
    read_weights,
)
from spae.tokenizers.config import SPAEConfig
from spae.tokenizers.registry import registered
from spae.tokenizers.tokens import PyramidTokens
from spae_ops import Pyramid

if TYPE_CHECKING:
    from typing_extensions import Self

_CARD = """---
library_name: spae
pipeline_tag: image-feature-extraction
{licence}tags:
- image-tokenizer
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


class Tokenizer(nn.Module, ABC):
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
    borrowed_ids: Tensor | None = None  # [K], by `spae.incontext.borrow_words`; in no checkpoint

    def __init__(self, config: SPAEConfig, codebook: CodeTable) -> None:
        super().__init__()
        self._check_config(config)
        self._check_table(codebook)
        self.config = config
        self.codebook = codebook
        _ = codebook.index  # prepared now, outside of any torch.compile
        self.pyramid = config.pyramid
        self._processor: ImageProcessor | SoundProcessor | None = None

    def _check_config(self, config: object) -> None:
        if not isinstance(config, self.config_class):
            raise TypeError(f"config: expected a {self.config_class.__name__}, got {type(config).__name__}")

    def _check_table(self, codebook: object) -> None:
        if not callable(getattr(codebook, "ids_of", None)):
            raise TypeError(f"codebook: expected a spae.CodeTable, got {type(codebook).__name__}")

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
    def table(self) -> VectorTable:
        """What latents are looked up in: the codebook, unless the model has a projector over it."""
        return self.codebook

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
        """Images, or their tokens, as the language model's own ids, int64 [B, n]. Where words have several,
        these follow each other, and images of fewer ids than the longest end in -1.

        Raises ValueError for a codebook of no language.
        """
        llm_ids = self.codebook.llm_ids
        if llm_ids is None:
            raise ValueError(
                f"codebook: expected one with llm_ids, got {self.codebook.name!r}, which is in no language"
            )
        tokens = images if isinstance(images, PyramidTokens) else self.encode(images, num_layers)
        self._check_tokens(tokens)
        found = llm_ids[tokens.ids.to(llm_ids.device)]
        if llm_ids.ndim == 1:
            return found
        rows = [image[image >= 0] for image in found]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1) if rows else found[:, :, 0]

    @property
    def vocab_size(self) -> int:
        """K, the words of the codebook."""
        return len(self.codebook)

    def words(self, tokens: PyramidTokens) -> list[list[list[str]]]:
        """The words of each image, layer by layer: ``words(tokens)[image][layer][token]``."""
        self._check_tokens(tokens)
        tokens.check_rows(len(self.codebook))
        vocabulary = self.codebook.words
        layers = [ids.tolist() for ids in tokens.layers()]
        return [[[vocabulary[i] for i in layer[image]] for layer in layers] for image in range(len(tokens))]

    def tokens(self, words: list[list[list[str]]]) -> PyramidTokens:
        """The inverse of `words`, exactly. Raises ValueError for a word that the codebook does not hold."""
        ids = []
        for image, layers in enumerate(_lists("words", words)):
            sizes = tuple(
                len(_lists(f"words[{image}]", layer)) for layer in _lists(f"words[{image}]", layers)
            )
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
    def processor(self) -> ImageProcessor | SoundProcessor:
        """How pictures, or recordings, become images of this model; saved beside it. Assign another one to
        change it.

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
    def processor(self, processor: ImageProcessor | SoundProcessor | None) -> None:
        self._processor = processor

    def preprocess(self, images: Any, *, layout: Layout | None = None) -> Tensor:
        """Pictures of any kind and size (`ImageProcessor.preprocess`), or recordings (`SoundProcessor`), as
        this model's images, on its device: float32 [B, C, H, W] in [-1, 1]."""
        return self.processor.preprocess(images, layout=layout).to(self.device)

    def postprocess(self, images: Tensor, output: Literal["pil", "numpy", "tensor"] | None = None) -> Any:
        """Images in [-1, 1] as pictures of 8 bits (`ImageProcessor.postprocess`), or as samples
        (`SoundProcessor.postprocess`). output: None is the processor's default."""
        if output is None:
            return self.processor.postprocess(images)
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
        try:
            saved = json.loads(bytes(state.tolist()))
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"codebook: expected what a checkpoint says of it, got {state!r:.80}") from error
        self._check_codebook(saved)

    def codebook_identity(self) -> dict[str, Any]:
        """What a checkpoint holds of the codebook: `CodeTable.identity`, and what else its ids depend on."""
        return self.codebook.identity()

    def _check_codebook(self, saved: dict[str, Any]) -> None:
        own = self.codebook_identity()
        if not isinstance(saved, dict) or saved.get("checksum") != own["checksum"]:
            raise ValueError(
                f"codebook: expected the checkpoint's, {saved!r:.500}, got {own}; ids would mean other "
                "words. Load the codebook that the checkpoint names."
            )

    def save_pretrained(self, save_directory: str | Path, *, license: str | None = None) -> None:
        """Save weights, configuration, codebook if it has no known source, processor and a card for readers.

        save_directory: a folder, made if need be; `from_pretrained` takes it. license: what the card says, as
        the hub names it ("apache-2.0", "mit", ..); None: nothing.
        """
        name, book = type(self).__name__, self.codebook
        if license is not None and not (isinstance(license, str) and re.fullmatch(r"[\w.-]+", license)):
            raise ValueError(f"license: expected a licence's short name or None, got {license!r:.80}")
        registered(name)  # raises here rather than when the checkpoint is to be loaded
        save_directory = Path(save_directory)
        save_directory.mkdir(parents=True, exist_ok=True)
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
        licence = "" if license is None else f"license: {license}\n"
        card = _CARD.format(name=name, book=book, pyramid=self.pyramid, licence=licence)
        (save_directory / "README.md").write_text(card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload an image tokenizer",
        license: str | None = None,
    ) -> str:
        """Save to a hub repository, "owner/name", made if need be; the commit's URL.

        private, token, revision, commit_message: as huggingface_hub has them. license: see `save_pretrained`.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, license=license)
            commit = api.upload_folder(
                repo_id=repository, folder_path=folder, revision=revision, commit_message=commit_message
            )
        return str(commit)

    @classmethod
    def load_codebook(cls, config: Any, saved: SavedCodebook) -> CodeTable:
        """The codebook of a checkpoint, for `from_pretrained`: that which it brings with it or names.

        A class whose codebook is in its weights, or that has words of its own, says so here.
        """
        return saved.load()

    @classmethod
    def from_pretrained(
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
        device = checked_device(device)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype: expected a floating-point torch.dtype or None, got {dtype!r}")
        folder = find(
            name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        kind, config, identity = _read_config(folder / CONFIG)
        if not issubclass(kind, cls):
            raise ValueError(
                f"name: expected a {cls.__name__}, got {str(name)!r}, which holds a {kind.__name__}; "
                "spae.load takes any"
            )
        tensors = read_weights(folder / WEIGHTS)
        rows = tensors.pop(ROWS, None)
        if codebook is None:
            codebook = kind.load_codebook(config, SavedCodebook(identity, rows, folder))
        model = kind(config, codebook)
        model._check_codebook(identity)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:  # torch's, of other names or shapes
            raise ValueError(
                f"{folder / WEIGHTS}: expected the weights of the {kind.__name__} that {CONFIG} describes, "
                f"got others ({error})"
            ) from error
        model.processor = load_processor(folder)
        return model.to(device=device, dtype=dtype).eval()


def _parameters(table: CodeTable) -> list[nn.Parameter]:
    return list(table.parameters()) if isinstance(table, nn.Module) else []


def _read_config(file: Path) -> tuple[type[Tokenizer], SPAEConfig, dict[str, Any]]:
    """The class, its configuration and the codebook's identity. Raises ValueError, which names the file."""
    saved = read_object(file, "a tokenizer's configuration")
    try:
        kind = registered(saved.get("class", ""))
        config = kind.config_class.from_dict(saved.get("config"))
        identity = saved.get("codebook")
        if not isinstance(identity, dict) or not isinstance(identity.get("checksum"), str):
            raise ValueError(f"codebook: expected an object with a checksum, got {identity!r:.80}")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return kind, config, identity


def _lists(name: str, words: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(words, list | tuple):
        raise TypeError(f"{name}: expected lists of words, layer by layer of each image, got {words!r:.80}")
    return words
