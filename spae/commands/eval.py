"""`spae eval`: what a tokenizer's words are worth, alone and to a frozen language model."""

from __future__ import annotations

import argparse
import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spae.commands import load_tokenizer, own_command

if TYPE_CHECKING:
    from spae.llm import FrozenLLM
    from spae.tokenizers import Tokenizer

ABOUT = "Measure tokenizers."
# Of a server, by option and by field of `spae.llm.http.Server`.
_OF_SERVERS = {"llm_model": "model", "llm_tokenizer": "tokenizer", "context_window": "context_window"}


def add(parser: argparse.ArgumentParser) -> None:
    """`spae eval NAME` for every task of `spae.eval.tasks`."""
    from spae.eval.run import find, tasks

    kinds = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name in tasks():
        task = find(name)
        kind = kinds.add_parser(name, help=task.ABOUT, description=task.ABOUT)
        _add_models(kind)
        out = Path("out") / name if task.USES_LLM else None
        kind.add_argument(
            "--out",
            type=Path,
            default=out,
            help=f"folder for the report, its table and page (default: {out or 'nothing is written'})",
        )
        kind.add_argument("--json", action="store_true", help="print JSON")
        if task.USES_LLM:
            _add_llm(kind)
        task.add(kind)
    _add_all(kinds)


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        nargs="+",
        default=["mnist"],
        help="any tokenizers: bundled ones' names, folders or hub repositories (default: mnist); several "
        "come onto one page",
    )


def _add_all(kinds: Any) -> None:
    from spae.eval.run import tasks

    about = "Every evaluation, on one page."
    kind = kinds.add_parser("all", help=about, description=about)
    _add_models(kind)
    kind.add_argument("--data", default="mnist", help="of those that take any (default: mnist)")
    kind.add_argument(
        "--quick", action="store_true", help="a few images and prompts of each: a look, minutes"
    )
    kind.add_argument("--tasks", nargs="+", choices=tasks(), help="only these")
    kind.add_argument("--no-llm", action="store_true", help="only those that ask no language model")
    kind.add_argument("--out", type=Path, default=Path("out/all"), help="(default: out/all)")
    kind.add_argument("--json", action="store_true", help="print JSON")
    _add_llm(kind)


def run(arguments: argparse.Namespace) -> None:
    from spae.eval.run import Run, evaluate, evaluate_models, find, table_of

    if arguments.what == "all":
        return _run_all(arguments)
    task = find(arguments.what)
    # What is wrong with the settings is said before anything is loaded.
    settings = task.settings(arguments)
    llm = _load_llm(arguments) if task.USES_LLM else None

    def run_of(name: str) -> Run:
        model = _load_model(arguments, name, llm)
        return Run(arguments.what, settings, model, llm, arguments.out, own_command())

    names = arguments.model
    report = evaluate(task, run_of(*names)) if len(names) == 1 else evaluate_models(task, names, run_of)
    print(json.dumps(report, indent=2) if arguments.json else table_of(task, report))


def _run_all(arguments: argparse.Namespace) -> None:
    from spae.eval.run import Run, find, tasks
    from spae.eval.suite import evaluate_suite, settings, suite_table, without_llm

    chosen = [name for name in arguments.tasks or tasks() if not arguments.no_llm or name in without_llm()]
    # Loaded once, when first asked for.
    llm = cache(lambda: _load_llm(arguments))
    load = cache(lambda name, asked: _load_model(arguments, name, llm() if asked else None))

    def run_of(task: str, name: str) -> Run:
        of = settings(task, arguments.data, quick=arguments.quick, seed=arguments.seed)
        asked = find(task).USES_LLM
        model = load(name, asked and arguments.borrow_words)
        return Run(task, of, model, llm() if asked else None, None, own_command())

    report = {"command": own_command(), **evaluate_suite(chosen, arguments.model, run_of, arguments.out)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = suite_table(report)
    (arguments.out / "all.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "all.md").write_text(f"{text}\n\n    {own_command()}\n", encoding="utf-8")
    print(json.dumps(report, indent=2) if arguments.json else text)


def _add_llm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--llm",
        default="smollm2",
        help="smollm2, gemma3, a GGUF file, a folder, a hub repository, or an OpenAI-compatible base URL "
        "(default: smollm2)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of a local model's weights (default: float32; bfloat16 reads prompts several times faster on "
        "processors with AMX or AVX-512 BF16)",
    )
    parser.add_argument("--llm-model", help="of a server: the model's name there (default: its only one)")
    parser.add_argument(
        "--llm-tokenizer",
        help="of a server: the model's tokenizer, as --llm names models, or cl100k (default: smollm2)",
    )
    parser.add_argument("--context-window", type=int, help="of a server, in tokens (default: what it says)")
    parser.add_argument(
        "--llm-key", metavar="VARIABLE", help="of a server: the environment variable that holds its API key"
    )
    parser.add_argument(
        "--borrow-words",
        action="store_true",
        help="let codes that are no words of the language model, as a VQGAN's, borrow some of its words",
    )
    parser.add_argument("--seed", type=int, default=0)


def _load_model(arguments: argparse.Namespace, name: str, llm: FrozenLLM | None) -> Tokenizer:
    from spae.incontext import borrow_words

    model = load_tokenizer(name)
    return borrow_words(model, llm) if llm is not None and arguments.borrow_words else model


def _load_llm(arguments: argparse.Namespace) -> FrozenLLM:
    from spae import llm

    served = "://" in arguments.llm
    options: dict[str, Any] = {
        field: getattr(arguments, option)
        for option, field in _OF_SERVERS.items()
        if getattr(arguments, option) is not None
    }
    if arguments.llm_key is not None:
        if not os.environ.get(arguments.llm_key):
            raise ValueError(f"llm-key: expected a variable of the environment, got {arguments.llm_key!r}")
        options["api_key"] = os.environ[arguments.llm_key]
    if options and not served:
        raise ValueError(f"llm: expected a base URL beside a server's options, got {arguments.llm!r}")
    if arguments.dtype is not None:
        if served:
            raise ValueError(
                f"dtype: expected none for a server, which chooses its own, got {arguments.dtype}"
            )
        options["dtype"] = arguments.dtype
    return llm.load(arguments.llm, **options)
