"""The same on a Ray cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from spae.data.open import Spec
from spae.optional import needs
from spae.scale.tokenizing import Report, TokenizeConfig, Worker


def tokenize_on_ray(
    model: str | Path,
    source: Spec,
    out: str | Path,
    config: TokenizeConfig | None = None,
    *,
    workers: int = 2,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> Report:
    """`tokenize_collection` as a Ray Data job: a row for each shard that is missing, mapped by actors.

    An actor that dies, or whose node does, is replaced and its shard made by another; shards that are done
    stay. Model, source and folder must be what every node finds under these names.

    Args:
        workers: actors, each with a tokenizer. num_cpus, num_gpus: what each takes; with a GPU it encodes
            there.

    Raises ImportError without Ray, else what `tokenize_collection` raises.
    """
    try:
        import ray.data
    except ImportError as error:
        raise ImportError(needs("tokenize_on_ray", "ray[data]")) from error
    # Ray's processes are not made to be forked; it runs as many actors as readers are wanted.
    config = replace(config or TokenizeConfig(), loaders=0, progress=False)
    device = "cuda" if num_gpus else "cpu"
    driver = Worker(model, source, Path(out), config, device="cpu")
    if missing := driver.collection.missing():
        rows = ray.data.from_items(
            [{"shard": shard} for shard in missing], override_num_blocks=len(missing)
        ).map(
            _Shards,
            fn_constructor_args=(str(model), source, str(out), config, device),
            concurrency=min(workers, len(missing)),
            num_cpus=num_cpus,
            num_gpus=num_gpus,
        )
        for _ in rows.iter_rows():
            pass
    return driver.report(0.0)


class _Shards:
    """An actor: the number of a shard -> what it took."""

    def __init__(self, model: str, source: Spec, out: str, config: TokenizeConfig, device: str) -> None:
        self._worker = Worker(model, source, Path(out), config, device=device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        report = self._worker.run([int(row["shard"])])
        return {**row, "images": report.encoded, "seconds": report.seconds}
