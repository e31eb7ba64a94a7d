"""Keys and credentials are never shown; addresses and settings that cannot be are refused."""

import base64

import pytest
import torch

from spae import llm
from spae.llm.address import Address
from spae.llm.client import Patience
from spae.llm.http import HTTPLLM, Server

pytest.importorskip("httpx")

ONCE = Patience(timeout=0.4, connect_timeout=10, retries=0)
KEY = "sk-0123456789abcdef"


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
