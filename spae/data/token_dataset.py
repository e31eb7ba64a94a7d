"""Collections of tokens, as `spae tokenize` writes them, to train on."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spae.configs import read_object
from spae.data.token_shards import Shard, check_form, read_shard
from spae_ops import Pyramid

COLLECTION = "collection.json"
FORMAT = "spae-collection-1"
_OPEN = {"npy": 1 << 16, "tar": 4, "parquet": 4}  # mapped ones cost next to nothing


class TokenItem(NamedTuple):
    """ids: int64 [n], layer by layer. caption: "" for none. label: the class, -1 for none. key: what the
    image is called in its source."""

    ids: Tensor
    caption: str
    label: int
    key: str


class Skipped(NamedTuple):
    """An image that could not be read, and why. number: its place in the source."""

    number: int
    key: str
    error: str


class TokenDataset(Dataset[TokenItem]):
    """A collection that `spae tokenize` made, as `TokenItem`s in the order of its source.

    A `DataLoader` puts them together as they are: ids [B, n], captions, labels [B], keys. Shards of the form
    npy are mapped into memory and read in any order; of the others the four that were read last are held, so
    that they are best read in order, or shard by shard.

    Args:
        folder: the collection.
        num_layers: only the first ones; None: all that it holds.

    Attributes:
        pyramid: that of the ids. num_layers: how many of its layers there are.
        vocab_size: K, ids are below it.
        about: what `collection.json` says: the model, its codebook, the source, ..
        skipped: the source's images that could not be read, which are not in it.

    Raises:
        FileNotFoundError: it is no collection.
        ValueError: it is not whole yet, it is damaged, or it has fewer layers. The message names the file.
    """

    def __init__(self, folder: str | Path, num_layers: int | None = None):
        self.folder = Path(folder)
        self.about = read_collection(self.folder)
        held, pyramid = self.about["num_layers"], self.about["pyramid"]
        self.pyramid = Pyramid(tuple(pyramid["shape"]), tuple(map(tuple, pyramid["grids"])))
        self.num_layers: int = held if num_layers is None else num_layers
        if not isinstance(self.num_layers, int) or not 1 <= self.num_layers <= held:
            raise ValueError(f"num_layers: expected 1 to {held}, got {num_layers!r}")
        self._width = self.pyramid.num_tokens_upto(held)
        self._kept = self.pyramid.num_tokens_upto(self.num_layers)
        self.vocab_size: int = self.about["codebook"]["size"]
        check_form(self.about["form"])
        self.skipped: list[Skipped] = []
        counts = []
        for count, skipped in shard_records(self.folder, self.about):
            counts.append(count)
            self.skipped += skipped
        self._starts = [0, *accumulate(counts)]
        self._shards: OrderedDict[int, Shard] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> TokenItem:
        place = range(len(self))[index]
        number = bisect_right(self._starts, place) - 1
        shard, row = self._shard(number), place - self._starts[number]
        ids = torch.from_numpy(shard.ids[row, : self._kept].astype(np.int64))
        about = shard.about(row)
        return TokenItem(ids, about.caption, about.label, about.key)

    def check(self, tokenizer: Any) -> None:
        """Raises ValueError unless the ids are those of the tokenizer's codebook and pyramid."""
        own = tokenizer.codebook.checksum
        if (checksum := self.about["codebook"]["checksum"]) != own:
            raise ValueError(
                f"{self.folder}: expected ids of the tokenizer's codebook {own:.12}, got {checksum:.12}"
            )
        if tokenizer.pyramid != self.pyramid:
            raise ValueError(f"{self.folder}: expected ids of {tokenizer.pyramid}, got {self.pyramid}")

    def _shard(self, number: int) -> Shard:
        if number in self._shards:
            self._shards.move_to_end(number)
            return self._shards[number]
        name = shard_name(number)
        shard = read_shard(self.about["form"], self.folder, name)
        wanted = (self._starts[number + 1] - self._starts[number], self._width)
        if shard.ids.shape != wanted or str(shard.ids.dtype) != self.about["dtype"]:
            raise ValueError(
                f"{self.folder / name}: expected ids {self.about['dtype']} {list(wanted)}, "
                f"got {shard.ids.dtype} {list(shard.ids.shape)}"
            )
        self._shards[number] = shard
        if len(self._shards) > _OPEN[self.about["form"]]:
            self._shards.popitem(last=False)
        return shard

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": OrderedDict()}  # each process opens its own


def read_collection(folder: Path) -> dict[str, Any]:
    """What `collection.json` says. Raises FileNotFoundError or ValueError, with the file."""
    file = folder / COLLECTION
    about = read_object(file, "what `spae tokenize` wrote of a collection")
    if about.get("format") != FORMAT:
        raise ValueError(f"{file}: format: expected {FORMAT!r}, got {about.get('format')!r:.80}")
    return about


def num_shards(about: dict[str, Any]) -> int:
    return -(-about["images"] // about["shard_size"])


def shard_name(number: int) -> str:
    return f"{number:05}"


def record_file(folder: Path, number: int) -> Path:
    """What says how many images a shard holds and which it lacks; it is there once the shard is whole."""
    return folder / f"{shard_name(number)}.json"


def shard_records(folder: Path, about: dict[str, Any]) -> list[tuple[int, list[Skipped]]]:
    """Of every shard, how many images it holds, and those it lacks. Raises ValueError while any is
    missing."""
    files = [record_file(folder, number) for number in range(num_shards(about))]
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(
            f"{folder}: expected {len(files)} shards, got {len(files) - len(missing)}; "
            "`spae tokenize` with the same arguments makes the others"
        )
    found = []
    for file in files:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            found.append((int(record["images"]), [Skipped(**image) for image in record["skipped"]]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: expected a shard's record, got what is none ({error})") from error
    return found
