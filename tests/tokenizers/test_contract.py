"""What every tokenizer is held to, and what a new one has to bring."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import spae
from spae import (
    LQAE,
    RQ,
    SPAE,
    VQGAN,
    Codebook,
    CodeTable,
    LearnedCodebook,
    LQAEConfig,
    PyramidTokens,
    RQConfig,
    SPAEConfig,
    SPAEOutput,
    Tokenizer,
    VQGANConfig,
)
from spae.token_files import TokenWriter, as_tokens, read_tokens
from spae.tokenizers import register
from spae_ops import pyramid_dequantize, pyramid_quantize

SMALL = {"image_size": (16, 16), "channels": 8, "multipliers": (1, 2, 2), "num_res_blocks": 1}
CODES = {"codebook_size": 40, "codebook_dim": 12}


def images(batch=4, seed=1, size=16):
    coarse = torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def codebook(normalise="none", seed=0, width=12):
    vectors = torch.randn(50, width, generator=torch.Generator().manual_seed(seed)) * 0.3
    return Codebook.from_arrays([f" w{i}" for i in range(50)], vectors, name="toy").normalised(normalise)


BUILT_IN = {
    "SPAE": lambda: SPAE(SPAEConfig(**SMALL, grids=(1, 2, 4)), codebook()),
    "RQ": lambda: RQ(RQConfig(**SMALL, **CODES, grids=(4, 4, 4))),
    "VQGAN": lambda: VQGAN(VQGANConfig(**SMALL, **CODES, grids=(4,))),
    "LQAE": lambda: LQAE(LQAEConfig(**SMALL, grids=(4,)), codebook("unit")),
}


# A tokenizer of one's own, all of it.
@dataclass(frozen=True)
class PatchesConfig(SPAEConfig):
    gain: float = 1.0


@register
class Patches(Tokenizer):
    """Every cell's mean colour is its latent: no network, only a learned brightness."""

    config_class = PatchesConfig

    def __init__(self, config, codebook):
        super().__init__(config, codebook)
        self.gain = nn.Parameter(torch.tensor(config.gain))

    def forward(self, images):
        self.check_images(images)
        z = self.latents(images)
        ids = self.quantize(z)
        reconstruction = self.pixels(ids)
        losses = {"reconstruction": (reconstruction - images).square().mean()}
        return SPAEOutput(reconstruction, PyramidTokens(ids, self.pyramid), z, z, losses)

    def latents(self, images):
        return self.gain * nn.functional.adaptive_avg_pool2d(images, self.pyramid.shape)

    def quantize(self, latents, num_layers=None):
        return pyramid_quantize(latents, self.codebook.index, self.pyramid, num_layers=num_layers).ids

    def pixels(self, ids):
        cells = pyramid_dequantize(ids, self.codebook.index, self.pyramid).quantized / self.gain
        return nn.functional.interpolate(cells, self.config.image_size)


def patches():
    return Patches(PatchesConfig(**SMALL, grids=(1, 4), gain=0.5), codebook(width=3))


@pytest.mark.parametrize("name", [*BUILT_IN, "Patches"])
def test_whatever_was_saved_is_what_loads(name, tmp_path):
    torch.manual_seed(0)
    model = {**BUILT_IN, "Patches": patches}[name]().eval()
    model.save_pretrained(tmp_path)
    for load in (spae.load, Tokenizer.from_pretrained, type(model).from_pretrained):
        loaded = load(tmp_path)
        assert type(loaded) is type(model)
        assert loaded.config == model.config
        assert not loaded.training
        tokens = model.encode(images())
        assert torch.equal(loaded.encode(images()).ids, tokens.ids)
        assert torch.equal(loaded.decode(tokens), model.decode(tokens))
    others = {"SPAE": VQGAN, "RQ": LQAE}.get(name, SPAE)
    with pytest.raises(
        ValueError, match=rf"name: expected a {others.__name__}, got .*, which holds a {name}; spae.load"
    ):
        others.from_pretrained(tmp_path)


def test_a_new_tokenizer_has_the_whole_face():
    model = patches()
    x = images()
    tokens = model.encode(x)
    assert tokens.ids.shape == (4, 17)
    assert torch.equal(model.tokens(model.words(tokens)).ids, tokens.ids)
    assert model.encode(x, 1).num_layers == 1
    assert model.decode(tokens).abs().max() <= 1
    assert model.preprocess([torch.zeros(3, 20, 20)]).shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"images: expected values in \[-1, 1\]"):
        model(x * 255)
    with pytest.raises(ValueError, match="codebook: expected the checkpoint's"):
        Patches(model.config, codebook(width=3, seed=1)).load_state_dict(model.state_dict())


