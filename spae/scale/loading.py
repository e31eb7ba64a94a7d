"""Images read ahead of their encoding, in the order asked for, no more than a few batches at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spae.data.token_dataset import Skipped
from spae.data.token_shards import About
from spae.training.signals import ignore_in_worker

_AHEAD = 2  # batches that one reader is ahead


class Batch(NamedTuple):
    """Images that follow each other in the source, of which some may be skipped.

    end: the number after the last one. numbers, about: of those that could be read. images: float32
    [B, C, *image_size].
    """

    end: int
    numbers: list[int]
    about: list[About]
    images: Tensor
    skipped: list[Skipped]


class Readable(Dataset[Any]):
    """Items of `spae.data.open_data` by their numbers; what cannot be read becomes a `Skipped`."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, number: int) -> tuple[int, Any]:
        try:
            return number, self.data[number]
        except ImportError:  # of what is not installed no image can be read
            raise
        except Exception as error:  # a decoder of damaged files raises anything
            said = " ".join(str(error).split()) or type(error).__name__
            return number, Skipped(number, key_of(self.data, number), said)


def key_of(data: Any, number: int) -> str:
    """What an item is called, without reading it; views are called as their images."""
    keys = key_list(data)
    return keys[number % len(keys)]


def key_list(data: Any) -> list[str]:
    return data.keys if hasattr(data, "keys") else data.dataset.keys


def collate(items: list[tuple[int, Any]]) -> Batch:
    read = [(number, item) for number, item in items if not isinstance(item, Skipped)]
    return Batch(
        items[-1][0] + 1,
        [number for number, _ in read],
        [About(item.key, item.caption, item.label) for _, item in read],
        torch.stack([item.image for _, item in read]) if read else torch.empty(0),
        [item for _, item in items if isinstance(item, Skipped)],
    )


def batches(
    data: Any, numbers: Iterable[list[int]], *, loaders: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """Items by lists of their numbers, each list a batch.

    loaders: processes that read; 0 reads in a thread of this one.
    """
    readable = Readable(data)
    if not loaders:
        yield from _by_thread(readable, numbers)
        return
    yield from DataLoader(
        readable,
        batch_sampler=numbers,  # pyright: ignore[reportArgumentType]
        num_workers=loaders,
        prefetch_factor=_AHEAD,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=ignore_in_worker,
        generator=torch.Generator().manual_seed(0),
    )


def _by_thread(readable: Readable, numbers: Iterable[list[int]]) -> Iterator[Batch]:
    def read(batch: list[int]) -> Batch:
        return collate([readable[number] for number in batch])

    with ThreadPoolExecutor(1, "spae-reader") as pool:
        waiting = deque()
        try:
            for batch in numbers:
                waiting.append(pool.submit(read, batch))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
