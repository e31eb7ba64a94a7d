from __future__ import annotations

import pytest

from spae.codebook import Codebook


@pytest.fixture(scope="session")
def smollm2() -> Codebook:
    """The real table; its model file is fetched if the cache lacks it."""
    return Codebook.load("smollm2", progress=False)
