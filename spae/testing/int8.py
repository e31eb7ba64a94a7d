"""What the int8 screen of the CPU lookup does to rows before it rounds them."""

from __future__ import annotations

import numpy as np


def rotation(width: int) -> np.ndarray:
    """The orthogonal map of `csrc/nearest_code/cpu/nearest_code.h` before rounding to int8, float64 [D, D]:
    x -> x @ rotation, its inverse the transpose."""
    state, signs, blocks, left = 1, [], [], width
    for _ in range(width):
        state = (state * 1664525 + 1013904223) % 2**32
        signs.append(-1.0 if state >> 31 else 1.0)
    pair = np.array([[1.0, 1.0], [1.0, -1.0]])
    while left:
        block = np.ones((1, 1))
        while 4 * len(block) <= left:
            block = np.kron(pair, np.kron(pair, block)) / 2
        blocks.append(block)
        left -= len(block)
    rotation, at = np.zeros((width, width)), 0
    for block in blocks:
        rotation[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return np.array(signs)[:, None] * rotation
