"""`python -m benchmarks QUESTION ...`"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.questions.cross_entropy import CrossEntropy
from benchmarks.questions.decoding import Decoding
from benchmarks.questions.growth import Growth
from benchmarks.questions.lookup import Lookup
from benchmarks.questions.pyramid import PyramidQuestion
from benchmarks.questions.quantizer import QuantizerQuestion

_ALL = Lookup(), Growth(), CrossEntropy(), PyramidQuestion(), QuantizerQuestion(), Decoding()
QUESTIONS = {question.name: question for question in _ALL}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Benchmarks of spae_ops and spae."
    )
    questions = parser.add_subparsers(dest="question", required=True, metavar="QUESTION")
    for name, question in QUESTIONS.items():
        subparser = questions.add_parser(name, help=question.about, description=question.about)
        question.add_all_arguments(subparser)
        subparser.set_defaults(run=question.run)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
