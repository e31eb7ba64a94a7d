"""Who takes part, one module per question. They import no framework: a contestant that needs none of torch
runs without it, because two OpenMP runtimes in one process slow each other."""