@pytest.mark.parametrize("missing", ["forward", "latents", "quantize", "pixels"])
def test_an_incomplete_tokenizer_cannot_be_built(missing):
    given = {name: getattr(Patches, name) for name in ("forward", "latents", "quantize", "pixels")}
    del given[missing]
    partial = type("Partial", (Tokenizer,), given)
    with pytest.raises(TypeError, match=rf"abstract .*\b{missing}\b"):
        partial(SPAEConfig(**SMALL, grids=(1, 4)), codebook(width=3))
    with pytest.raises(TypeError, match="abstract"):
        Tokenizer(SPAEConfig(**SMALL, grids=(1, 4)), codebook(width=3))


def test_none_stands_on_another():
    classes = (SPAE, RQ, VQGAN, LQAE)
    assert not any(issubclass(a, b) for a in classes for b in classes if a is not b)


def test_the_registry_refuses_two_of_a_name_and_names_what_it_knows(tmp_path):
    impostor = type("SPAE", (Tokenizer,), {"__module__": "elsewhere"})
    with pytest.raises(
        ValueError, match=r"name: expected one that is free, got 'SPAE', which is spae.tokenizers.spae.SPAE's"
    ):
        register(impostor)
    assert register(SPAE) is SPAE
    unregistered = type("Nameless", (Patches,), {})(patches().config, codebook(width=3))
    with pytest.raises(ValueError, match=r"class: expected one of LQAE, .*SPAE.*, got 'Nameless'"):
        unregistered.save_pretrained(tmp_path)


def test_code_tables():
    for table in (codebook(), LearnedCodebook(5, 3)):
        assert isinstance(table, CodeTable)
        assert len(table.checksum) == 64
        assert table.width == table.vectors.shape[1]
        assert set(table.identity()) >= {"name", "shape", "checksum"}
    assert not isinstance(nn.Linear(2, 2), CodeTable)
    assert LearnedCodebook(5, 3).llm_ids is None


def test_tokens_of_other_vectors_are_refused(tmp_path):
    torch.manual_seed(0)
    one, two = (BUILT_IN["VQGAN"]().eval() for _ in range(2))
    with open(tmp_path / "tokens.json", "w") as stream, TokenWriter(stream, one, lines=False) as writer:
        writer.write(["a", "b"], one.encode(images(2)))
    rows = list(read_tokens(tmp_path / "tokens.json", one))
    assert [row.name for row in rows] == ["a", "b"]
    assert torch.equal(as_tokens(rows, one).ids, one.encode(images(2)).ids)
    with pytest.raises(ValueError, match=r"codebook: expected the model's, learned-40 .* got learned-40"):
        list(read_tokens(tmp_path / "tokens.json", two))


def test_dtype_of_loaded_weights(tmp_path):
    BUILT_IN["SPAE"]().save_pretrained(tmp_path)
    loaded = SPAE.from_pretrained(tmp_path, dtype=torch.bfloat16, device="cpu")
    assert loaded.dtype == torch.bfloat16
    assert loaded.codebook.vectors.dtype == torch.float32
    assert SPAE.from_pretrained(tmp_path).dtype == torch.float32


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of one repository, and what it was asked for."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def download(name, **options):
        asked.append((name, options))
        if name != "someone/model":
            raise LocalEntryNotFoundError("not there")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setenv("SPAE_OFFLINE", "0")
    monkeypatch.chdir(tmp_path)
    return asked


def test_the_hub(hub, tmp_path, monkeypatch):
    BUILT_IN["SPAE"]().save_pretrained(tmp_path / "snapshot")
    loaded = spae.load(
        "someone/model", revision="v1", token="secret", cache_dir=tmp_path, local_files_only=True
    )
    assert isinstance(loaded, SPAE)
    ((name, options),) = hub
    assert name == "someone/model"
    patterns = options.pop("allow_patterns")
    assert {"config.json", "model.safetensors", "codebook/*", "preprocessor_config.json"} <= set(patterns)
    assert options == {"revision": "v1", "token": "secret", "cache_dir": tmp_path, "local_files_only": True}
    monkeypatch.setenv("SPAE_OFFLINE", "1")
    spae.load("someone/model")
    assert hub[-1][1]["local_files_only"] is True
    with pytest.raises(
        FileNotFoundError, match=r"expected a folder .*, got .someone/modle., which the hub does not give"
    ):
        spae.load("someone/modle")


