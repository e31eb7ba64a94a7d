"""The README is run: its Python, in order, and its table."""

import json
import re
from pathlib import Path

import pytest

from spae import SPAE
from spae.eval.digits import evaluate_digits
from spae.eval.report import layer_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 4
    scope: dict = {}
    exec("\n".join(blocks), scope)
    assert scope["tokens"].ids.shape == (8, 37)
    assert scope["spae"].tokens(scope["words"]).ids.equal(scope["tokens"].ids)
    assert scope["decoded"].shape == (8, 3, 32, 32)
    assert scope["codes"].ids.shape == (2, 597)
    assert scope["again"].covered.sum() == 85


@pytest.mark.parametrize("target", ["install", "demo", "test", "lint", "bench"])
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def fresh():
    """The bundled model, measured again."""
    return evaluate_digits(SPAE.from_pretrained("mnist"))


def test_measured_table_is_what_the_command_prints(fresh):
    """Up to what another CPU's rounding does to a few of 500 images."""
    shown = re.search(
        r"<!-- begin: spae eval digits --model mnist -->\n(.*?)\n<!-- end -->", README, re.DOTALL
    )
    number = re.compile(r"\d[\d,.]*")
    for row, printed in zip(shown[1].splitlines(), layer_table(fresh).splitlines(), strict=True):
        assert number.sub("#", row) == number.sub("#", printed)
        for a, b in zip(number.findall(row), number.findall(printed), strict=True):
            assert float(b.rstrip(".")) == pytest.approx(float(a.rstrip(".")), rel=0.03, abs=0.3)


def test_bundled_model_keeps_its_promises(fresh):
    report = json.loads((ROOT / "spae/bundled/mnist/report.json").read_text())
    psnr = [row["psnr"] for row in fresh["layers"]]
    assert psnr == pytest.approx([row["psnr"] for row in report["layers"]], abs=0.1)
    assert psnr[-1] >= 22
    assert psnr[-1] > psnr[-2] > psnr[-3]
    assert fresh["accuracy_originals"] - fresh["layers"][-1]["accuracy"] <= 0.01
