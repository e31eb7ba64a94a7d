"""What this library costs, measured against what else there is: one module per question.

python -m benchmarks lookup --codebook smollm2
"""
