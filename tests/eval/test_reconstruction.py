import math

import pytest
import torch

from spae import SPAE, Codebook, SPAEConfig
from spae.eval.reconstruction import evaluate_reconstruction, layer_table

CONFIG = SPAEConfig(
    image_size=(8, 8), grids=(1, 2, 2), channels=4, multipliers=(1, 1, 1), vocabularies=("few", "few", "all")
)


def test_bits_are_those_of_what_each_layer_may_take():
    vectors = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    book = Codebook.from_arrays([f" word{i}" for i in range(40)], vectors, name="toy")
    torch.manual_seed(0)
    model = SPAE(CONFIG, book, {"few": range(8)}).eval()
    report = evaluate_reconstruction(model, torch.rand(3, 3, 8, 8) * 2 - 1)
    assert [row["vocabulary"] for row in report["layers"]] == [8, 8, 40]
    assert report["bits_per_image"] == pytest.approx((1 + 4) * 3 + 4 * math.log2(40))
    lines = layer_table(report).splitlines()
    assert lines[0].startswith("| layers | words | bits |")
    assert [line.split(" | ")[2] for line in lines[2:5]] == ["3", "15", "36"]
    for old in (report, *report["layers"]):
        old.pop("bits_per_image", None)
        old.pop("vocabulary", None)
    assert "bits" not in layer_table(report)
