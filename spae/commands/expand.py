"""`spae expand`: the words of a V2L tokenizer."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spae.commands import own_command

if TYPE_CHECKING:
    from torch import Tensor

    from spae.codebook.expansion import Expansion
    from spae.scorers.protocol import ImageTextScorer

ABOUT = "Make the words of a V2L tokenizer: phrases by a language model, those that describe an image kept."


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder for them, a preset's codebook.folder")
    parser.add_argument("--llm", default="smollm2", help="smollm2, gemma3, a GGUF file or a folder")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of its weights"
    )
    parser.add_argument(
        "--codebook", default="smollm2", help="its vocabulary, as Codebook.load names it (default: smollm2)"
    )
    parser.add_argument(
        "--words",
        default="word-like",
        help="all, word-like or nouns: what begins a phrase (default: word-like)",
    )
    parser.add_argument("--limit", type=int, help="only the first so many of them (default: all)")
    parser.add_argument(
        "--top", type=int, default=1, metavar="M", help="likeliest next tokens (default: 1, the paper's)"
    )
    parser.add_argument("--longest", type=int, default=3, help="ids of a phrase at most (default: 3)")
    parser.add_argument(
        "--scorer",
        default="conse",
        metavar="NAME",
        help="conse (default), caption, or open_clip:ARCHITECTURE/CHECKPOINT, e.g. open_clip:ViT-L-14/openai",
    )
    parser.add_argument("--ridge", type=Path, help="of conse: a map fitted to captions (RidgeMap.save)")
    parser.add_argument("--data", default="emoji", help="training images, as `spae train` takes them")
    parser.add_argument("--split", default="train", help="of the data (default: train)")
    parser.add_argument("--size", type=int, default=64, help="pixels a side of the images (default: 64)")
    parser.add_argument(
        "--keep", type=int, default=5, help="phrases kept of each image (default: 5, the paper's)"
    )
    parser.add_argument(
        "--compare",
        metavar="SPLIT",
        help="a held-out split of the data: how well words, bigrams and trigrams describe its images, into "
        "phrases.json and phrases.md",
    )
    parser.add_argument("--images", type=int, default=300, help="of that split, evenly spread (default: 300)")


def run(arguments: argparse.Namespace) -> None:
    from spae import llm
    from spae.codebook import Codebook
    from spae.codebook.expansion import expand
    from spae.configs import Count, checked
    from spae.data import open_data
    from spae.scorers import dataset_features
    from spae.tokenizers.v2l_words import V2LWords

    for name in ("top", "longest", "size", "keep"):
        checked(name, getattr(arguments, name), Count)
    words = Codebook.load(arguments.codebook, words=arguments.words, limit=arguments.limit)
    images = open_data(arguments.data, arguments.split, image_size=(arguments.size, arguments.size))
    scorer = _scorer(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    expansion = expand(
        llm.load(arguments.llm, dtype=arguments.dtype),
        words,
        top=arguments.top,
        longest=arguments.longest,
        journal=arguments.out / "journal.jsonl",
        progress=True,
    )
    features = dataset_features(scorer, images).cpu()
    made = V2LWords.of(expansion, scorer, features, keep=arguments.keep, progress=True)
    made.save(arguments.out)
    counts = ", ".join(f"{count} of {ids}" for ids, count in enumerate(made.about["counts"], 1))
    print(
        f"{arguments.out}: {len(made.vocabularies['local'])} local words; "
        f"{len(made.vocabularies['global'])} global ones of {len(expansion)} phrases, by ids: {counts}"
    )
    if arguments.compare is not None:
        _compare(arguments, expansion, scorer, features)


def _compare(
    arguments: argparse.Namespace, expansion: Expansion, scorer: ImageTextScorer, taught: Tensor
) -> None:
    """`phrases.json` and `phrases.md`."""
    from spae.data import open_data
    from spae.eval.host import host
    from spae.eval.images import spread
    from spae.eval.phrases import evaluate_phrases, phrases_table
    from spae.scorers import CaptionScorer, TextFeatureCache, dataset_features

    opened = open_data(arguments.data, arguments.compare, image_size=(arguments.size, arguments.size))
    asked = spread(opened, arguments.images)
    run: dict[str, Any] = {name: getattr(arguments, name) for name in ("data", "words", "limit", "keep")}
    run |= {"split": arguments.compare, "taught": len(taught), "asked": len(asked)}
    named, groups = None, None
    if all(asked.captions):
        judge, groups = CaptionScorer(), asked.captions
        named = TextFeatureCache(judge).features(expansion.words), dataset_features(judge, asked)
        run |= {"judge": judge.name, "groups": len(set(groups))}
    rows = evaluate_phrases(
        expansion,
        TextFeatureCache(scorer).features(expansion.words),
        taught,
        dataset_features(scorer, asked).cpu(),
        named=named,
        groups=groups,
        counts=sorted({1, arguments.keep}),
        keep=arguments.keep,
    )
    about = {"llm": arguments.llm, "prompt": expansion.about["prompt"], "scorer": scorer.name, "run": run}
    report = {"command": own_command(), "host": host(), **about, "rows": rows}
    (arguments.out / "phrases.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = f"{phrases_table(report)}\n\n    {report['command']}\n"
    (arguments.out / "phrases.md").write_text(text, encoding="utf-8")
    print(phrases_table(report))


def _scorer(arguments: argparse.Namespace) -> ImageTextScorer:
    from spae.scorers import ConSEScorer, load_scorer

    if arguments.ridge is None:
        return load_scorer(arguments.scorer)
    if arguments.scorer != "conse":
        raise ValueError(f"ridge: expected none beside {arguments.scorer}, got {arguments.ridge}")
    return ConSEScorer.load(ridge=arguments.ridge)
