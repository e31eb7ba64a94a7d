"""`spae tune`: a language model tuned on a tokenizer's words by LoRA, or an encoder trained through one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spae.commands import add_model, load_tokenizer, own_command

if TYPE_CHECKING:
    from spae.eval.tuning import Classification, MaskedRestoration
    from spae.llm import FrozenLLM
    from spae.llm.local import LocalLLM
    from spae.tokenizers import Tokenizer

ABOUT = (
    "Tune a language model on a tokenizer's words by LoRA; what it does before and after. Or train Frozen."
)
TASKS = ("restoration", "classification", "frozen")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "task",
        choices=TASKS,
        help="masked images restored (V2L), images named, or Frozen: an encoder trained through the model",
    )
    add_model(parser)
    parser.add_argument("--data", default="mnist", help="images, as `spae train` takes them (default: mnist)")
    parser.add_argument("--split", default="test", help="of the data, whose images are asked (default: test)")
    parser.add_argument("--llm", default="smollm2", help="smollm2, gemma3, a GGUF file or a folder")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the frozen weights"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapter and the report")
    parser.add_argument("--lessons", type=int, default=1000, help="training images (default: 1000)")
    parser.add_argument("--images", type=int, default=50, help="held-out images asked (default: 50)")
    parser.add_argument("--layers", type=int, default=2, help="of classification: layers shown (default: 2)")
    parser.add_argument(
        "--rate", type=float, default=0.3, help="of restoration: words hidden (default: 0.3, V2L's)"
    )
    for name, kind, default in (
        ("steps", int, 300),
        ("batch-size", int, 8),
        ("learning-rate", float, 3e-4),
        ("rank", int, 4),
        ("alpha", int, 32),
        ("seed", int, 0),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"(default: {default})")
    _add_frozen(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_frozen(parser: argparse.ArgumentParser) -> None:
    """What is asked of Frozen: the episodes of `spae eval fewshot`, by its options."""
    parser.add_argument("--size", type=int, default=64, help="of frozen: pixels a side (default: 64)")
    parser.add_argument(
        "--ways", type=int, nargs="+", default=[2, 5], help="of frozen: classes of an episode (default: 2 5)"
    )
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[1, 3, 5], help="of frozen: inner shots (default: 1 3 5)"
    )
    parser.add_argument("--episodes", type=int, default=200, help="of frozen: per setting (default: 200)")


def run(arguments: argparse.Namespace) -> None:
    from spae import llm as llms
    from spae.llm.local import LocalLLM

    llm = llms.load(arguments.llm, dtype=arguments.dtype)
    if not isinstance(llm, LocalLLM):
        raise ValueError(
            f"llm: expected a model on this machine, whose weights can be had, got {arguments.llm}"
        )
    _run_frozen(arguments, llm) if arguments.task == "frozen" else _run_lora(arguments, llm)


def _run_lora(arguments: argparse.Namespace, llm: LocalLLM) -> None:
    from spae import llm as llms
    from spae.eval.tuning import tuning_table
    from spae.training.tuning import LoRATuning, tune

    names = ("steps", "batch_size", "learning_rate", "rank", "alpha", "seed")
    config = LoRATuning(**{name: getattr(arguments, name) for name in names})
    lab = _lab(arguments, load_tokenizer(arguments.model), llm)
    rows = [*lab.limits(), lab.ask(llm, "before")]
    base = str(Path(arguments.llm).resolve()) if Path(arguments.llm).exists() else arguments.llm
    losses = tune(llm, lab.lessons(), arguments.out / "adapter", config, base=base, progress=True)
    rows.append(lab.ask(llms.load(arguments.out / "adapter", dtype=arguments.dtype), "after"))
    asked = ("task", "model", "data", "split", "dtype", "lessons", "images", "layers", "rate", *names)
    _write(arguments, "tuning", tuning_table, llm, asked, rows=rows, losses=losses)


def _run_frozen(arguments: argparse.Namespace, llm: LocalLLM) -> None:
    from spae.data import open_data
    from spae.eval.episodes import paper_settings
    from spae.eval.frozen import frozen_rows, frozen_table
    from spae.eval.images import spread
    from spae.eval.labelled import labelled_set
    from spae.training.prefixes import PrefixConfig, train_prefixes

    settings = [
        one for ways in arguments.ways for one in paper_settings(ways) if one.inner_shots in arguments.shots
    ]
    if not settings:
        raise ValueError(f"shots: expected some of 1, 3, 5, got {arguments.shots}")
    names = ("steps", "batch_size", "learning_rate", "seed")
    config = PrefixConfig(width=llm.width, **{name: getattr(arguments, name) for name in names})
    labelled = labelled_set(arguments.data, arguments.size, split="report")
    taught = open_data(arguments.data, "train", image_size=(arguments.size, arguments.size))
    taught = spread(taught, arguments.lessons)
    if not all(taught.captions):
        raise ValueError(f"data: expected a caption or a named class of every image, got {arguments.data}")
    encoder, losses = train_prefixes(llm, taught, taught.captions, config, progress=True)
    encoder.save(arguments.out / "encoder")
    rows = frozen_rows(llm, encoder, labelled, settings, episodes=arguments.episodes, seed=arguments.seed)
    asked = ("task", "data", "dtype", "lessons", "size", "episodes", *names)
    _write(arguments, "frozen", frozen_table, llm, asked, rows=rows, losses=losses)


def _write(
    arguments: argparse.Namespace,
    name: str,
    table: Callable[[dict[str, Any]], str],
    llm: LocalLLM,
    asked: Sequence[str],
    **found: Any,
) -> None:
    """`NAME.json` and `NAME.md` in the folder, and either of them on the screen."""
    from spae.eval.host import host
    from spae.training.disk import replace_text

    of = {name: getattr(arguments, name) for name in asked}
    report = {"command": own_command(), "host": host(), "llm": llm.name, "run": of, **found}
    text = json.dumps(report, indent=2)
    replace_text(arguments.out / f"{name}.json", text + "\n")
    replace_text(arguments.out / f"{name}.md", f"{table(report)}\n\n    {report['command']}\n")
    print(text if arguments.json else table(report))


def _lab(
    arguments: argparse.Namespace, model: Tokenizer, llm: FrozenLLM
) -> MaskedRestoration | Classification:
    from spae.data import open_data
    from spae.eval.images import spread
    from spae.eval.tuning import Classification, MaskedRestoration

    taught, asked = (
        spread(open_data(arguments.data, split, image_size=model.config.image_size), count)
        for split, count in (("train", arguments.lessons), (arguments.split, arguments.images))
    )
    if arguments.task == "restoration":
        return MaskedRestoration(model, llm, taught, asked, rate=arguments.rate, seed=arguments.seed)
    return Classification(model, llm, taught, asked, layers=arguments.layers)
