"""The command line: it finds the verbs in `spae.commands` and says in one line what goes wrong."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from spae import __version__
from spae.commands import commands, said


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status: 1 after an error, 2 for wrong usage, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="spae", description="Images as pyramids of words, and back.")
    parser.add_argument("--version", action="version", version=f"spae {__version__}")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, verb in commands().items():
        added = verbs.add_parser(name, help=verb.ABOUT, description=verb.ABOUT)
        added.set_defaults(run=verb.run)
        if name == asked:  # listing the arguments of the others may be slow
            verb.add(added)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Nothing is left to say, nor when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        # What the library says of bad input is meant for the reader; a traceback is not.
        print(f"spae {arguments.command}: {said(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
