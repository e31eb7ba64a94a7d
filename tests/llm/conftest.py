import pytest

pytest.importorskip("transformers")

from spae.testing.tiny_llm import tiny_llm, tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny():
    return tiny_llm()


@pytest.fixture(scope="session")
def tiny_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
