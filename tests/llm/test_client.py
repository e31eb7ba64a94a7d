"""How a server is asked: interrupts, identical requests, failures, full disks, and what patience there can be."""

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from spae import llm
from spae.llm.client import Patience
from spae.llm.journal import Journal

pytest.importorskip("httpx")


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

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        model.generate([[5], [6], [7], [8]], 2)
    thread.join()
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
    assert second.result(10) == ({"choices": [{"text": "ab"}]}, True)


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
