"""Captions of images by a frozen language model, from examples of captioned images."""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from spae.codebook import WordIds
from spae.data.emoji import content_words
from spae.eval.export import prompt_line, save_prompts
from spae.eval.images import encode_items, pictures_of, stack, words_of
from spae.eval.labelled import SPLITS, LabelledSet, labelled_set
from spae.eval.run import Measured, Run, check_layers, recall
from spae.eval.similarity import says, similarity
from spae.eval.statistics import Interval, proportion
from spae.eval.table import markdown, shown
from spae.figures import picture_grid, printable
from spae.incontext.tasks import classify
from spae.incontext.tasks.text import END_OF_SENTENCE, captioning_task, check_stop
from spae.incontext.words import ids_of
from spae.llm import FrozenLLM

ABOUT = "Names of held-out emoji, from ten examples of captioned pictures."
USES_LLM = True
KINDS = ("", "shuffled ")
SCORES = ("exact", "word", "similarity", "ranked")
_PICTURES, _LETTERS = 20, 20  # on the page, and in a caption there


@dataclass(frozen=True)
class Captions:
    """What is asked: names of held-out emoji by the held-out vendor.

    layers: how many layers' words an image is shown as. queries: how many images are asked about; each once
    before any comes again. examples: captioned pictures of other concepts in a prompt. candidates: how many
    names, none of them an example's, are ranked for each image. stop: texts whose first token ends a caption;
    max_tokens: what ends it at the latest. split: see `spae.eval.labelled.labelled_set`. export: write the
    prompts.
    """

    layers: tuple[int, ...] = (2,)
    queries: int = 60
    examples: int = 10
    candidates: int = 10
    stop: tuple[str, ...] = END_OF_SENTENCE
    max_tokens: int = 32
    split: str | None = "report"
    seed: int = 0
    export: bool = False

    def __post_init__(self) -> None:
        check_layers(self.layers)
        check_stop(self.stop)
        for name, least in (("queries", 2), ("examples", 2), ("candidates", 2), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class CaptionEpisode:
    """query: an item of the asked set. shots: items of the shown set, of different classes. candidates:
    classes, the query's own first."""

    query: int
    shots: tuple[int, ...]
    candidates: tuple[int, ...]


def sample_captions(labelled: LabelledSet, run: Captions) -> list[CaptionEpisode]:
    """The seeded prompts of a run, the same for every tokenizer and language model."""
    classes, asked = labelled.labels.shown, labelled.labels.asked
    assert asked is not None
    of_class: dict[int, list[int]] = {}
    for item, label in enumerate(classes):
        if label >= 0:
            of_class.setdefault(label, []).append(item)
    if run.examples + run.candidates > len(of_class):
        raise ValueError(
            f"examples: expected at most {len(of_class)} together with the candidates, "
            f"got {run.examples} and {run.candidates} candidates"
        )
    generator = random.Random(run.seed)
    order: list[int] = []
    episodes = []
    for _ in range(run.queries):
        items = [item for item, label in enumerate(asked) if label >= 0]
        order = order or generator.sample(items, len(items))
        query = order.pop()
        others = [label for label in sorted(of_class) if label != asked[query]]
        drawn = generator.sample(others, run.examples + run.candidates - 1)
        shots = tuple(generator.choice(of_class[label]) for label in drawn[: run.examples])
        episodes.append(CaptionEpisode(query, shots, (asked[query], *drawn[run.examples :])))
    return episodes


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layers", type=int, nargs="+", default=[2], help="layers shown (default: 2)")
    parser.add_argument("--queries", type=int, default=60, help="pictures asked about (default: 60)")
    parser.add_argument("--examples", type=int, default=10, help="in a prompt (default: 10)")
    add_stop(parser, END_OF_SENTENCE, Captions.max_tokens)
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default=Captions.split,
        help="dev: a third of the concepts, to choose options by; report: the others (default)",
    )
    parser.add_argument(
        "--export", action="store_true", help="write the prompts into OUT/prompts, for other harnesses"
    )


def add_stop(parser: argparse.ArgumentParser, stop: tuple[str, ...], max_tokens: int) -> None:
    """The options that say where a text ends."""
    shown_stop = " ".join(text.replace("\n", "\\n") for text in stop)
    parser.add_argument(
        "--stop",
        nargs="+",
        default=stop,
        metavar="TEXT",
        type=lambda text: text.replace("\\n", "\n"),
        help=f"what is written ends at the first token of one of these (default: {shown_stop})",
    )
    parser.add_argument(
        "--max-tokens", type=int, default=max_tokens, help=f"and after so many (default: {max_tokens})"
    )


def settings(arguments: argparse.Namespace) -> Captions:
    return Captions(
        tuple(arguments.layers),
        arguments.queries,
        arguments.examples,
        stop=tuple(arguments.stop),
        max_tokens=arguments.max_tokens,
        split=arguments.split,
        seed=arguments.seed,
        export=arguments.export,
    )


