"""Against servers that mean harm, and interrupts, full disks and damaged logs: nothing hangs, grows or leaks."""

import asyncio
import base64
import gzip
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from spae import llm
from spae.llm.address import Address
from spae.llm.client import Patience
from spae.llm.http import HTTPLLM, Server
from spae.llm.journal import Journal

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


@pytest.mark.parametrize("during", ["an answer", "a back-off", "a turn"])
def test_an_interrupt_ends_a_wait_at_once(serve, monkeypatch, during):
    long = Patience(timeout=600, backoff=600, max_backoff=600)
    script = {"an answer": "stall", "a back-off": b"[]", "a turn": "a"}[during]
    if during == "a turn":
        long = Patience(timeout=600, requests_per_minute=0.1)
    server, model = serve(script, patience=long, model="fake", context_window=300, concurrency=3)
    waiting = threading.Event()
    if during == "an answer":
        server.on_request = waiting.set
    else:
        from spae.llm import client

        async def sleep(seconds, sleep=client.sleep):
            if seconds > 1:
                waiting.set()
            await sleep(seconds)

        monkeypatch.setattr(client, "sleep", sleep)

    def interrupt():
        waiting.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    # Processes that a shell starts in the background ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            model.generate([[5], [6], [7], [8]], 2)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    # Nobody let the server go on: the wait was left, not sat out.
    assert not server.stalled_to_the_end
    if during == "an answer":
        assert len(server.bodies) <= 3
    if during != "a turn":  # the client is of use afterwards
        server.script = ["ab"]
        assert model.decode(model.generate([[9]], 2)[0].tolist()) == "ab"


def test_identical_requests_at_once_are_asked_once(serve, tmp_path):
    def slow(body):
        time.sleep(0.1)
        return "ab" if body["prompt"] == model.decode([5]) else "cd"

    server, model = serve(slow, concurrency=8, log=tmp_path / "log.jsonl")
    rows = model.generate([[5]] * 5 + [[6]] * 3, 2)
    assert [model.decode(row) for row in rows.tolist()] == ["ab"] * 5 + ["cd"] * 3
    assert len(server.bodies) == model.spent.requests == 2
    # From several threads too; but draws of their own are requests of their own.
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: model.generate([[7]], 2), range(4)))
    assert len(server.bodies) == 3
    model.generate([[5]] * 3, 2, sampling=llm.Sampling(temperature=1.0))
    assert len({body["seed"] for body in server.bodies[3:]}) == len(server.bodies[3:]) == 3


def test_those_who_wait_for_an_interrupted_request_ask_it_themselves(serve):
    server, model = serve("stall", "ab", model="fake", context_window=300)
    asked = threading.Event()
    server.on_request = asked.set
    loop = model._client._loop

    def ask():
        return asyncio.run_coroutine_threadsafe(model._client.post("/completions", {}, dict), loop)

    first = ask()
    assert asked.wait(10)
    second = ask()
    first.cancel()
    assert second.result(10) == (text("ab"), True)


def test_a_failure_keeps_the_answers_that_are_under_way(serve, tmp_path):
    both = threading.Barrier(2)

    def answer(body):
        both.wait(10)
        if body["prompt"] == model.decode([5]):
            return 401
        time.sleep(0.2)
        return "ab"

    server, model = serve(answer, concurrency=2, log=tmp_path / "log.jsonl")
    with pytest.raises(llm.LLMError, match="401"):
        model.generate([[5], [6], [7], [8]], 2)
    assert len(server.bodies) == 2  # none was begun after it
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


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


