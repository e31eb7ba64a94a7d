"""The kinds of sources that `open_data` knows: each opens what stands after its name in a specification."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from spae.data.images import Size
from spae.data.sets import dataset_class
from spae.data.sources import HuggingFaceImages, ImageFolder, TarShards, expand

SPLITS = ("train", "dev", "test")
SHARD = re.compile(r"\.(tar|tar\.gz|tgz)$")
_SYNONYMS = {"dev": ("dev", "val", "valid", "validation")}

Opener = Callable[..., Any]


class Unsplit(NamedTuple):
    """What an opener returns of a source that has no splits of its own: all there is."""

    dataset: Any


SOURCES: dict[str, Opener] = {}


def register(kind: str) -> Callable[[Opener], Opener]:
    """Decorator that adds a kind of source: `opener(place, split, shape, *, option=.., ..)`.

    place: what the specification says after the kind. split: what the split is called there, None for all.
    shape: `check_shape` of the size, None for the source's own. The opener returns a dataset of images float
    [C, *shape] in [-1, 1], or of tuples that begin with one, which may have attributes `captions`, `labels`,
    `keys` and `classes`; or `Unsplit` of one.
    """
    if (
        not isinstance(kind, str)
        or not kind.replace("-", "_").isidentifier()
        or kind in SOURCES
        or kind in (*SPLITS, "views", "classes")
    ):
        raise ValueError(f"kind: expected a new name, got {kind!r}")

    def add(opener: Opener) -> Opener:
        SOURCES[kind] = opener
        return opener

    return add


@register("name")
def _packaged(place: str, split: str | None, shape: tuple[int, ...] | None, **options: Any) -> Any:
    dataset = dataset_class(place)
    _needs_split(split, place)
    known = inspect.signature(dataset).parameters
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"data: expected options of {place!r}, {', '.join(known)}, got {unknown}")
    if shape is not None:
        if ("frames" in known) != (len(shape) == 3):
            wanted = "(frames, height, width)" if "frames" in known else "(height, width)"
            raise ValueError(f"image_size: expected {wanted}, which {place} has, got {shape}")
        if shape[-1] != shape[-2]:
            raise ValueError(f"image_size: expected a square, which {place} has, got {shape}")
        options = {"size": shape[-1], **({"frames": shape[0]} if len(shape) == 3 else {}), **options}
    return dataset(split, **options)


@register("folder")
def _folder(place: str, split: str | None, shape: tuple[int, ...] | None) -> Any:
    return _in_folders(ImageFolder, "folder", place, split, shape or 128)


@register("wav")
def _wav(place: str, split: str | None, shape: tuple[int, ...] | None) -> Any:
    from spae.data.recordings import SoundFolder

    return _in_folders(SoundFolder, "wav", place, split, shape or 32)


@register("videos")
def _videos(place: str, split: str | None, shape: tuple[int, ...] | None) -> Any:
    from spae.data.videos import VideoFolder

    if shape is None or len(shape) != 3:
        raise ValueError(f"image_size: expected (frames, height, width) for videos, got {shape}")
    return _in_folders(VideoFolder, "videos", place, split, shape)


def _in_folders(of: type[ImageFolder], kind: str, place: str, split: str | None, size: Size) -> Any:
    """What is in the folder of a split, or all of a folder that has none."""
    root = Path(place)
    if split is None:
        return of(root, size)
    folders, chosen = _split_folders(root, split, kind)
    if chosen is None:
        return Unsplit(of(root, size))
    classes = {c.name for f in folders for c in f.iterdir() if c.is_dir() and not c.name.startswith(".")}
    tables = [path for path in sorted(root.iterdir()) if path.is_file()]
    return of(chosen, size, classes=classes, tables=tables)


@register("frames")
def _frames(place: str, split: str | None, shape: tuple[int, ...] | None) -> Any:
    from spae.data.frames import FrameFolders

    if shape is None or len(shape) != 3:
        raise ValueError(f"image_size: expected (frames, height, width) for folders of frames, got {shape}")
    if split is None:
        return FrameFolders(place, shape)
    folders, chosen = _split_folders(Path(place), split, "frames")
    if chosen is None:
        return Unsplit(FrameFolders(place, shape))
    classes = {name for folder in folders for name in FrameFolders(folder, shape).classes}
    return FrameFolders(chosen, shape, classes=classes)


def _split_folders(root: Path, split: str, kind: str) -> tuple[list[Path], Path | None]:
    """The folders of all splits in a folder, and this split's; None where the folder is not split."""
    known = dict.fromkeys([*SPLITS, *_SYNONYMS["dev"], split])
    folders = [root / name for name in known if (root / name).is_dir()]
    own = {"train", *_SYNONYMS["dev"]} & {folder.name for folder in folders} or split not in SPLITS
    if not root.is_dir() or not own:
        return folders, None
    chosen = [folder for folder in folders if folder.name in _SYNONYMS.get(split, (split,))]
    if not chosen:
        raise FileNotFoundError(
            f"data: expected a folder {str(root / split)!r}, "
            f"got {', '.join(f.name for f in folders) or 'none'}; "
            f'another name for it is given as {{"{kind}": {str(root)!r}, "{split}": "NAME"}}'
        )
    return folders, chosen[0]


@register("tar")
def _tar(place: str, split: str | None, shape: tuple[int, ...] | None) -> Any:
    size, folder = shape or 128, Path(place)
    if "{split}" in place:
        return TarShards(place.replace("{split}", split or "*"), size)
    if not folder.is_dir():
        return Unsplit(TarShards(place, size))
    shards = sorted(str(path) for path in folder.iterdir() if SHARD.search(path.name))
    if split is None:
        return TarShards(shards, size)
    if split not in SPLITS:  # a file or pattern that the specification names
        return TarShards(expand(str(folder / split)), size)
    known = dict.fromkeys([*SPLITS, *_SYNONYMS["dev"]])
    of = {
        name: [shard for shard in shards if re.match(rf"{name}(?![A-Za-z])", Path(shard).name)]
        for name in known
    }
    if not any(of.values()):
        return Unsplit(TarShards(shards, size))
    chosen = [shard for name in _SYNONYMS.get(split, (split,)) for shard in of[name]]
    if not chosen:
        raise FileNotFoundError(
            f"data: expected shards {folder / split}*.tar or .tar.gz, "
            f"got only {', '.join(name for name, found in of.items() if found)}"
        )
    return TarShards(chosen, size)


@register("hf")
def _hf(
    place: str,
    split: str | None,
    shape: tuple[int, ...] | None,
    *,
    image: str | None = None,
    label: str | None = None,
    caption: str | None = None,
) -> Any:
    if HuggingFaceImages.has_splits(place):
        _needs_split(split, place)
    dataset = HuggingFaceImages.load(place, split, shape or 128, image=image, label=label, caption=caption)
    return dataset if HuggingFaceImages.has_splits(place) else Unsplit(dataset)


@register("cifar10")
def _cifar10(place: str, split: str | None, shape: tuple[int, ...] | None) -> Any:
    from spae.data.cifar10 import CIFAR10

    return CIFAR10(place, _needs_split(split, "cifar10"), shape or 32)


@register("spoken-digits")
def _spoken_digits(place: str, split: str | None, shape: tuple[int, ...] | None) -> Any:
    from spae.data.recordings import SpokenDigits

    return SpokenDigits(place, _needs_split(split, "spoken-digits"), shape or 32)


def _needs_split(split: str | None, place: str) -> str:
    if split is None:
        raise ValueError(f"split: expected one of those that {place} has, got None")
    return split
