"""Against a server that misbehaves in every way we know, and against a real one."""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
import types

import pytest
import torch

from spae import Codebook, llm
from spae.incontext import Example, Lexicon, Options, Task, Template, decode, estimate
from spae.llm import client
from spae.llm.client import Patience
from spae.llm.http import HTTPLLM, Server
from spae.llm.tokens import TextTokenizer
from spae_ops import Pyramid

httpx = pytest.importorskip("httpx")

FAST = Patience(timeout=10, connect_timeout=10, retries=3, backoff=0.01)
SHORT = Patience(timeout=0.5, connect_timeout=10, retries=3, backoff=0.01)
GARBAGE = b"<html>so sorry</html>"


def test_name_and_context_window_come_from_the_server(serve):
    _, model = serve("x")
    assert (model.name, model.context_window) == ("fake", 300)
    with pytest.raises(
        llm.ContextOverflow,
        match="expected at most 300 tokens, fake's context window, got 200 and 101 to follow",
    ):
        model.generate([[5] * 200], 101)


def test_a_prompt_goes_out_as_text_and_comes_back_as_ids(serve):
    server, model = serve(" blue bird")
    prefix = model.prefix(model.encode("an image"))
    rows = model.generate([model.encode(" of a fox:")], 4, prefix=prefix)
    assert server.bodies[0]["prompt"] == "an image of a fox:"
    assert server.bodies[0]["temperature"] == 0
    expected = model.encode(" blue bird")[:4]
    assert rows.tolist() == [expected + [-1] * (4 - len(expected))]
    assert model.spent == llm.Cost(1, len(model.encode("an image of a fox:")), 4)


def test_a_stop_ends_the_answer(serve):
    server, model = serve("fox.dog")
    (dot,) = model.encode(".")
    rows = model.generate([model.encode("a")], 8, stop=[dot])
    assert server.bodies[0]["stop"] == ["."]
    assert model.decode([token for token in rows[0].tolist() if token >= 0]) == "fox"


def test_chat_servers_are_asked_in_a_message(serve):
    server, model = serve("ab", endpoint="chat")
    assert model.generate([model.encode("x:")], 2).tolist() == [model.encode("ab")]
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "x:"}]


@pytest.mark.parametrize("fault", ["close", "cut", GARBAGE, b'{"choices": []}', b"[]", 429, 500, 503])
def test_what_may_pass_is_asked_again(serve, fault):
    server, model = serve(fault, fault, "ab")
    assert model.generate([model.encode("x:")], 2).tolist() == [model.encode("ab")]
    assert len(server.bodies) == 3
    assert model.spent.requests == 1


@pytest.mark.parametrize("fault", ["stall", "trickle"])
def test_an_answer_that_takes_too_long_is_asked_for_again(serve, fault):
    server, model = serve(fault, "ab", patience=SHORT)
    assert model.generate([model.encode("x:")], 2).tolist() == [model.encode("ab")]
    assert len(server.bodies) >= 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("stall", r"failed 4 times, the last time with ReadTimeout"),
        ("close", r"failed 4 times, the last time with (Remote|Read)"),
        (
            GARBAGE,
            r"failed 4 times, the last time with an answer that is not what was asked for \(JSONDecodeError",
        ),
        (b'{"choices": [{"text": 3}]}', "expected a text, got int"),
        (500, "status 500: .*the server's own words"),
    ],
)
def test_what_does_not_pass_is_an_error_that_says_so(serve, fault, message):
    _, model = serve(fault, patience=SHORT if fault == "stall" else FAST)
    with pytest.raises(llm.LLMError, match=message):
        model.generate([model.encode("x:")], 2)


def test_a_refused_request_is_not_asked_again(serve):
    server, model = serve(401)
    with pytest.raises(llm.LLMError, match=r"refused the request with status 401: .*own words"):
        model.generate([model.encode("x:")], 2)
    assert len(server.bodies) == 1


def test_nothing_listening_is_an_error(tokenizer):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(llm.LLMError, match="failed 4 times, the last time with ConnectError"):
        HTTPLLM(Server(url, tokenizer=TextTokenizer(tokenizer), patience=FAST))


def test_words_that_are_not_allowed_are_asked_for_again_from_there(serve):
    server, model = serve("abXcd", "cd!", "ef")
    allowed = [torch.tensor(sorted(model.encode(letter)[0] for letter in "abcdef"))] * 6
    rows = model.generate([model.encode("x:")], 6, allowed=allowed)
    assert model.decode(rows[0].tolist()) == "abcdef"
    assert [body["prompt"] for body in server.bodies] == ["x:", "x:ab", "x:abcd"]
    assert [body["max_tokens"] for body in server.bodies] == [6, 4, 2]


