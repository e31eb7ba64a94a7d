"""CLIP by way of open_clip: any architecture and checkpoint that it can load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spae.optional import import_beside_torchvision, needs
from spae.scorers.protocol import check_images, checksum_of, choose_device, unit

Template = Callable[[str], str]


class OpenCLIPScorer:
    """CLIP's agreement of images and words: the f_image and f_text of SPAE (eqs. 5, 6).

    A word's feature is the mean of its unit features in 80 prompts ("a photo of the {word}.", ..), made unit
    again. The word is stripped of the white space around it, which means something to the language model and
    nothing to CLIP.

    Args:
        model: from `open_clip.create_model`, in eval mode.
        tokenizer: from `open_clip.get_tokenizer`.
        name: for people, e.g. "ViT-B-32/laion2b_s34b_b79k".
        templates: word -> prompt; None means open_clip's 80 templates for ImageNet.
        precision: that of the model: "fp32", "fp16", "bf16" and the others of open_clip.
        batch_size: images, or prompts, that go through the model at once.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        name: str,
        templates: Sequence[Template] | None = None,
        precision: str = "fp32",
        batch_size: int = 512,
    ):
        clip = import_open_clip()
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.model, self.tokenizer, self.name, self.batch_size = model, tokenizer, name, batch_size
        self.templates = tuple(clip.OPENAI_IMAGENET_TEMPLATES if templates is None else templates)
        if not self.templates:
            raise ValueError("templates: expected at least one, got none")
        self.precision = precision
        self._checksum: str | None = None
        self.dtype = clip.get_input_dtype(precision) or torch.float32

    @classmethod
    def load(
        cls,
        architecture: str,
        checkpoint: str,
        *,
        device: torch.device | str | None = None,
        precision: str = "fp32",
        templates: Sequence[Template] | None = None,
        batch_size: int = 512,
    ) -> OpenCLIPScorer:
        """A model that open_clip knows by name, e.g. "ViT-B-32", with weights from a file or by a tag.

        A tag, e.g. "laion2b_s34b_b79k", is downloaded by open_clip from its hub if it is not there yet.
        device: of the model; None: the accelerator's, the CPU without one.

        Raises:
            ImportError: open_clip is missing.
            RuntimeError: open_clip knows no such architecture, or finds no such checkpoint.
        """
        clip = import_open_clip()
        model = clip.create_model(
            architecture,
            checkpoint,
            precision=precision,
            device=choose_device(device),
            require_pretrained=True,
        )
        model.eval().requires_grad_(False)
        return cls(
            model,
            clip.get_tokenizer(architecture),
            name=f"{architecture}/{checkpoint}",
            templates=templates,
            precision=precision,
            batch_size=batch_size,
        )

    @property
    def checksum(self) -> str:
        if self._checksum is None:
            prompts = [template("word") for template in self.templates]
            self._checksum = checksum_of(self.model.state_dict(), "open_clip", 1, prompts, self.precision)
        return self._checksum

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """Images float [B, 3, H, W] in [-1, 1] -> unit vectors float32 [B, E], on the model's device.

        They are resized whole to the model's size (bicubic, antialiased) and normalised as it was trained.
        """
        check_images(images)
        setting: dict[str, Any] = self.model.visual.preprocess_cfg  # pyright: ignore
        size = setting["size"]
        height, width = (size, size) if isinstance(size, int) else size
        done = []
        for batch in images.split(self.batch_size):
            pixels = (batch.to(self.device).float() + 1) / 2
            pixels = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
            mean, std = (
                torch.tensor(setting[key], device=self.device)[:, None, None] for key in ("mean", "std")
            )
            done.append(unit(self.model.encode_image(((pixels - mean) / std).to(self.dtype))))  # pyright: ignore
        return torch.cat(done)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """n words -> unit vectors float32 [n, E], on the model's device."""
        if not texts:
            raise ValueError("texts: expected at least one, got none")
        prompts = [template(text.strip()) for text in texts for template in self.templates]
        done = [
            unit(self.model.encode_text(self.tokenizer(prompts[i : i + self.batch_size]).to(self.device)))  # pyright: ignore
            for i in range(0, len(prompts), self.batch_size)
        ]
        return unit(torch.cat(done).unflatten(0, (len(texts), len(self.templates))).mean(1))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def import_open_clip() -> ModuleType:
    """The module open_clip, which needs torchvision."""
    return import_beside_torchvision("open_clip", needs("OpenCLIPScorer", "open_clip_torch"))