def measure(run: Run) -> Measured:
    """Caption every query: the model writes until a stop, however long the names are.

    "exact" is the share of captions that are the image's name, "word" of those that share a word with it,
    "similarity" the mean cosine of MiniLM's vectors of caption and name, and "ranked" the share of images
    whose name is the likeliest of the candidates. "shuffled ..." is the same with the images of each prompt,
    the query's included, dealt out so that none keeps its text. "commonest ..." take the image's most
    frequent word as its caption, without a language model.

    `episodes.jsonl` lists what is asked. The page shows the first queries with the last layers' captions.
    """
    model, llm = run.model, run.asked
    labelled = labelled_set("emoji", run.size, split=run.settings.split)
    asked = labelled.asked
    assert asked is not None
    episodes = sample_captions(labelled, run.settings)
    lines = [json.dumps(asdict(episode)) + "\n" for episode in episodes]
    (run.folder / "episodes.jsonl").write_text("".join(lines), encoding="utf-8")
    shown_items = pictures_of(labelled.shown, [item for e in episodes for item in e.shots])
    examples = encode_items(model, shown_items)
    queries = encode_items(model, pictures_of(asked, [e.query for e in episodes]))
    rows, records = [], []
    for layers in run.settings.layers:
        words = words_of(model, llm, examples, layers), words_of(model, llm, queries, layers)
        if run.settings.export:
            file = run.folder / "prompts" / f"caption-{model.pyramid.num_tokens_upto(layers)}-words.jsonl"
            save_prompts(
                file,
                (
                    _line(llm, labelled, e, *words, f"{file.stem}-{number}")
                    for number, e in enumerate(episodes)
                ),
            )
        records = []
        for episode in tqdm(episodes, desc=f"{layers} layers", disable=None):
            ask = partial(_caption, llm, labelled, run.settings, episode, *words)
            key = f"{run.key}:{layers}:{run.settings.stop!r}:{run.settings.max_tokens}:{episode!r}"
            records.append(recall(run.journal, key, ask))
        shares = _shares(records, [labelled.names[episode.candidates[0]] for episode in episodes])
        of_words = {"layers": layers, "words": model.pyramid.num_tokens_upto(layers)}
        rows.append({**of_words, **{name: share._asdict() for name, share in shares.items()}})
    first = list(zip(episodes, records, strict=True))[:_PICTURES]
    titles = [
        f"{labelled.names[e.candidates[0]]}\n→ {printable(r['generated'], _LETTERS) or '(nothing)'}"
        for e, r in first
    ]
    pictures = stack(asked, [e.query for e, _ in first])
    return Measured(
        {"run": asdict(run.settings), "rows": rows},
        lambda path: picture_grid(pictures, titles, path, columns=5, width=1.7),
    )


def table(report: dict[str, Any]) -> str:
    """Each share with its 95% interval."""
    run = report["run"]
    # Earlier reports have fewer measures.
    measures = [name for name in _measures() if name in report["rows"][0]]
    rows = [[str(row["words"]), *(shown(row[name]) for name in measures)] for row in report["rows"]]
    note = (
        f"{report['llm']}, {run['queries']} pictures of held-out concepts by a held-out vendor, "
        f"{run['examples']} examples, seed {run['seed']}; shares with 95% intervals. Ranked among "
        f"{run['candidates']} names: chance {1 / run['candidates']:.2f}."
    )
    return markdown(["words", *measures], rows, note)


def _measures() -> list[str]:
    return [f"{kind}{name}" for kind in (*KINDS, "commonest ") for name in SCORES]


def _shares(records: list[dict[str, Any]], names: list[str]) -> dict[str, Interval]:
    shares = {}
    for name in _measures():
        if name.endswith("similarity"):
            texts = [record[name.replace("similarity", "generated")] for record in records]
            shares[name] = similarity(texts, names)
        elif name in records[0]:
            shares[name] = proportion(sum(record[name] for record in records), len(records))
    return shares


def _shown(
    labelled: LabelledSet,
    episode: CaptionEpisode,
    examples: dict[int, tuple[WordIds, ...]],
    queries: dict[int, tuple[WordIds, ...]],
) -> tuple[list[tuple[WordIds, ...]], list[str], list[str]]:
    """An episode's images, the query's last; the examples' captions; the candidates' names."""
    images = [*(examples[item] for item in episode.shots), queries[episode.query]]
    captions = [labelled.names[labelled.labels.shown[item]] for item in episode.shots]
    return images, captions, [labelled.names[label] for label in episode.candidates]


def _line(
    llm: FrozenLLM,
    labelled: LabelledSet,
    episode: CaptionEpisode,
    examples: dict[int, tuple[WordIds, ...]],
    queries: dict[int, tuple[WordIds, ...]],
    name: str,
) -> dict[str, Any]:
    images, captions, names = _shown(labelled, episode, examples, queries)
    task = captioning_task(images[:-1], captions)
    return prompt_line(llm, name, task, images[-1], images, names, names[0])


def _caption(
    llm: FrozenLLM,
    labelled: LabelledSet,
    run: Captions,
    episode: CaptionEpisode,
    examples: dict[int, tuple[WordIds, ...]],
    queries: dict[int, tuple[WordIds, ...]],
) -> dict[str, Any]:
    images, captions, names = _shown(labelled, episode, examples, queries)
    commonest = Counter(images[-1]).most_common(1)[0][0]
    record: dict[str, Any] = _fit(llm.decode(ids_of(commonest)), names[0], "commonest ")
    for kind, (*shots, query) in zip(KINDS, (images, [*images[1:], images[0]]), strict=True):
        task = captioning_task(shots, captions)
        verdict = classify(llm, task, names, query, stop=run.stop, max_tokens=run.max_tokens)
        record |= {f"{kind}ranked": verdict.ranked == 0, **_fit(verdict.generated, names[0], kind)}
    return record


def _fit(caption: str, name: str, kind: str) -> dict[str, Any]:
    return {
        f"{kind}generated": caption,
        f"{kind}exact": says(caption, name),
        f"{kind}word": bool(content_words(caption) & content_words(name)),
    }