def test_a_server_that_never_gives_an_allowed_word_is_an_error(serve):
    server, model = serve("zzz", attempts=3)
    with pytest.raises(llm.LLMError, match=r"no allowed word at position 0 in 3 attempts; .*'zzz'"):
        model.generate([model.encode("x:")], 1, allowed=[torch.tensor(model.encode("a"))])
    first, *others = server.bodies
    assert first["temperature"] == 0
    assert len({body["seed"] for body in others}) == 2
    assert all(body["temperature"] > 0 for body in others)


def test_words_that_would_merge_with_what_stands_before_are_not_taken(serve):
    # " " and "fox" are both allowed, but behind each other they read as " fox".
    server, model = serve(" ", "fox", "Z")
    space, fox, last = (model.encode(text) for text in (" ", "fox", "Z"))
    assert model.encode(" fox") != space + fox
    allowed = [torch.tensor(space), torch.tensor(sorted([fox[0], *last]))]
    rows = model.generate([model.encode("x:")], 2, allowed=allowed)
    assert rows.tolist() == [space + last]
    assert len(server.bodies) == 3


def test_ids_can_be_sent_to_servers_that_take_them(serve):
    server, model = serve("a", "b", allowed_ids="server")
    a, b = (model.encode(letter)[0] for letter in "ab")
    model.generate([model.encode("x:")], 2, allowed=[torch.tensor([a]), torch.tensor([b])])
    assert [body["allowed_token_ids"] for body in server.bodies] == [[a], [b]]


def test_every_answer_is_kept_and_nothing_is_asked_twice(serve, tmp_path):
    log = tmp_path / "answers.jsonl"
    prompts = [[5], [6], [7]]
    server, model = serve("ab", "cd", 401, log=log)
    with pytest.raises(llm.LLMError):
        model.generate(prompts, 2)
    assert len(log.read_text().splitlines()) == 2
    server.script = ["ef"]
    rows = model.generate(prompts, 2)
    assert [model.decode(row) for row in rows.tolist()] == ["ab", "cd", "ef"]
    assert len(server.bodies) == 4
    # The same in a new process: the log is what remembers.
    again = HTTPLLM(Server(server.url, tokenizer=model._tokenizer, patience=FAST, log=log))
    assert torch.equal(again.generate(prompts, 2), rows)
    assert len(server.bodies) == 4
    assert again.spent == llm.Cost()
    entry = json.loads(log.read_text().splitlines()[0])["value"]
    assert entry["request"]["prompt"] == model.decode([5])


def test_a_log_that_is_something_else_is_an_error(serve, tmp_path):
    log = tmp_path / "notes.txt"
    log.write_text("remember the milk\n")
    with pytest.raises(ValueError, match=r"notes.txt, line 1: expected a journal's entry, got b'remember"):
        serve("x", log=log)
    assert log.read_text() == "remember the milk\n"


@pytest.fixture
def waits(monkeypatch):
    """The seconds that are waited for between requests, without waiting."""
    seconds = []

    async def sleep(time):
        seconds.append(time)

    monkeypatch.setattr(client, "sleep", sleep)
    return seconds


def test_the_rate_limit_spaces_requests(serve, waits, monkeypatch):
    _, model = serve("a", patience=Patience(requests_per_minute=1200))
    monkeypatch.setattr(client, "time", types.SimpleNamespace(monotonic=lambda: 100.0))
    waits.clear()
    model.generate([[5], [6], [7]], 1)
    # On a clock that stands still: the turn after the one that asked for the model's name, and so on.
    assert [b - a for a, b in itertools.pairwise(waits)] == pytest.approx([0.05, 0.05])


@pytest.mark.parametrize(
    ("fault", "bounds"), [(429, [(0.02, 0.02)] * 2), (GARBAGE, [(0.5, 1.0), (1.0, 2.0)])]
)
def test_a_server_says_how_long_to_wait_and_else_the_wait_doubles(serve, waits, fault, bounds):
    _, model = serve(fault, fault, "ab", patience=Patience(backoff=1.0))
    model.generate([[5]], 2)
    assert [low <= wait <= high for wait, (low, high) in zip(waits, bounds, strict=True)] == [True] * 2


def test_log_probabilities_of_a_continuation(serve):
    def echo(body):
        ids = model.encode(body["prompt"])
        values = [None, *(-0.5 * i for i in range(1, len(ids)))]
        tokens = [model.decode([token]) for token in ids]
        return {
            "choices": [
                {
                    "text": body["prompt"],
                    "logprobs": {"tokens": [*tokens, "!"], "token_logprobs": [*values, -9.0]},
                }
            ]
        }

    _, model = serve(echo)
    prompt, label = model.encode("x:"), model.encode("abc")
    scores = model.logprobs([prompt], [label])
    start = len(prompt)
    assert scores[0].tolist() == [-0.5 * i for i in range(start, start + len(label))]


