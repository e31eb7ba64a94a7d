"""Whatever a server answers is read or refused, by a way of refusing that the client knows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spae.llm import answers
from spae.llm.address import Address
from spae.llm.client import _NOT_ASKED_FOR

NAMES = [
    "choices",
    "text",
    "message",
    "content",
    "logprobs",
    "tokens",
    "token_logprobs",
    "data",
    "id",
    "max_model_len",
]
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800")
JSON = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
CHOICE = st.builds(lambda choice: {"choices": [choice]}, JSON)
LOGPROBS = st.builds(
    lambda tokens, values: {"choices": [{"logprobs": {"tokens": tokens, "token_logprobs": values}}]},
    st.lists(PLAIN, max_size=3),
    st.lists(PLAIN, max_size=3),
)


@pytest.mark.parametrize("read", [answers.completion, answers.message, answers.echoed, answers.models])
@given(JSON | CHOICE | LOGPROBS)
def test_an_answer_is_read_whole_or_refused(read, answer):
    try:
        found = read(json.loads(json.dumps(answer)))
    except _NOT_ASKED_FOR:
        return
    if read is answers.echoed:
        tokens, values = found or ([], [])
        assert len(tokens) == len(values)
        assert all(value <= 0 and value == float(value) for value in values[1:])
        "".join(tokens).encode()
    elif read is answers.models:
        assert all(name.encode() is not None and (window is None or window > 0) for name, window in found)
    else:
        found.encode()


@given(st.text("ab/\"\\'%é🂡", min_size=4, max_size=12), st.text(max_size=20), st.text(max_size=20))
def test_no_form_of_a_secret_is_shown(secret, before, after):
    address = Address("http://host", login=("me", secret))
    for form in (secret, json.dumps(secret), repr(secret), f"me:{secret}"):
        assert secret not in address.redact(before + form + after).replace("[redacted]", "\0")
