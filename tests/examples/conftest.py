"""Small stand-ins for what the examples use: a folder of images, a codebook, and a server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from spae import SPAE, Codebook, SPAEConfig


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes, 24 images each, of which some fall to every split."""
    rng = np.random.default_rng(0)
    for name, low, high in (("dark_things", 0, 90), ("bright_things", 160, 256)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(24):
            pixels = rng.integers(low, high, (6, 8, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((40, 36), Image.Resampling.BICUBIC)
            image.save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def book(tmp_path):
    """A saved codebook of 60 words."""
    torch.manual_seed(0)
    Codebook.from_arrays([f" w{i}" for i in range(60)], torch.randn(60, 8)).save(tmp_path / "book")
    return tmp_path / "book"


@pytest.fixture
def tiny_tokenizer_of():
    """(a codebook, a folder) -> the folder, with an untrained tokenizer over those words in it."""

    def save(codebook, folder):
        torch.manual_seed(0)
        config = SPAEConfig((32, 32), (1, 2, 4), channels=8, multipliers=(1, 1, 1, 1), num_res_blocks=1)
        SPAE(config, codebook).eval().save_pretrained(folder)
        return folder

    return save


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible server whose model prefers the words that stand in its prompt, the last ones most.

    It answers completions and scores what it is sent (echo with logprobs). asked: every request's body.
    """

    daemon_threads = True

    def __init__(self, tokenizer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokenizer, self.asked, self.keys = tokenizer, [], []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def pieces(self, text):
        return [self.tokenizer.decode([token]) for token in self.tokenizer(text)["input_ids"]]


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer({"data": [{"id": "tiny", "max_model_len": 4096}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers["authorization"])
        choice = {
            "text": body["prompt"].rsplit("output:", 2)[-2].split(".\n")[0]
        }  # the last example's answer
        if body.get("echo"):
            pieces = self.server.pieces(body["prompt"])
            values = [None, *(-1.0 / (1 + pieces[:i].count(piece)) for i, piece in enumerate(pieces) if i)]
            choice["logprobs"] = {"tokens": pieces, "token_logprobs": values}
        self.answer({"choices": [choice]})

    def answer(self, content):
        content = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def tiny_server():
    pytest.importorskip("transformers")
    pytest.importorskip("httpx")
    from spae.testing.tiny_llm import tiny_tokenizer

    server = Server(tiny_tokenizer())
    yield server
    server.shutdown()
    server.server_close()
