from __future__ import annotations

import hashlib

import numpy as np
import torch

from spae.checksum import checksum, state_parts


def test_it_is_sha256_of_the_bytes_in_a_row():
    parts = ["é", b"\x00\x01", np.array([1, -1], "<i8"), torch.tensor([1.5, -2.0])]
    expected = (
        "é".encode() + b"\x00\x01" + np.array([1, -1], "<i8").tobytes() + np.array([1.5, -2], "<f4").tobytes()
    )
    assert checksum(parts) == hashlib.sha256(expected).hexdigest()
    assert checksum([]) == hashlib.sha256().hexdigest()
    assert checksum(["\ud800"]) == hashlib.sha256(b"\xed\xa0\x80").hexdigest()


def test_layout_and_byte_order_do_not_count():
    table = torch.arange(6.0).reshape(2, 3)
    assert checksum([table.T.contiguous().T]) == checksum([table]) == checksum([table.numpy().astype(">f4")])
    assert checksum([table.T]) != checksum([table])
    assert checksum([table.bfloat16()]) != checksum([table.half()])
    assert checksum([torch.tensor(True), torch.empty(0)]) == checksum([b"\x01"])


def test_the_state_of_a_module():
    layer = torch.nn.Linear(2, 2)
    before = checksum(state_parts(layer))
    assert before == checksum(state_parts(layer))
    with torch.no_grad():
        layer.bias[0] += 1
    assert checksum(state_parts(layer)) != before
