"""Damaged files: whatever the bytes or values in them, a reader gives something valid, or a ValueError or OSError that
says which file, what was expected and what came. Never another error, and never for long."""

import copy
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from spae import SPAE, Codebook, ImageProcessor, Tokenizer
from spae.data.sources import TarShards
from spae.scorers import RidgeMap
from spae.token_files import TokenWriter, read_tokens
from spae.training.presets import FOLDER, Preset, load_preset

LARGEST = (
    16  # of a number in a configuration: what a larger one describes may be sound, and not fit the memory
)
MODEL_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
BOOK_FILES = ("codebook.json", "codebook.safetensors")


@st.composite
def damaged(draw, whole):
    """Bytes cut, with one bit flipped, with a few others in place of some, or random."""
    place = draw(st.integers(0, len(whole) - 1))
    kind = draw(st.sampled_from(["cut", "flip", "splice", "random"]))
    if kind == "cut":
        return whole[:place]
    if kind == "flip":
        return whole[:place] + bytes([whole[place] ^ 1 << draw(st.integers(0, 7))]) + whole[place + 1 :]
    if kind == "splice":
        return whole[:place] + draw(st.binary(max_size=8)) + whole[place + draw(st.integers(0, 8)) :]
    return draw(st.binary(max_size=40))


scalars = st.none() | st.booleans() | st.integers(-2, LARGEST) | st.floats(width=32) | st.text(max_size=4)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
)


@st.composite
def changed(draw, document):
    """JSON values of which one is another, or gone."""
    document = copy.deepcopy(document)
    node, key = {"": document}, ""
    root = node
    while isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 3)):
        node = node[key]
        key = (
            draw(st.sampled_from(sorted(node)))
            if isinstance(node, dict)
            else draw(st.integers(0, len(node) - 1))
        )
    if node is not root and draw(st.booleans()):
        del node[key]
    else:
        node[key] = draw(values)
    return root[""]


def small(content):
    """Whether no number in JSON is beyond LARGEST; what is no JSON has none."""
    try:
        rest = [json.loads(content)]
    except (ValueError, RecursionError):
        return True
    while rest:
        value = rest.pop()
        rest += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            return False
    return True


def answered(call, *names):
    """What comes, or None after an error of the kind and form that a reader may give."""
    try:
        return call()
    except (ValueError, OSError) as error:
        said = str(error)
        assert "expected" in said, said
        assert "got" in said, said
        assert any(str(name) in said for name in names), said
        return None


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a saved model, its codebook in it, and tokens of both kinds."""
    root = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    book = Codebook.from_arrays([f" w{i}" for i in range(16)], torch.randn(16, 4))
    config = {
        "image_size": (8, 8),
        "grids": (1, 2),
        "channels": 4,
        "multipliers": (1, 1, 1),
        "num_res_blocks": 1,
    }
    model = SPAE(SPAE.config_class(**config), book).eval()
    model.save_pretrained(root / "model")
    tokens = model.encode(torch.zeros(2, 3, 8, 8))
    for name in ("t.json", "t.jsonl"):
        with (root / name).open("w") as stream, TokenWriter(stream, model, lines=name == "t.jsonl") as writer:
            writer.write(["a.png", "b.png"], tokens)
    return root, model


def read_with(root, file, content, read):
    """What `read` gives while a file has this content."""
    whole = file.read_bytes()
    try:
        file.write_bytes(content)
        return read()
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
@given(data=st.data())
def test_tokens(name, data, saved):
    root, model = saved
    file = root / name
    if name == "t.json" and data.draw(st.booleans()):
        content = json.dumps(data.draw(changed(json.loads(file.read_text())))).encode()
    else:
        content = data.draw(damaged(file.read_bytes()))
    rows = read_with(root, file, content, lambda: answered(lambda: list(read_tokens(file, model)), file))
    for row in rows or ():
        assert row.name
        assert len(row.ids) in (1, 5)
        assert all(type(i) is int and 0 <= i < 16 for i in row.ids)


@pytest.mark.parametrize("name", MODEL_FILES)
@settings(max_examples=40)
@given(data=st.data())
def test_models(name, data, saved):
    root, _ = saved
    file = root / "model" / name
    if name.endswith(".json") and data.draw(st.booleans()):
        content = json.dumps(data.draw(changed(json.loads(file.read_text())))).encode()
    else:
        content = data.draw(damaged(file.read_bytes()))
    assume(small(content))
    load = lambda: answered(lambda: Tokenizer.from_pretrained(file.parent), file.parent, "codebook: ")  # noqa: E731
    model = read_with(root, file, content, load)
    assert model is None or isinstance(model, Tokenizer)


@pytest.mark.parametrize("name", BOOK_FILES)
@given(data=st.data())
def test_codebooks(name, data, saved):
    root, model = saved
    file = root / "model" / "codebook" / name
    if name.endswith(".json") and data.draw(st.booleans()):
        content = json.dumps(data.draw(changed(json.loads(file.read_text())))).encode()
    else:
        content = data.draw(damaged(file.read_bytes()))
    book = read_with(root, file, content, lambda: answered(lambda: Codebook.load(file.parent), file.parent))
    # The checksum covers words, vectors, ids and normalisation; a name may be another.
    assert book is None or book.checksum == model.codebook.checksum


@pytest.mark.parametrize("missing", [*MODEL_FILES, "codebook", *(f"codebook/{name}" for name in BOOK_FILES)])
def test_models_without_a_file(missing, saved, tmp_path, refused):
    shutil.copytree(saved[0] / "model", tmp_path / "model")
    gone = tmp_path / "model" / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    load = lambda: Tokenizer.from_pretrained(tmp_path / "model")  # noqa: E731
    if missing == "preprocessor_config.json":
        assert load().processor == ImageProcessor((8, 8))
    else:
        refused(load, (FileNotFoundError, ValueError), rf"(name|codebook|.*{missing}): expected .*, got")


@given(damaged((FOLDER / "mnist.json").read_bytes()))
def test_presets(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("preset") / "x.json"
    file.write_bytes(content)
    sections = ("preset", "data", "model", "codebook", "objective", "train")
    preset = answered(lambda: load_preset(file), *sections)
    assert preset is None or isinstance(preset, Preset)


def picture(kind):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp", "tiff"])
@given(data=st.data())
def test_pictures(kind, data):
    content = data.draw(damaged(picture(kind)))
    processor = ImageProcessor((8, 8))
    images = answered(lambda: processor.preprocess([content]), "images[0]")
    assert images is None or images.shape == (1, 3, 8, 8)


def shard():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in {"a.png": picture("png"), "a.txt": b"a cat", "a.cls": b"3"}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@given(damaged(shard()))
def test_shards(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("shard") / "x.tar"
    file.write_bytes(content)
    images = answered(lambda: [TarShards(file, 8)[i][0] for i in range(len(TarShards(file, 8)))], file)
    assert images is None or all(image.shape == (3, 8, 8) for image in images)


@given(st.data())
def test_maps(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("map") / "ridge.safetensors"
    RidgeMap(torch.randn(3, 2), torch.zeros(3), torch.ones(3), torch.zeros(2)).save(file)
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    found = answered(lambda: RidgeMap.load(file), file)
    assert found is None or found(torch.randn(4, 3)).shape == (4, 2)
