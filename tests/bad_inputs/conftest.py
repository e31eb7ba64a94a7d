"""What the tables of bad inputs share: small good inputs to spoil, and what every refusal must look like."""

import re
from types import SimpleNamespace

import pytest
import torch

from spae import SPAE, Codebook, CodeTable, PyramidTokens, SPAEConfig
from spae_ops import CodeIndex, Pyramid

# Every message names the argument or file first, then says what was expected and what came.
FORM = re.compile(r"[^:\n]+: .*expected .*, got .*", re.DOTALL)
_IN_FORM = (ValueError, TypeError, IndexError, FileNotFoundError)


@pytest.fixture(scope="session")
def refused():
    return _refused


def _refused(call, kind, message):
    """Calls, and asserts that it raises an error of this kind, in the one form, that begins like `message`."""
    try:
        came = call()
    except Exception as error:
        text = str(error)
        ours = isinstance(error, kind) and re.match(message, text, re.DOTALL)
        if not ours or (isinstance(error, _IN_FORM) and not FORM.fullmatch(text)):
            pytest.fail(f"wanted {message}\ncame   {type(error).__name__}: {text}", pytrace=False)
    else:
        pytest.fail(f"wanted {message}\ncame   {came!r:.300}", pytrace=False)


@pytest.fixture(scope="session")
def matches():
    """Asserts that a text begins with a pattern, and shows both in two lines if not."""

    def check(pattern, text):
        if not re.match(pattern, text, re.DOTALL):
            pytest.fail(f"wanted {pattern}\ncame   {text}", pytrace=False)

    return check


@pytest.fixture(scope="session")
def good():
    """Good arguments of every kind, by name. Not to be changed."""
    torch.manual_seed(0)
    codes = torch.randn(8, 3)
    pyramid = Pyramid.square(4, (1, 2, 4))
    book = Codebook.from_arrays([f" w{i}" for i in range(40)], torch.randn(40, 6))
    config = SPAEConfig((16, 16), (1, 2, 4), channels=4, multipliers=(1, 1, 1), num_res_blocks=1)
    assert isinstance(book, CodeTable)
    model = SPAE(config, book).eval()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    return SimpleNamespace(
        codes=codes,
        index=CodeIndex(codes),
        x=torch.randn(5, 3),
        pyramid=pyramid,
        z=torch.randn(2, 3, 4, 4),
        ids=torch.randint(8, (2, 21)),
        target=torch.randint(8, (5,)),
        book=book,
        config=config,
        model=model,
        images=images,
        tokens=PyramidTokens(torch.randint(40, (2, 21)), pyramid),
    )