@pytest.mark.parametrize("where", ["api_key", "url"])
@pytest.mark.parametrize("status", [401, 500])
def test_secrets_that_a_server_repeats_are_not_shown(serve, where, status):
    def repeat(handler):
        said = f"you sent {handler.headers['authorization']}, {KEY}, {KEY[:6]}\\u0030\x1b[2J" + "x" * 5000
        handler.reply(status, said.encode())

    options = {"api_key": KEY} if where == "api_key" else {}
    server, _ = serve("x")
    url = server.url if where == "api_key" else server.url.replace("://", f"://me:{KEY}@")
    model = HTTPLLM(
        Server(url, model="fake", context_window=300, tokenizer=_._tokenizer, patience=ONCE, **options)
    )
    server.script = [("wire", repeat)]
    with pytest.raises(llm.LLMError) as caught:
        model.generate([[5]], 1)
    message = str(caught.value)
    assert "you sent" in message
    assert "[redacted]" in message
    for secret in (KEY, base64.b64encode(f"me:{KEY}".encode()).decode(), "\x1b"):
        assert secret not in message
        assert secret not in repr(model.server) + model.identity + repr(model._client.address)
    sent = server.headers[-1]["authorization"]
    assert sent == (
        f"Bearer {KEY}" if where == "api_key" else "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()
    )


def test_a_secret_in_a_text_that_is_not_allowed_is_not_shown(serve):
    _, model = serve(f"your key is {KEY}", api_key=KEY, attempts=1)
    with pytest.raises(llm.LLMError, match=r"continued with 'your key is \[redacted\]'"):
        model.generate([[5]], 1, allowed=[torch.tensor(model.encode("a"))])


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("ftp://host/v1", None, "url: expected http"),
        ("http:///v1", None, "url: expected http"),
        ("http://host:x/v1", None, "url: expected http"),
        ("http://[::1/v1", None, "url: expected http"),
        (f"http://me:{KEY}/x@host/v1", None, "got one with credentials"),
        (f"http://host/v1?key={KEY}", None, r"without a query, got 'http://host/v1'"),
        (
            f"http://me:{KEY}@host/v1",
            "other",
            "expected none beside the credentials in the url of http://host/v1",
        ),
        ("http://host/v1", f"{KEY}\n", "api_key: expected printable ASCII without spaces"),
        ("http://host/v1", f"{KEY}é", "api_key: expected printable ASCII without spaces"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused_without_showing_a_secret(url, key, message):
    with pytest.raises(ValueError, match=message) as caught:
        Address.parse(url, key)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": "complete"}, "endpoint: expected completions or chat, got 'complete'"),
        ({"allowed_ids": "none"}, "allowed_ids: expected retry or server, got 'none'"),
        ({"attempts": 0}, "attempts: expected a whole number from 1, got 0"),
        ({"concurrency": 0}, "concurrency: expected a whole number from 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Server("http://127.0.0.1:9/v1", **options)


@pytest.mark.parametrize("name", ["timeout", "connect_timeout", "requests_per_minute", "largest_answer"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_patience_that_cannot_be_is_refused(name, value):
    with pytest.raises(
        ValueError, match=rf"{name}: expected a (whole number from 1|number above 0).*, got {value}"
    ):
        Patience(**{name: value})


@pytest.mark.parametrize("name", ["retries", "backoff", "max_backoff"])
def test_negative_patience_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected a (whole )?number from 0, got -1"):
        Patience(**{name: -1})


def test_a_full_disk_locks_out_no_answer(serve, tmp_path):
    resource = pytest.importorskip("resource", reason="needs limits on a file's size")
    log = tmp_path / "log.jsonl"
    server, model = serve("ab", log=log)
    model.generate([[5]], 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 40, hard))
    try:
        with pytest.raises(OSError, match=r"log\.jsonl"):
            model.generate([[6]], 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not log.read_bytes().endswith(b"\n")
    # This process still knows what it paid for, and what comes next does not run on in the half line.
    model.generate([[6], [7]], 2)
    assert len(server.bodies) == 3
    with pytest.warns(UserWarning, match=r"log\.jsonl: 1 damaged of 3 lines moved to log\.jsonl\.bad"):
        assert len(Journal(log)) == 2
    assert (tmp_path / "log.jsonl.bad").read_bytes().startswith(b'{"key": ')
    assert len(Journal(log)) == 2
