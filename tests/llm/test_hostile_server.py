"""Against servers that mean harm: nothing they send hangs, grows or is believed."""

import gzip
import json
import socket

import pytest

from spae import llm
from spae.llm.client import Patience
from spae.llm.http import HTTPLLM, Server

pytest.importorskip("httpx")

ONCE = Patience(timeout=0.4, connect_timeout=10, retries=0)
KEY = "sk-0123456789abcdef"


def text(words):
    return {"choices": [{"text": words}]}


def drip(handler, head, more):
    handler.wfile.write(head)
    try:
        while not handler.server.released.wait(0.02):
            handler.wfile.write(more)
    except OSError:
        handler.server.left.set()


ENDLESS = {
    "header": lambda handler: drip(handler, b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
    "headers": lambda handler: drip(handler, b"HTTP/1.1 200 OK\r\n", b"X-More: a\r\n"),
    "100 continue": lambda handler: drip(handler, b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunks": lambda handler: drip(
        handler, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"
    ),
    "trailers": lambda handler: drip(
        handler, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-More: a\r\n"
    ),
    "explanation": lambda handler: drip(handler, b"HTTP/1.1 500 No\r\n\r\n", b" "),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_nothing_that_a_server_sends_extends_the_time_limit(serve, kind):
    server, model = serve(("wire", ENDLESS[kind]), patience=ONCE)
    with pytest.raises(
        llm.LLMError, match=r"failed 1 times, the last time with ReadTimeout: no whole answer in 0.4 s"
    ):
        model.generate([[5]], 2)
    # The connection is closed too: the server's next writes fail.
    assert server.left.wait(10)


def test_a_server_that_accepts_and_says_nothing_is_given_up(tokenizer):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(llm.LLMError, match=r"no whole answer in 0\.4 s"):
            HTTPLLM(Server(url, tokenizer=tokenizer_of(tokenizer), patience=ONCE))


def tokenizer_of(tokenizer):
    return llm.tokens.TextTokenizer(tokenizer, parse_special=True)


def encoded(handler):
    bomb = gzip.compress(gzip.compress(json.dumps(text("a" * 1_000_000)).encode()))
    assert handler.headers["accept-encoding"] == "identity"
    handler.reply(200, bomb, {"Content-Encoding": "gzip, gzip"})


def test_encoded_answers_are_not_decoded(serve):
    _, model = serve(("wire", encoded), patience=Patience(retries=0))
    with pytest.raises(llm.LLMError, match="ValueError: expected no encoding, got gzip, gzip"):
        model.generate([[5]], 2)


def test_an_answer_is_read_up_to_a_size(serve):
    def endless(handler):
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while not handler.server.released.is_set():
                handler.wfile.write(b" " * 65536)
        except OSError:
            handler.server.left.set()

    server, model = serve(("wire", endless), patience=Patience(retries=0, largest_answer=1_000_000))
    with pytest.raises(llm.LLMError, match="expected at most 1000000 bytes"):
        model.generate([[5]], 2)
    assert server.left.wait(10)


def test_of_a_longer_answer_only_what_was_asked_for_is_read(serve):
    _, model = serve("ab" * 5000)
    read = []
    model._tokenizer.encode, encode = (
        (lambda text: (read.append(len(text)), encode(text))[1]),
        model._tokenizer.encode,
    )
    assert model.decode(model.generate([[5]], 2)[0].tolist()) == "ab"
    assert max(read) == 3 * 1024


NOT_ANSWERS = {
    "nothing": None,
    "a list": [text("ab")],
    "choices by name": {"choices": {"0": {"text": "ab"}}},
    "a choice that is a text": {"choices": ["ab"]},
    "no text": {"choices": [{"text": None}]},
    "half a character": {"choices": [{"text": "a\ud800"}]},
    "deep": b"[" * 100_000,
    "a number of many digits": b'{"choices": [{"text": ' + b"9" * 10_000 + b"}]}",
    "no JSON": b"\xff\xfe",
}


@pytest.mark.parametrize("kind", NOT_ANSWERS)
@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_what_is_no_answer_is_neither_recorded_nor_believed(serve, tmp_path, kind, endpoint):
    log = tmp_path / "log.jsonl"
    wrong = NOT_ANSWERS[kind]
    content = wrong if isinstance(wrong, bytes) else json.dumps(wrong).encode()
    server, model = serve(content, "ab", log=log, endpoint=endpoint)
    assert model.decode(model.generate([[5]], 2)[0].tolist()) == "ab"
    assert len(server.bodies) == 2
    (line,) = log.read_text().splitlines()
    assert "ab" in json.dumps(json.loads(line)["value"]["reply"])


def echo(model, body, **changes):
    tokens = [model.decode([token]) for token in model.encode(body["prompt"])]
    values = [None, *(-0.5 for _ in tokens[1:])]
    logprobs = {"tokens": [*tokens, "!"], "token_logprobs": [*values, -9.0]}
    return {"choices": [{"text": body["prompt"], "logprobs": logprobs | changes}]}


def put(values, position, value):
    return [*values[:position], value, *values[position:][1:]]


NOT_PROBABILITIES = {
    "null": lambda t, v: {"token_logprobs": put(v, -2, None)[: len(v)]},
    "short": lambda t, v: {"token_logprobs": v[:-1]},
    "long": lambda t, v: {"token_logprobs": [*v, -1.0]},
    "none": lambda t, v: {"token_logprobs": []},
    "not a number": lambda t, v: {"token_logprobs": [*v[:-2], float("nan"), v[-1]]},
    "infinite": lambda t, v: {"token_logprobs": [*v[:-2], float("-inf"), v[-1]]},
    "of many digits": lambda t, v: {"token_logprobs": [*v[:-2], -(10**400), v[-1]]},
    "above 0": lambda t, v: {"token_logprobs": [*v[:-2], 55.0, v[-1]]},
    "above 0 elsewhere": lambda t, v: {"token_logprobs": [*v[:-1], 1e-6]},
    "true": lambda t, v: {"token_logprobs": [*v[:-2], True, v[-1]]},
    "a text": lambda t, v: {"token_logprobs": [*v[:-2], "-1", v[-1]]},
    "by token": lambda t, v: {"token_logprobs": dict(zip(t, v, strict=True))},
    "tokens by number": lambda t, v: {"tokens": list(range(len(t)))},
    "no tokens": lambda t, v: {"tokens": None},
}


@pytest.mark.parametrize("kind", NOT_PROBABILITIES)
def test_what_is_no_log_probability_is_neither_recorded_nor_believed(serve, tmp_path, kind):
    log = tmp_path / "log.jsonl"

    def wrong(body):
        logprobs = echo(model, body)["choices"][0]["logprobs"]
        return echo(model, body, **NOT_PROBABILITIES[kind](logprobs["tokens"], logprobs["token_logprobs"]))

    server, model = serve(wrong, lambda body: echo(model, body), log=log)
    prompt, label = model.encode("x:"), model.encode("abc")
    for _ in range(2):
        assert model.logprobs([prompt], [label])[0].tolist() == [-0.5] * len(label)
    assert len(server.bodies) == 2
    assert len(log.read_text().splitlines()) == 1


def test_probabilities_of_other_tokens_are_not_recorded(serve, tmp_path):
    log = tmp_path / "log.jsonl"
    server, model = serve(lambda body: echo(model, body, tokens=["x:abc!"], token_logprobs=[None]), log=log)
    for _ in range(2):
        with pytest.raises(llm.LLMError, match="reads 'abc' as other tokens"):
            model.logprobs([model.encode("x:")], [model.encode("abc")])
    assert len(server.bodies) == 2
    assert not log.exists()


def test_an_unusable_answer_in_a_log_is_asked_for_again(serve, tmp_path):
    log = tmp_path / "log.jsonl"
    server, model = serve("ab", "cd", log=log)
    model.generate([[5]], 2)
    log.write_text(log.read_text().replace('"ab"', "null"))
    again = HTTPLLM(Server(server.url, tokenizer=model._tokenizer, log=log))
    with pytest.warns(UserWarning, match=r"asked for again, it is unusable \(TypeError: expected a text"):
        assert again.decode(again.generate([[5]], 2)[0].tolist()) == "cd"
    assert again.spent.requests == 1


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"data": ["fake"]}, "expected a dict, got str"),
        ({"data": [{"id": 3}]}, "expected a text, got int"),
        ({"data": None}, "expected a list, got NoneType"),
        ([], "expected a dict, got list"),
    ],
)
def test_a_list_of_models_that_is_none_is_an_error(serve, monkeypatch, listed, message):
    server, model = serve("x")
    server.listed = listed
    with pytest.raises(llm.LLMError, match=message):
        HTTPLLM(Server(server.url, tokenizer=model._tokenizer, patience=ONCE))
    for window in (True, -1, "300", None):
        server.listed = {"data": [{"id": "fake", "max_model_len": window}]}
        with pytest.raises(
            ValueError, match="context_window: expected a number, for the server does not say it"
        ):
            HTTPLLM(Server(server.url, tokenizer=model._tokenizer, patience=ONCE))


def test_a_control_token_in_the_text_ends_the_answer(serve):
    _, model = serve("fox<|end|>dog")
    assert 0 in model.encode("fox<|end|>dog")
    rows = model.generate([[5]], 8)
    fox = model.encode("fox")
    assert rows.tolist() == [fox + [-1] * (8 - len(fox))]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(serve, status):
    """Neither prompt nor key goes where a server points."""
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        elsewhere.settimeout(0.2)
        place = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/v1/completions"
        _, model = serve(
            ("wire", lambda handler: handler.reply(status, b"{}", {"Location": place})),
            api_key=KEY,
            patience=ONCE,
        )
        with pytest.raises(llm.LLMError, match=f"status {status}"):
            model.generate([[5]], 2)
        with pytest.raises(TimeoutError):
            elsewhere.accept()
