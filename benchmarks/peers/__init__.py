"""Who takes part: `QUESTION.py` and any `QUESTION_name.py` beside it, see `benchmarks.registry`.

The modules import no framework: a contestant that needs none of torch runs without it, because two OpenMP
runtimes in one process slow each other.
"""
