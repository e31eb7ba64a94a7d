"""`python -m benchmarks QUESTION ...`"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks import decoding, lookup

QUESTIONS = {"lookup": lookup, "decoding": decoding}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Benchmarks of spae_ops and spae."
    )
    questions = parser.add_subparsers(dest="question", required=True, metavar="QUESTION")
    for name, module in QUESTIONS.items():
        about = (module.__doc__ or "").splitlines()[0]
        question = questions.add_parser(name, help=about, description=about)
        module.add_arguments(question)
        question.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
