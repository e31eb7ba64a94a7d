"""Few-shot runs over the episodes of published benchmarks."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from spae.eval.centroids import Features, Words, lite0_features, pixels
from spae.eval.episodes import Episode, FewShotSetting, Shot
from spae.eval.fewshot import V2L, Reading, WordImages, evaluate_fewshot, export_fewshot
from spae.eval.images import encode_items, pictures_of, words_of
from spae.eval.public import FORMATS, PublicEpisode, PublicImages, read_names, read_public
from spae.eval.run import Run, check_layers, recall
from spae.eval.similarity import says, similarity
from spae.eval.statistics import proportion
from spae.incontext.tasks.text import END_OF_LINE, answer_text, question_about, vqa_task


@dataclass(frozen=True)
class Published:
    """Episodes from a file.

    path, form, names: see `spae.eval.public.read_public`; names is the path of a JSON object of texts, for
    "v2l" alone, or None. images: the folder that the file's paths begin in; None is the file's own.
    """

    path: str
    form: str
    layers: tuple[int, ...]
    images: str | None = None
    names: str | None = None
    seed: int = 0
    reading: Reading = V2L
    lite0: bool = True
    export: bool = False

    def __post_init__(self) -> None:
        if self.form not in FORMATS:
            raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {self.form!r}")
        check_layers(self.layers)
        if self.names is not None and self.form != "v2l":
            raise ValueError(f"names: expected None but for v2l, got {self.names!r} for {self.form}")
        if not Path(self.path).is_file():
            raise FileNotFoundError(f"episodes: expected a number or a file, got {self.path!r}")


def published_rows(run: Run, part: Published) -> list[dict[str, Any]]:
    """Rows of a report: one for each number of words, and each setting among the episodes; those whose answer
    may be any text are a setting of their own."""
    path = Path(part.path)
    names = None if part.names is None else read_names(Path(part.names))
    episodes = read_public(path, part.form, names)
    images = PublicImages(episodes, path.parent if part.images is None else Path(part.images), run.size)
    pictures = pictures_of(images, range(len(images)))
    tokens = encode_items(run.model, pictures)
    features = {"pixels": Features(*[pixels(pictures)] * 2)}
    if part.lite0:
        features["Lite0"] = Features(*[lite0_features(pictures)] * 2)
    closed = [episode for episode in episodes if episode.choices]
    labels = list(dict.fromkeys(name for episode in closed for name in episode.choices))
    settings: dict[FewShotSetting, list[Episode]] = {}
    for public in closed:
        setting, episode = _episode(public, images, labels)
        settings.setdefault(setting, []).append(episode)
    rows = []
    for layers in part.layers:
        words = words_of(run.model, run.asked, tokens, layers)
        num_words = run.model.pyramid.num_tokens_upto(layers)
        facts = {"data": f"{path.name} ({part.form})", "seed": part.seed, "reading": str(part.reading)}
        facts |= {"layers": layers, "words": num_words}
        shown = WordImages(words, words, labels, features=features)
        for setting, played in settings.items():
            name = f"{path.stem}-{setting.name}".replace(", ", "-").replace(" ", "-")
            if part.export:
                file = run.folder / "prompts" / f"{name}-{num_words}-words.jsonl"
                export_fewshot(file, run.asked, shown, setting, played, part.reading)
            key, options = f"{run.key}:{layers}:{name}", {"reading": part.reading, "seed": part.seed}
            row = evaluate_fewshot(run.asked, shown, setting, played, journal=run.journal, key=key, **options)
            rows.append({**facts, **asdict(setting), **row})
        opened = [episode for episode in episodes if not episode.choices]
        if opened:
            rows.append({**facts, **_open(run, part, layers, opened, images, words)})
    return rows


def _episode(
    public: PublicEpisode, images: PublicImages, labels: list[str]
) -> tuple[FewShotSetting, Episode]:
    ways = {name: way for way, name in enumerate(public.choices)}
    shots = tuple(Shot(images.number[shot.image], ways[shot.answer]) for shot in public.shots)
    different = len(set(shots))
    inner = max(1, different // len(ways))
    setting = FewShotSetting(len(ways), inner, max(0, len(shots) // (len(ways) * inner) - 1))
    query = Shot(images.number[public.image], ways[public.answer])
    return setting, Episode(tuple(labels.index(name) for name in public.choices), shots, query)


def _open(
    run: Run,
    part: Published,
    layers: int,
    episodes: list[PublicEpisode],
    images: PublicImages,
    words: Words,
) -> dict[str, Any]:
    """Questions to which any text may be the answer: it is written, and scored as text."""
    records = []
    for number, episode in enumerate(tqdm(episodes, desc=part.form, disable=None)):
        generator = random.Random(f"{part.seed} {number}")
        ask = partial(_answers, run, part, episode, images, words, generator)
        key = f"{run.key}:{layers}:{part.reading!r}:{part.seed}:{episode!r}"
        records.append(recall(run.journal, key, ask))
    meant = [episode.answer for episode in episodes]
    figures = {}
    for kind in ("", "shuffled "):
        texts = [record[f"{kind}generated"] for record in records]
        right = sum(map(says, texts, meant))
        figures[f"{kind}exact"] = proportion(right, len(texts))
        if len(texts) > 1:
            figures[f"{kind}similarity"] = similarity(texts, meant)
    row = {name: figure._asdict() for name, figure in figures.items()}
    return {"setting": "open answers", "episodes": len(episodes), "chance": 0.0, **row}


def _answers(
    run: Run,
    part: Published,
    episode: PublicEpisode,
    images: PublicImages,
    words: Words,
    generator: random.Random,
) -> dict[str, str]:
    items = [images.number[shot.image] for shot in episode.shots]
    dealt = generator.sample(items, len(items))
    record = {}
    for kind, order in (("", items), ("shuffled ", dealt)):
        shown = [words[item] for item in order]
        task = vqa_task(shown, [""] * len(shown), [shot.answer for shot in episode.shots])
        condition = question_about(words[images.number[episode.image]], episode.question)
        record[f"{kind}generated"] = answer_text(
            run.asked,
            task,
            condition,
            stop=part.reading.stop or END_OF_LINE,
            max_tokens=part.reading.max_tokens or 32,
        )
    return record
