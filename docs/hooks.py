"""Pictures of the repository that the documentation shows, without a second copy of them, and each command's
help, as it is printed."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PICTURES = {
    "pictures/emoji64.png": "spae/bundled/emoji64/page.png",
    "pictures/emoji64-log.png": "spae/bundled/emoji64/log.png",
    "pictures/mnist-log.png": "spae/bundled/mnist/log.png",
    "pictures/fashion-log.png": "spae/bundled/fashion/log.png",
    "pictures/cifar10-log.png": "spae/bundled/cifar10/log.png",
    "pictures/drawn-digits.png": "results/generate-mnist/generate.png",
    "pictures/drawn-garments.png": "results/generate-fashion/generate.png",
    "pictures/caption.png": "results/caption-emoji/caption.png",
}


def on_files(files: Files, config) -> Files:
    for name, source in PICTURES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    return markdown.replace("<!-- commands -->", commands()) if "<!-- commands -->" in markdown else markdown


def commands() -> str:
    """`spae COMMAND --help` of each command. Needs the package's core dependencies."""
    os.environ["COLUMNS"] = "88"
    os.environ["NO_COLOR"] = "1"
    from spae.commands import commands as verbs

    parts = []
    for name, verb in verbs().items():
        parser = argparse.ArgumentParser(prog=f"spae {name}", description=verb.ABOUT)
        verb.add(parser)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            parser.print_help()
        parts.append(f"## spae {name}\n\n```text\n{out.getvalue().strip()}\n```\n")
    return "\n".join(parts)
