"""`spae tune`: a language model tuned on a tokenizer's words by LoRA."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spae.commands import add_model, load_tokenizer, own_command

if TYPE_CHECKING:
    from spae.eval.tuning import Classification, MaskedRestoration
    from spae.llm import FrozenLLM
    from spae.tokenizers import Tokenizer

ABOUT = "Tune a language model on a tokenizer's words by LoRA; what it does before and after."
TASKS = ("restoration", "classification")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=TASKS, help="masked images restored (V2L), or images named")
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
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    from spae import llm as llms
    from spae.eval.host import host
    from spae.eval.tuning import tuning_table
    from spae.llm.local import LocalLLM
    from spae.training.disk import replace_text
    from spae.training.tuning import LoRATuning, tune

    names = ("steps", "batch_size", "learning_rate", "rank", "alpha", "seed")
    config = LoRATuning(**{name: getattr(arguments, name) for name in names})
    llm = llms.load(arguments.llm, dtype=arguments.dtype)
    if not isinstance(llm, LocalLLM):
        raise ValueError(
            f"llm: expected a model on this machine, whose weights can be had, got {arguments.llm}"
        )
    lab = _lab(arguments, load_tokenizer(arguments.model), llm)
    rows = [*lab.limits(), lab.ask(llm, "before")]
    base = str(Path(arguments.llm).resolve()) if Path(arguments.llm).exists() else arguments.llm
    losses = tune(llm, lab.lessons(), arguments.out / "adapter", config, base=base, progress=True)
    rows.append(lab.ask(llms.load(arguments.out / "adapter", dtype=arguments.dtype), "after"))
    asked = ("task", "model", "data", "split", "dtype", "lessons", "images", "layers", "rate", *names)
    report: dict[str, Any] = {
        "command": own_command(),
        "host": host(),
        "llm": llm.name,
        "run": {name: getattr(arguments, name) for name in asked},
        "rows": rows,
        "losses": losses,
    }
    text = json.dumps(report, indent=2)
    replace_text(arguments.out / "tuning.json", text + "\n")
    table = f"{tuning_table(report)}\n\n    {report['command']}\n"
    replace_text(arguments.out / "tuning.md", table)
    print(text if arguments.json else tuning_table(report))


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
