import sys
from pathlib import Path

# The benchmarks are no part of the installed package; `python -m pytest` finds them, `pytest` alone does not.
sys.path.insert(0, str(Path(__file__).parents[2]))
