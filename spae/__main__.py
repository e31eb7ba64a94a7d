"""``python -m spae`` is the command line."""

import sys

from spae.cli import main

if __name__ == "__main__":
    sys.exit(main())
