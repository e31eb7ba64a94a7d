import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("transformers")

from spae.llm.client import Patience
from spae.llm.http import HTTPLLM, Server
from spae.llm.tokens import TextTokenizer
from spae.testing.tiny_llm import tiny_llm, tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny():
    return tiny_llm()


@pytest.fixture(scope="session")
def tiny_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


FAST = Patience(timeout=10, connect_timeout=10, retries=3, backoff=0.01)


class Fake(ThreadingHTTPServer):
    """Answers each completion with the next of `script`: a text, or a misbehaviour; the last one repeats.

    A function makes the answer from the request's body; ("wire", function) writes what it likes through the
    handler.
    """

    daemon_threads = True

    def __init__(self, *script):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.bodies, self.headers = list(script), [], []
        self.listed = {"data": [{"id": "fake", "max_model_len": 300}]}
        self.released, self.left = threading.Event(), threading.Event()
        self.on_request = lambda: None
        self.stalled_to_the_end = False
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def next(self):
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply(200, self.server.listed)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        self.server.headers.append(self.headers)
        self.server.on_request()
        act = self.server.next()
        if callable(act):
            act = act(body)
        if isinstance(act, tuple):
            act[1](self)
            self.close_connection = True
            return
        if act == "stall":
            self.server.stalled_to_the_end = not self.server.released.wait(20)
        elif act == "trickle":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            while not self.server.released.wait(0.05):
                self.wfile.write(b" ")
        elif act == "close":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif act == "cut":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices"')
        elif isinstance(act, bytes):
            self.reply(200, act)
        elif isinstance(act, int):
            self.reply(act, {"error": "the server's own words"}, {"Retry-After": "0.02"})
        elif isinstance(act, dict):
            self.reply(200, act)
        elif self.path.endswith("/chat/completions"):
            self.reply(200, {"choices": [{"message": {"content": act}}]})
        else:
            self.reply(200, {"choices": [{"text": act}]})

    def reply(self, status, content, headers=None):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def serve(tokenizer):
    servers = []

    def start(*script, **options):
        server = Fake(*script)
        servers.append(server)
        options = {"tokenizer": TextTokenizer(tokenizer, parse_special=True), "patience": FAST} | options
        return server, HTTPLLM(Server(server.url, **options))

    yield start
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()
