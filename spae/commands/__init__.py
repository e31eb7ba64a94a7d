"""The command line's verbs, a module each (`Command`): a new one is a new file.

Each imports its floor only when it runs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Protocol, cast

from spae import modules

if TYPE_CHECKING:
    from spae.tokenizers import Tokenizer


class Command(Protocol):
    """A module of `spae.commands`. ABOUT: one sentence for --help."""

    ABOUT: str

    def add(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        ...

    def run(self, arguments: argparse.Namespace) -> int | None:
        """Do it; the exit status, None for 0. ValueError, OSError, ImportError and RuntimeError become one
        line and status 1."""
        ...


def commands() -> dict[str, Command]:
    """All verbs by name."""
    package = sys.modules[__name__]
    return {name: cast(Command, modules.find(package, name)) for name in modules.names(package)}


def add_model(parser: argparse.ArgumentParser) -> None:
    """The option `--model`, for `load_tokenizer`."""
    parser.add_argument(
        "--model",
        default="mnist",
        help="any tokenizer: a bundled one's name, a folder or a hub repository (default: mnist)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option `--device`, for `load_tokenizer`."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, .. (default: cpu)")


def load_tokenizer(name: str, device: str = "cpu") -> Tokenizer:
    """The tokenizer that `--model` names, in evaluation mode. Raises ValueError for a device that is not
    there."""
    import torch

    from spae.tokenizers import Tokenizer

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: expected one that torch can use here, got {device!r} ({error})") from error
    return Tokenizer.from_pretrained(name, device=device)


def said(error: BaseException) -> str:
    """An error in one line; of those of the operating system the file and what it says."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def own_command() -> str:
    """The command line as the user gave it, for reports."""
    return shlex.join(["spae", *sys.argv[1:]])
