"""Journals that were cut, damaged or never any: no whole entry is ever lost."""

import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spae.llm.journal import Journal

VALUES = {"a": 1, "b": {"key": "c", "value": [None, "\u2028\ud800"]}, "c": None, "d": "x" * 50}
LINES = [json.dumps({"key": key, "value": value}).encode() for key, value in VALUES.items()]
WHOLE = b"\n".join(LINES) + b"\n"


def opened(path, content):
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Journal(path)


def held(journal):
    return {key: journal.get(key) for key in VALUES if key in journal._values}


def test_an_entry_survives_its_process(tmp_path):
    journal = Journal(tmp_path / "new" / "journal.jsonl")
    for key, value in VALUES.items():
        journal.put(key, value)
    assert journal.path.read_bytes() == WHOLE
    assert held(Journal(journal.path)) == VALUES


def test_whatever_is_cut_off_costs_no_whole_entry(tmp_path):
    path = tmp_path / "journal.jsonl"
    for length in range(len(WHOLE) + 1):
        journal = opened(path, WHOLE[:length])
        # One that lacks only its newline is whole.
        count = WHOLE[:length].count(b"\n") + (WHOLE[length : length + 1] == b"\n")
        assert held(journal) == dict(list(VALUES.items())[:count])
        journal.put("more", length)
        again = Journal(path)
        assert held(again) == held(journal)
        assert again.get("more") == length
        assert all(json.loads(line) for line in path.read_bytes().splitlines())
    assert list(tmp_path.iterdir()) == [path]


@given(st.integers(0, len(WHOLE) - 2), st.binary(max_size=60), st.integers(0, 60))
def test_damage_costs_only_the_lines_that_it_meets(tmp_path_factory, start, put, count):
    path = tmp_path_factory.mktemp("damaged") / "journal.jsonl"
    content = WHOLE[:start] + put + WHOLE[start + count :]
    untouched = [line for line in LINES if line in content.split(b"\n")]
    try:
        journal = opened(path, content)
    except ValueError:
        assert not untouched
        assert path.read_bytes() == content
        return
    for line in untouched:
        entry = json.loads(line)
        assert journal.get(entry["key"]) == entry["value"]
    journal.put("more", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Journal(path)._values == journal._values


def test_damaged_lines_are_set_aside_with_a_warning(tmp_path):
    path = tmp_path / "journal.jsonl"
    bad = [LINES[0][:20], b"\0" * 30, b"odd", b'{"key": 3, "value": 1}', b"[" * 10_000]
    path.write_bytes(b"\n".join([bad[0], LINES[1], *bad[1:], b"", LINES[2], LINES[3][:-9]]))
    with pytest.warns(UserWarning, match=r"5 damaged of 7 lines moved to journal\.jsonl\.bad"):
        journal = Journal(path)
    assert held(journal) == {key: VALUES[key] for key in "bc"}
    assert path.read_bytes() == b"\n".join(LINES[1:3]) + b"\n"
    assert (tmp_path / "journal.jsonl.bad").read_bytes() == b"\n".join(bad) + b"\n"


@pytest.mark.parametrize(
    "content", [b"remember the milk", b"a,b\n1,2\n", b'{"id": 1}\n', b"\x89PNG\r\n\x1a\n\0\0"]
)
def test_a_file_that_is_something_else_stays_as_it_is(tmp_path, content):
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"notes, line 1: expected a journal's entry, got b"):
        Journal(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