def test_a_mistyped_path_is_not_looked_up(hub, tmp_path):
    (tmp_path / "runs").mkdir()
    mistyped = (
        "runs/emojy",
        "./runs",
        "../emoji/model",
        "a/b/c",
        "emojy64",
        "/a/b",
        "~/model",
        tmp_path / "x",
        "runs/",
    )
    for name in mistyped:
        with pytest.raises(
            FileNotFoundError, match=r"expected a folder with config.json, a bundled model \(.*mnist"
        ):
            spae.load(name)
    assert hub == []


def test_the_version_is_the_package_s():
    assert spae.__version__ == importlib.metadata.version("spae-tokenizer")
    assert "__version__" in spae.__all__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        spae.nonsense  # noqa: B018


def test_a_learned_index_never_stands_still():
    """Whatever changes the vectors, torch's count of changes in place (`_version`) included or not."""
    torch.manual_seed(0)
    book = LearnedCodebook(6, 3, update="gradient")

    def fresh():
        return torch.equal(book.index.codes, book.vectors)

    assert fresh()
    for kind in (torch.optim.Adam, torch.optim.SGD):
        for options in ({}, {"foreach": True}, {"fused": True}):
            book.vectors.grad = torch.ones_like(book.vectors)
            before = book.index.codes.clone()
            kind(book.parameters(), 0.1, **options).step()
            assert not torch.equal(book.vectors, before)
            assert fresh(), (kind, options)
    book.load_state_dict(LearnedCodebook(6, 3, update="gradient").state_dict())
    assert fresh()
    with torch.no_grad():
        book.vectors[2].copy_(torch.zeros(3))
    assert fresh()
    for _ in range(20):  # a new tensor may lie where the old one lay
        book.vectors = nn.Parameter(torch.randn(6, 3))
        assert fresh()
    version = book.vectors._version
    book.vectors.data.mul_(2)
    assert book.vectors._version == version
    assert fresh()
    book.vectors.detach().numpy()[0] = 5
    assert fresh()
    assert book.index is book.index


def test_the_card_says_what_the_hub_asks_for(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    model = patches()
    for license in (None, "cc-by-4.0"):
        model.save_pretrained(tmp_path, license=license)
        about = hub.ModelCard.load(tmp_path / "README.md").data
        assert (about.library_name, about.pipeline_tag) == ("spae", "image-feature-extraction")
        assert (about.license, about.tags) == (license, ["image-tokenizer"])
    with pytest.raises(
        ValueError, match=r"license: expected a licence's short name or None, got 'mit\\nx: y'"
    ):
        model.save_pretrained(tmp_path / "not", license="mit\nx: y")
    assert not (tmp_path / "not").exists()


def test_push_to_hub_uploads_what_is_saved(monkeypatch):
    import huggingface_hub

    seen = {}

    class Api:
        def __init__(self, token):
            seen["token"] = token

        def create_repo(self, repo_id, **options):
            seen["made"] = (repo_id, options)
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, folder_path, **options):
            seen["files"] = sorted(path.name for path in Path(folder_path).iterdir())
            seen["options"] = options
            return "https://hub/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    url = BUILT_IN["SPAE"]().push_to_hub("me/words", private=True, token="t", revision="dev")
    assert url == "https://hub/commit/1"
    assert seen["token"] == "t"
    assert seen["made"] == ("me/words", {"private": True, "exist_ok": True})
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= set(seen["files"])
    assert seen["options"] == {
        "repo_id": "me/words",
        "revision": "dev",
        "commit_message": "Upload an image tokenizer",
    }


@pytest.mark.parametrize("name", [*BUILT_IN, "Patches"])
def test_vmap_over_images_is_a_batch(name):
    torch.manual_seed(0)
    model, x = {**BUILT_IN, "Patches": patches}[name]().eval(), images()
    ids = torch.func.vmap(lambda image: model.tokenize(image[None])[0])(x)
    assert torch.equal(ids, model.tokenize(x))
    decoded = torch.func.vmap(lambda one: model.detokenize(one[None])[0])(ids)
    torch.testing.assert_close(decoded, model.detokenize(ids))
