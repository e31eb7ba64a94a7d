"""What is said of token files that `spae encode` did not write: the file, what came, what was expected."""

import io
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spae import SPAE, Codebook, SPAEConfig
from spae.token_files import FORMAT, TokenWriter, as_tokens, read_tokens
from spae.tokenizers import PyramidTokens


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    book = Codebook.from_arrays([f" w{i}" for i in range(40)], torch.randn(40, 6))
    config = SPAEConfig((16, 16), (1, 2, 4), channels=4, multipliers=(1, 1, 1), num_res_blocks=1)
    return SPAE(config, book).eval()


@pytest.fixture(scope="module")
def book(model):
    return model.codebook_identity()


IDS = list(range(21))
ROW = {"name": "a.png", "ids": IDS}
# What stands in place of the file's text, of its fields or of its only row, and what is said of it.
TEXTS = [
    ("", "expected JSON from `spae encode`, got Expecting value at line 1 column 1"),
    ("{", "expected JSON from `spae encode`, got Expecting property name"),
    ("no JSON", "expected JSON from `spae encode`, got Expecting value at line 1 column 1"),
    ("[]", "expected an object with format, codebook and images, got list"),
    ("5", "expected an object with format, codebook and images, got int"),
    ("null", "expected an object with format, codebook and images, got NoneType"),
    ("[" * 100_000, "expected JSON from `spae encode`, got maximum recursion"),
    ("9" * 5000, "expected JSON from `spae encode`, got Exceeds the limit"),
    ("{}", "format: expected 'spae-tokens-1', got nothing"),
    ("\ufffe\x00", "expected JSON from `spae encode`"),
]
FIELDS = [
    ({"format": "other-1"}, "format: expected 'spae-tokens-1', got 'other-1'"),
    ({"format": 1}, "format: expected 'spae-tokens-1', got 1"),
    ({"codebook": None}, "codebook: expected an object with a checksum, got None"),
    ({"codebook": ...}, "codebook: expected an object with a checksum, got nothing"),
    ({"codebook": "smollm2"}, "codebook: expected an object with a checksum, got 'smollm2'"),
    ({"codebook": {"checksum": 5}}, "codebook: expected an object with a checksum, got {'checksum': 5}"),
    ({"codebook": {"checksum": "0" * 64}}, "codebook: expected the model's, "),
    ({"images": {"a.png": IDS}}, "images: expected a list, got {'a.png': [0, 1, "),
    ({"images": None}, "images: expected a list, got None"),
    ({"images": [IDS]}, "images[0]: expected an object with name and ids, got [0, 1, 2"),
    (
        {"images": [ROW, {"name": "b.png", "ids": IDS[:5]}]},
        "images[1]: ids: expected 21 as in the first image, got 5",
    ),
]
ROWS = [
    ({"name": ...}, "name: expected a file's name, got nothing"),
    ({"name": ""}, "name: expected a file's name, got ''"),
    ({"name": 7}, "name: expected a file's name, got 7"),
    ({"name": "a\0b"}, "name: expected a file's name, got 'a\\x00b'"),
    ({"ids": ...}, "ids: expected a list of integers, got nothing"),
    ({"ids": "0 1 2"}, "ids: expected a list of integers, got '0 1 2'"),
    ({"ids": None}, "ids: expected a list of integers, got None"),
    ({"ids": []}, "ids: expected whole layers (1, 5, 21 ids), got 0"),
    ({"ids": IDS[:20]}, "ids: expected whole layers (1, 5, 21 ids), got 20"),
    ({"ids": [*IDS, 0]}, "ids: expected whole layers (1, 5, 21 ids), got 22"),
    ({"ids": ["3"]}, "ids[0]: expected an integer, got '3'"),
    ({"ids": [1.0]}, "ids[0]: expected an integer, got 1.0"),
    ({"ids": [True]}, "ids[0]: expected an integer, got True"),
    ({"ids": [None]}, "ids[0]: expected an integer, got None"),
    ({"ids": [[1]]}, "ids[0]: expected an integer, got [1]"),
    ({"ids": [40]}, "ids[0]: expected 0 to 39, got 40"),
    ({"ids": [*IDS[:4], -1]}, "ids[4]: expected 0 to 39, got -1"),
    ({"ids": [2**63]}, "ids[0]: expected 0 to 39, got 9223372036854775808"),
    ({"ids": [10**400]}, "ids[0]: expected 0 to 39, got an integer of 1329 bits"),
]


