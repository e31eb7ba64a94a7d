"""Episodes of published benchmarks, from their own files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from spae.configs import checked
from spae.data.images import read_image


class PublicShot(NamedTuple):
    """image: its path in the file. answer: what the example says of it."""

    image: str
    answer: str


@dataclass(frozen=True)
class PublicEpisode:
    """shots: in the file's order. image: what is asked about. question: "" where only its name is asked for.
    choices: the possible answers, none where any text may be one."""

    name: str
    shots: tuple[PublicShot, ...]
    image: str
    answer: str
    question: str = ""
    choices: tuple[str, ...] = ()


def read_public(path: Path, form: str, names: Mapping[str, str] | None = None) -> list[PublicEpisode]:
    """The episodes of a file.

    form: "frozen", the JSON lists of Tsimpoukelli et al. 2021 (open_ended_mi, real_name_mi, fast_vqa); "v2l",
    the CSV files of Zhu et al. 2024, one episode a line, the query last; "vl-icl", `query.json` of the
    open_mi of Zong et al. 2024. names: of V2L's classes, by their folder (a WordNet id); a folder without one
    is its own name.

    Raises FileNotFoundError, and ValueError naming the file, the episode and what is wrong with it.
    """
    if form not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {form!r}")
    if not path.is_file():
        raise FileNotFoundError(f"episodes: expected a file, got {str(path)!r}")
    rows = _csv(path) if form == "v2l" else _json(path)
    episodes = []
    for number, row in enumerate(rows):
        try:
            episodes.append(FORMATS[form](str(number), row, names or {}))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"episodes: expected the format {form!r}, got {path}, episode {number}: {reason}"
            ) from error
    if not episodes:
        raise ValueError(f"episodes: expected at least one, got none in {path}")
    return episodes


def read_names(path: Path) -> dict[str, str]:
    """The names of classes by WordNet id, from a file with a JSON object of texts.

    Raises FileNotFoundError, and ValueError naming the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"names: expected a file, got {str(path)!r}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"names: expected JSON, got {path}: {error}") from error
    return checked(f"names in {path}", found, dict[str, str])


class PublicImages(Dataset[tuple[Tensor]]):
    """The images that episodes name, as (image float32 [3, size, size],), each once, by path.

    Raises FileNotFoundError naming the first that is not under `folder`.
    """

    def __init__(self, episodes: list[PublicEpisode], folder: Path, size: int) -> None:
        named = (path for e in episodes for path in (*(shot.image for shot in e.shots), e.image))
        self.number = {path: i for i, path in enumerate(dict.fromkeys(named))}
        self._files, self._size = [folder / path for path in self.number], size
        for file in self._files:
            if not file.is_file():
                raise FileNotFoundError(f"images: expected {str(file)!r}, which an episode names, got none")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return (read_image(self._files[index], (self._size, self._size), self._files[index]),)


def _json(path: Path) -> list[Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"episodes: expected JSON, got {path}: {error}") from error
    rows = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise ValueError(f"episodes: expected a list of episodes, got {type(value).__name__} in {path}")
    return rows


def _csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [[cell.strip() for cell in row if cell.strip()] for row in csv.reader(file)]
    return [row for row in rows if row]


def _frozen(number: str, row: dict[str, Any], names: Mapping[str, str]) -> PublicEpisode:
    shots = []
    while f"image_{len(shots) + 1}" in row:
        count = len(shots) + 1
        shots.append(PublicShot(_text(row[f"image_{count}"]), _bare(row[f"caption_{count}"])))
    if not shots:
        raise ValueError("expected image_1 and caption_1, got neither")
    name, image = str(row.get("question_id", number)), _text(row["question_image"])
    question, answer = _text(row["question"]).strip(), _bare(row["answer"])
    # "Q: What is this? A: This is a" is to be ended as the captions are: "This is a dax."
    start = _begun([shot.answer for shot in shots], question)
    named = [PublicShot(shot.image, shot.answer[len(start) :].strip()) for shot in shots]
    choices = tuple(dict.fromkeys(shot.answer for shot in named))
    answer = answer[len(start) :].strip() if start and answer.startswith(start) else answer
    if start and answer in choices:
        return _checked(PublicEpisode(name, tuple(named), image, answer, choices=choices))
    asked = question.removeprefix("Q:").removesuffix("A:").strip()
    return PublicEpisode(name, tuple(shots), image, answer, question=asked)


def _begun(captions: list[str], question: str) -> str:
    """The longest end of a question that all captions begin with, in whole words; "" for none."""
    words = question.split()
    for count in range(len(words), 0, -1):
        start = " ".join(words[-count:])
        if all(caption.startswith(f"{start} ") for caption in captions):
            return start
    return ""


def _v2l(number: str, row: list[str], names: Mapping[str, str]) -> PublicEpisode:
    if len(row) < 3:
        raise ValueError(f"expected examples and a query, got {len(row)} images")

    def shot(path: str) -> PublicShot:
        folder, slash, _ = path.rpartition("/")
        if not slash:
            raise ValueError(f"expected WNID/FILE, got {path!r}")
        wnid = folder.rpartition("/")[2]
        return PublicShot(path, names.get(wnid, wnid))

    *shots, query = (shot(path) for path in row)
    choices = tuple(dict.fromkeys(one.answer for one in shots))
    return _checked(PublicEpisode(number, tuple(shots), query.image, query.answer, choices=choices))


def _vl_icl(number: str, row: dict[str, Any], names: Mapping[str, str]) -> PublicEpisode:
    classes = tuple(_text(name) for name in row["classes"])
    images = {name: [_text(path) for path in row["support"][name]["images"]] for name in classes}
    count = min(map(len, images.values()))
    # One of each class at a time, as in our own episodes.
    shots = tuple(PublicShot(images[name][shot], name) for shot in range(count) for name in classes)
    query = row["image"]
    query = _text(query[0] if isinstance(query, list) else query)
    name = str(row.get("id", number))
    return _checked(PublicEpisode(name, shots, query, _bare(row["answer"]), choices=classes))


FORMATS: dict[str, Callable[[str, Any, Mapping[str, str]], PublicEpisode]] = {
    "frozen": _frozen,
    "v2l": _v2l,
    "vl-icl": _vl_icl,
}


def _checked(episode: PublicEpisode) -> PublicEpisode:
    if len(episode.choices) < 2 or not episode.shots:
        raise ValueError(f"expected examples of 2 classes or more, got {len(episode.choices)} classes")
    if episode.answer not in episode.choices:
        raise ValueError(f"expected an answer among {', '.join(episode.choices)}, got {episode.answer!r}")
    return episode


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r:.60}")
    return value


def _bare(value: Any) -> str:
    return _text(value).strip().removesuffix(".").strip()