def test_a_server_without_log_probabilities_is_an_error(serve):
    _, model = serve("whatever")
    with pytest.raises(llm.LLMError, match="returns no log-probabilities of a prompt"):
        model.logprobs([[5]], [[6]])


def test_control_tokens_do_not_leave_in_a_text(serve):
    server, model = serve("a")
    with pytest.raises(ValueError, match="expected no control token"):
        model.generate([model.encode("x<|end|>")], 1)
    assert not server.bodies


@pytest.fixture
def letters(tiny):
    """A codebook and pyramid of capital letters, which the tokenizer never joins, and two images."""
    ids = torch.tensor([tiny.encode(letter)[0] for letter in "ABCDEFGH"])
    codebook = Codebook.from_arrays(list("ABCDEFGH"), torch.eye(8), ids)
    return codebook, Pyramid.square(2, (1, 2)), [(*ids[:5].tolist(),), (*ids[3:].tolist(),)]


def test_a_server_decodes_images_as_the_model_here_does(serve, tiny, letters):
    codebook, pyramid, answers = letters

    def complete(body):
        ids = tiny.encode(body["prompt"])
        sets = [codebook.llm_ids.sort().values] * body["max_tokens"]
        return tiny.decode(tiny.generate([ids], len(sets), allowed=sets)[0].tolist())

    server, model = serve(complete)
    task = Task(Template(before="an image of "), tuple(map(Example, "38", answers)))
    queries = [Example("1+7"), Example("0")]
    lexicon = Lexicon(codebook, pyramid, tiny)
    options = Options(par_layers=1)
    expected = decode(tiny, task, queries, lexicon, stride=2, options=options)
    assert torch.equal(decode(model, task, queries, lexicon, stride=2, options=options).ids, expected.ids)
    cost = estimate(model, task, queries, lexicon, stride=2, options=options)
    assert model.spent == cost
    assert len(server.bodies) == cost.requests


def test_a_word_that_cannot_be_sent_is_named_before_anything_is_asked(serve, tiny, letters):
    _, pyramid, answers = letters
    words = [*"ABCDEFG", "f", "o"]
    ids = torch.tensor([tiny.encode(letter)[0] for letter in words])
    codebook = Codebook.from_arrays(words, torch.eye(9), ids)
    server, model = serve("A")
    joined = (*answers[0][:3], *ids[-2:].tolist())
    task = Task(Template(), (Example("3", answers[0]), Example("8", joined)))
    with pytest.raises(
        ValueError, match=r"expected words that read back from text, got 'f' .*: 'fo' is read as 'fo"
    ):
        decode(model, task, [Example("1")], Lexicon(codebook, pyramid, tiny), stride=3)
    assert not server.bodies


@pytest.fixture(scope="module")
def real_server(tiny_folder, tmp_path_factory):
    """`transformers serve` with a real model: SmolLM2 if it is cached, else a random one."""
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason="the server needs transformers[serving]")
    from spae import assets
    from spae.llm.folders import folder

    try:
        assets.path("smollm2")
        path = folder("smollm2", progress=False)[2]
    except assets.AssetNotCached:
        path = tiny_folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        str(path),
        "--host",
        "127.0.0.1",
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=output, stderr=output, env=environment
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=10).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", path
    finally:
        process.terminate()
        process.wait(30)


def test_a_real_server_continues_as_the_model_here_does(real_server):
    url, path = real_server
    local = llm.load(path)
    served = llm.load(url, model=str(path), tokenizer=path, context_window=512)
    prompt = local.encode("The capital of France is")
    ours, theirs = local.generate([prompt], 3)[0].tolist(), served.generate([prompt], 3)[0].tolist()
    # As its text is read: what a model generates need not be how its tokenizer reads it.
    assert [token for token in theirs if token >= 0] == local.encode(local.decode(ours))[:3]


def test_a_real_server_is_held_to_the_allowed_words(real_server, tiny_folder):
    url, path = real_server
    if path == tiny_folder:
        pytest.skip("needs SmolLM2 in the cache: tokens of random weights are seldom a text")
    patient = llm.load(url, model=str(path), tokenizer=path, context_window=512, attempts=40)
    prompt = patient.encode("The capital of France is")
    likeliest = patient.generate([prompt], 1)[0, 0].item()
    others = torch.tensor([i for i in range(17, 49152) if i != likeliest])
    sampling = llm.Sampling(temperature=1.5)
    assert int(patient.generate([prompt], 1, allowed=[others], sampling=sampling)[0, 0]) in others