def changed(values, changes):
    return {key: value for key, value in (values | changes).items() if value is not ...}


def complaint(path, model):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the callers look at every word
        list(read_tokens(path, model))
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


@pytest.mark.parametrize(("text", "message"), TEXTS, ids=range(len(TEXTS)))
def test_what_is_no_document(tmp_path, model, text, message):
    (tmp_path / "t.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    assert f"t.json: {message}" in complaint(tmp_path / "t.json", model)


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize(("changes", "message"), FIELDS, ids=range(len(FIELDS)))
def test_fields_of_a_document(tmp_path, model, book, changes, message, lines):
    document = changed({"format": FORMAT, "codebook": book, "images": [ROW]}, changes)
    (tmp_path / "t.json").write_text(json.dumps(document, indent=None if lines else 2))
    assert message in complaint(tmp_path / "t.json", model)


@pytest.mark.parametrize(("changes", "message"), ROWS, ids=range(len(ROWS)))
def test_rows_of_a_document_and_of_lines(tmp_path, model, book, changes, message):
    head, row = {"format": FORMAT, "codebook": book}, changed(ROW, changes)
    (tmp_path / "t.json").write_text(json.dumps({**head, "images": [row]}))
    assert f"t.json, images[0]: {message}" in complaint(tmp_path / "t.json", model)
    (tmp_path / "t.jsonl").write_text(f"{json.dumps(head)}\n\n{json.dumps(row)}\n")
    assert f"t.jsonl, line 3: {message}" in complaint(tmp_path / "t.jsonl", model)


def test_files_that_cannot_be_read(tmp_path, model, book):
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(
            FileNotFoundError, match="expected a file that `spae encode` wrote, got no such file"
        ):
            list(read_tokens(path, model))
    (tmp_path / "t.json").write_bytes(b"\x89PNG\r\n")
    assert complaint(tmp_path / "t.json", model).endswith("t.json: expected JSON in UTF-8, got the byte 0x89")
    head = json.dumps({"format": FORMAT, "codebook": book})
    (tmp_path / "t.jsonl").write_text(f'{head}\n{{"name": "a.png", "id')
    assert "t.jsonl, line 2: expected JSON from `spae encode`, got" in complaint(tmp_path / "t.jsonl", model)
    (tmp_path / "t.json").write_text(json.dumps({"format": FORMAT, "codebook": book, "images": []}) + "\n5")
    assert "expected nothing after the document, got '5'" in complaint(tmp_path / "t.json", model)


@pytest.mark.parametrize("lines", [False, True])
def test_there_and_back(tmp_path, model, lines):
    ids = torch.randint(40, (5, 21))
    names = [f"{'ab'[i % 2]}/{i} é.png" for i in range(5)]
    stream = io.StringIO()
    with TokenWriter(stream, model, lines=lines) as writer:
        for part in (slice(0, 2), slice(2, 5)):
            writer.write(names[part], PyramidTokens(ids[part], model.pyramid))
    (tmp_path / "t").write_text("\ufeff" * lines + stream.getvalue(), encoding="utf-8")
    found = list(read_tokens(tmp_path / "t", model))
    assert [row.name for row in found] == names
    assert as_tokens(found, model).ids.equal(ids)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_in_the_file_it_is_read_or_refused_by_name(tmp_path, model, book, data):
    """Any JSON in any place: rows that fit the model, or a ValueError that starts with the file's name."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    anything = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )
    document = {"format": FORMAT, "codebook": dict(book), "images": [dict(ROW), dict(ROW)]}
    key = data.draw(
        st.sampled_from(["format", "codebook", "images", "name", "ids", "row", "id", "all", "bytes"])
    )
    value = data.draw(anything)
    if key in document:
        document[key] = value
    elif key in ROW:
        document["images"][1][key] = value
    elif key == "row":
        document["images"][1] = value
    elif key == "id":
        document["images"][1]["ids"] = [*IDS[:-1], value]
    text = json.dumps(value if key == "all" else document).encode()
    if key == "bytes":
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.binary(max_size=4)) + text[place + data.draw(st.integers(0, 4)) :]
    (tmp_path / "t.json").write_bytes(text)
    try:
        rows = list(read_tokens(tmp_path / "t.json", model))
    except ValueError as error:
        refused = str(error)
    else:
        refused = None
        assert not rows or len(model.words(as_tokens(rows, model))) == len(rows)
    assert refused is None or refused.startswith(str(tmp_path / "t.json"))
