"""Language models and tokenizers of the hub: what is asked for, and that nothing is where it may not be."""

import shutil

import pytest

from spae import Codebook, llm
from spae.llm.tokens import TextTokenizer


@pytest.fixture
def hub(tiny_folder, tmp_path, monkeypatch):
    """A hub of one repository, which gives what is asked for of it, and its requests."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def download(name, *, allow_patterns, **options):
        asked.append((name, options))
        if name != "someone/tiny":
            raise LocalEntryNotFoundError("not there")
        snapshot = tmp_path / "snapshots/0a1b2c"
        snapshot.mkdir(parents=True, exist_ok=True)
        for pattern in allow_patterns:
            for file in tiny_folder.glob(pattern):
                shutil.copyfile(file, snapshot / file.name)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setenv("SPAE_OFFLINE", "0")
    monkeypatch.chdir(tmp_path)
    return asked


def test_a_model_of_the_hub_is_the_model(hub, tiny_folder, monkeypatch):
    local, model = llm.load(tiny_folder), llm.load("someone/tiny")
    prompt = local.encode("an image of a fox:")
    assert model.generate([prompt], 5).equal(local.generate([prompt], 5))
    assert model.name == "tiny"
    assert model.identity.startswith("tiny-")
    monkeypatch.setenv("SPAE_OFFLINE", "1")
    llm.load("someone/tiny")
    assert hub == [("someone/tiny", {"local_files_only": only}) for only in (False, True)]
    with pytest.raises(
        ValueError, match=r"source: expected one of .*, got 'someone/tiyn', which the hub does not give"
    ):
        llm.load("someone/tiyn")


def test_of_a_server_s_tokenizer_no_weights_are_asked_for(hub, tmp_path, tokenizer):
    text = TextTokenizer.load("someone/tiny", parse_special=True)
    assert text.encode("a fox") == TextTokenizer(tokenizer).encode("a fox")
    assert not list((tmp_path / "snapshots").rglob("*.safetensors"))
    # Nor are they needed in a folder.
    assert TextTokenizer.load(tmp_path / "snapshots/0a1b2c").encode("a fox") == text.encode("a fox")


def test_a_mistyped_path_is_not_looked_up(hub, tmp_path):
    (tmp_path / "runs").mkdir()
    for name in ("runs/tiny", "./tiny", "../runs/tiny", "a/b/c", "tiny", "/a/b", "runs/"):
        with pytest.raises(
            ValueError, match="source: expected one of smollm2, gemma3, a GGUF file, a folder"
        ):
            llm.load(name)
    assert hub == []


def test_codebooks_of_the_hub_stay_offline_when_told_to(monkeypatch):
    import transformers

    asked = []

    def load(name, **options):
        asked.append((name, options))
        raise OSError("stops here")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", load)
    for value in ("0", "1"):
        monkeypatch.setenv("SPAE_OFFLINE", value)
        with pytest.raises(OSError, match="stops here"):
            Codebook.from_transformers("someone/tiny")
    assert asked == [("someone/tiny", {"local_files_only": only}) for only in (False, True)]
