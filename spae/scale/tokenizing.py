"""Any data to a collection of tokens: shard by shard, by as many processes as there are."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from spae.checksum import checksum, state_parts
from spae.configs import Config, Count, Natural
from spae.data import open_data
from spae.data.open import Spec
from spae.data.token_dataset import FORMAT, Skipped, shard_records
from spae.data.token_shards import About, Form, Rows
from spae.scale.collection import Collection
from spae.scale.loading import Batch, batches, key_list
from spae.tokenizers import Tokenizer

_POLL = 0.5  # seconds between looks at what others still make


@dataclass(frozen=True)
class TokenizeConfig(Config):
    """How a collection is made. Fields marked * may differ where a run goes on.

    form: of the shards (`spae.data.token_shards`). split: of the data, None for all of a source without
    splits. layers: only the first ones, None for all. shard_size: images a shard, what a kill may lose.
    batch_size: images that are encoded together. loaders: * processes that read images ahead; 0 reads them in
    a thread. progress: * show a progress bar, if stderr is a terminal.
    """

    section = "tokenize"

    form: Form = "npy"
    split: str | None = None
    layers: Count | None = None
    shard_size: Count = 10_000
    batch_size: Count = 64
    loaders: Natural = 1
    progress: bool = True


class Report(NamedTuple):
    """images: in the whole collection. skipped: the source's that could not be read. encoded: images by this
    process in this run. seconds: what that took, without loading the model."""

    images: int
    skipped: list[Skipped]
    encoded: int
    seconds: float


def tokenize_collection(
    model: Tokenizer | str | Path,
    source: Spec,
    out: str | Path,
    config: TokenizeConfig | None = None,
    *,
    device: str = "cpu",
) -> Report:
    """Encode all of a source into shards of ids in a folder, each image once; `spae.data.TokenDataset` reads
    them.

    The same call again goes on where it was interrupted. Started several times, on one host or on many that
    share the folder, by `torchrun`, `accelerate launch` or by hand, it shares out the shards; each process
    ends when all are done, and takes over what another leaves behind. Batches are the same however many
    there are.

    Args:
        model: a tokenizer in evaluation mode, or what `from_pretrained` takes.
        source: what `spae.data.open_data` takes.
        out: the folder.
        config: see `TokenizeConfig`.
        device: "cuda" is each process's own (LOCAL_RANK).

    Raises:
        ValueError: the folder holds another collection, no image could be read, or as `open_data` says.
    """
    config = config or TokenizeConfig()
    worker = Worker(model, source, Path(out), config, device=device)
    return worker.run()


class Worker:
    """A tokenizer, the data and the collection that they go into, in one process."""

    def __init__(
        self, model: Tokenizer | str | Path, source: Spec, out: Path, config: TokenizeConfig, *, device: str
    ) -> None:
        self.config = config
        if not isinstance(model, Tokenizer):
            own = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if device == "cuda" else device
            self.model, name = Tokenizer.from_pretrained(model, device=own), str(model)
        else:
            self.model, name = model, type(model).__name__
        pyramid = self.model.pyramid
        if config.layers is not None and config.layers > pyramid.num_layers:
            raise ValueError(f"layers: expected 1 to {pyramid.num_layers}, got {config.layers}")
        self.data: Any = open_data(source, config.split, image_size=self.model.config.image_size)
        self.collection = Collection(out, self._about(name, source))
        self.encoded = 0

    def _about(self, name: str, source: Spec) -> dict[str, Any]:
        model, config = self.model, self.config
        pyramid, size = model.pyramid, len(model.codebook)
        layers = config.layers or pyramid.num_layers
        return {
            "format": FORMAT,
            "form": config.form,
            "source": str(source),
            "split": config.split,
            "images": len(self.data),
            "keys": checksum(f"{key}\0" for key in key_list(self.data)),
            "shard_size": config.shard_size,
            "batch_size": config.batch_size,
            "model": name,
            "weights": checksum(state_parts(model)),
            "codebook": {**model.codebook_identity(), "checksum": model.codebook.checksum, "size": size},
            "pyramid": {"shape": list(pyramid.shape), "grids": [list(grid) for grid in pyramid.grids]},
            "num_layers": layers,
            "tokens": pyramid.num_tokens_upto(layers),
            "dtype": "uint16" if size <= 1 << 16 else "uint32",
        }

    def run(self, shards: Iterable[int] | None = None) -> Report:
        """Make some shards, by default all, as far as others do not; returns when they are done."""
        collection = self.collection
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        wanted = range(collection.num_shards) if shards is None else shards
        # Each begins with its own share; what is left after it is whoever's comes first.
        wanted = sorted(wanted, key=lambda shard: (shard - rank) % world)
        self.encoded, started = 0, time.monotonic()
        with collection, self._bar(rank) as bar:
            while missing := collection.missing(wanted):
                claims = collection.claims(missing)
                first = next(claims, None)
                if first is None:
                    time.sleep(_POLL)
                    self._show(bar)
                else:
                    self._make(chain([first], claims), bar)
            self._show(bar)
        seconds = time.monotonic() - started
        if shards is not None:
            return Report(self.encoded, [], self.encoded, seconds)
        return self.report(seconds)

    def report(self, seconds: float) -> Report:
        """On the whole collection. Raises ValueError if no image could be read."""
        self.collection.tidy()
        records = shard_records(self.collection.folder, self.collection.about)
        images = sum(count for count, _ in records)
        skipped = [image for _, some in records for image in some]
        if skipped and not images:
            first = skipped[0]
            raise ValueError(
                f"source: expected images that can be read, got {len(skipped)} that cannot, "
                f"first {first.key} ({first.error})"
            )
        return Report(images, skipped, self.encoded, seconds)

    def _make(self, claims: Iterator[int], bar: tqdm[Any]) -> None:
        """Shard by shard, while the images of those to come are being read."""
        config, rows_of = self.config, self.collection.rows
        numbers = (
            list(rows[start : start + config.batch_size])
            for rows in map(rows_of, claims)
            for start in range(0, len(rows), config.batch_size)
        )
        pin = self.model.device.type == "cuda"
        made: list[tuple[Batch, NDArray[Any]]] = []
        for batch in batches(self.data, numbers, loaders=config.loaders, pin_memory=pin):
            made.append((batch._replace(images=torch.empty(0)), self._encode(batch)))
            for image in batch.skipped:
                tqdm.write(f"skipped {image.key}: {image.error}", file=sys.stderr)
            bar.update(len(batch.numbers) + len(batch.skipped))
            shard = (batch.end - 1) // config.shard_size
            if batch.end == rows_of(shard).stop:
                self._commit(shard, made)
                made.clear()
                self._show(bar)

    def _encode(self, batch: Batch) -> NDArray[Any]:
        dtype, tokens = self.collection.about["dtype"], self.collection.about["tokens"]
        if not batch.numbers:
            return np.empty((0, tokens), dtype)
        with torch.no_grad(), warnings.catch_warnings():
            # Our own reader has brought them to [-1, 1], however bright they are.
            warnings.filterwarnings("ignore", "images: the values of")
            images = batch.images.to(self.model.device, non_blocking=True)
            ids = self.model.encode(images, self.config.layers).ids
        self.encoded += len(ids)
        return ids.cpu().numpy().astype(dtype)

    def _commit(self, shard: int, made: list[tuple[Batch, NDArray[Any]]]) -> None:
        numbers = [number for batch, _ in made for number in batch.numbers]
        about: list[About] = [one for batch, _ in made for one in batch.about]
        skipped = [image for batch, _ in made for image in batch.skipped]
        self.collection.commit(shard, Rows(numbers, np.concatenate([ids for _, ids in made]), about), skipped)

    def _bar(self, rank: int) -> tqdm[Any]:
        collection = self.collection
        off = True if rank or not self.config.progress else None
        return tqdm(
            total=collection.about["images"], initial=self._done(), unit="image", disable=off, smoothing=0.1
        )

    def _done(self) -> int:
        collection = self.collection
        missing = set(collection.missing())
        return sum(len(collection.rows(n)) for n in range(collection.num_shards) if n not in missing)

    def _show(self, bar: tqdm[Any]) -> None:
        """What all processes have done, of this one also what it has begun."""
        if not bar.disable and (done := self._done()) > bar.n:
            bar.update(done - bar.n)
