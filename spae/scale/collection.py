"""A collection while it is made: which shards there are, which are done, and who makes which.

Shard s holds the images s * shard_size and on of the source. It counts as soon as its record (`00000.json`)
is there, which comes last and in one step: whatever is killed before leaves nothing that counts. Locks keep
processes from making the same shard; should they fail, as some network file systems' do, both make the same
files. So every image is in the collection once, or in a record's list of skipped ones.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from spae.data.token_dataset import COLLECTION, Skipped, num_shards, read_collection, record_file, shard_name
from spae.data.token_shards import Rows, check_form, write_shard
from spae.training.disk import flush, replace_text

_FREE = ("source", "model")  # entries that may differ where a run goes on: paths, whose content is compared


class Collection:
    """A folder that shards are made in; as a context manager it gives back what it has claimed.

    about: what `collection.json` says, written by the first who comes. Raises ValueError if it says something
    else already.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        check_form(about["form"])
        self.folder, self.about = folder, about
        self.num_shards = num_shards(about)
        self._claims: dict[int, FileLock] = {}
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not (folder / COLLECTION).exists():
                replace_text(folder / COLLECTION, json.dumps(about, indent=2) + "\n")
        self._check()

    def _check(self) -> None:
        there = read_collection(self.folder)
        for name, value in self.about.items():
            if name not in _FREE and (other := there.get(name)) != value:
                raise ValueError(
                    f"{self.folder / COLLECTION}: {name}: expected {value!r:.100}, got {other!r:.100}; "
                    "another collection needs another folder"
                )

    def rows(self, shard: int) -> range:
        """The numbers of a shard's images in the source."""
        size = self.about["shard_size"]
        return range(shard * size, min(self.about["images"], (shard + 1) * size))

    def is_done(self, shard: int) -> bool:
        return record_file(self.folder, shard).is_file()

    def missing(self, shards: Iterable[int] | None = None) -> list[int]:
        """Those that are not done."""
        wanted = range(self.num_shards) if shards is None else shards
        there = set(os.listdir(self.folder))
        return [shard for shard in wanted if record_file(self.folder, shard).name not in there]

    def claims(self, shards: Iterable[int]) -> Iterator[int]:
        """Those that are not done and that nobody else is making, each from then on claimed by this process.

        The system gives a claim back when its process dies.
        """
        for shard in shards:
            if self.is_done(shard):
                continue
            lock = FileLock(self._lock_file(shard))
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            if self.is_done(shard):  # since it was asked
                lock.release()
                continue
            self._claims[shard] = lock
            for left in self.folder.glob(f".{shard_name(shard)}.*.partial"):
                shutil.rmtree(left, ignore_errors=True)
            yield shard

    def commit(self, shard: int, rows: Rows, skipped: list[Skipped]) -> None:
        """Write a claimed shard, whole or not at all, and give the claim back."""
        name = shard_name(shard)
        partial = self.folder / f".{name}.{uuid.uuid4().hex}.partial"
        partial.mkdir()
        try:
            for file in write_shard(self.about["form"], partial, name, rows):
                flush(file)
                os.replace(file, self.folder / file.name)
            flush(self.folder)
            record = {"images": len(rows.ids), "skipped": [image._asdict() for image in skipped]}
            place = partial / f"{name}.json"
            place.write_text(json.dumps(record) + "\n", encoding="utf-8")
            flush(place)
            os.replace(place, record_file(self.folder, shard))
            flush(self.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._claims.pop(shard).release()
        self._lock_file(shard).unlink(missing_ok=True)  # who holds its ghost finds the shard done

    def tidy(self) -> None:
        """Remove what killed processes have left of shards that are done by now."""
        for left in self.folder.glob(".*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        for shard in range(self.num_shards):
            self._lock_file(shard).unlink(missing_ok=True)

    def _lock_file(self, shard: int) -> Path:
        return self.folder / f".{shard_name(shard)}.lock"

    def __enter__(self) -> Collection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._claims:
            self._claims.popitem()[1].release()
