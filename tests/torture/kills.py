"""Kills processes (SIGKILL) at random moments and checks that nothing is lost: `make torture`, not in CI.

    python tests/torture/kills.py --kills 25 --out results/torture.json

Five kinds of process are killed, each until it has been killed so many times:

http     a client that asks a server for many answers and records them. Afterwards each answer is there, and no
         more requests were made twice than were under way at a kill.
decode   progressive decoding with a log. Afterwards the tokens are those of a run that nobody disturbed.
tokenize pictures to shards of ids. Afterwards the shards are, byte for byte, those of a run that nobody disturbed.
eval     few-shot classification with a log. Afterwards the report is that of a run that nobody disturbed.
fetch    the download of an asset by pip. After every kill the asset is absent or whole, and no client is left;
         afterwards it is whole, with nothing beside it.

Exit status 1 if anything else was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

PROMPTS, CONCURRENCY, TOKENS = 150, 4, 2


class Server(ThreadingHTTPServer):
    """Answers every prompt with its own last letters, after a while, and counts who asked for what."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed hangs up; anything else that goes wrong shows in its answers."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        prompt = json.loads(self.rfile.read(int(self.headers["content-length"])))["prompt"]
        self.server.asked[prompt] += 1
        time.sleep(0.02)
        content = json.dumps({"choices": [{"text": prompt[-TOKENS:]}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def letters(number: int) -> str:
    """Distinct texts of capitals, which the tiny tokenizer never joins."""
    return "".join(chr(65 + number // 26**place % 26) for place in range(3))


def ask(url: str, log: str) -> list[list[int]]:
    from spae.llm.http import HTTPLLM, Server
    from spae.llm.tokens import TextTokenizer
    from spae.testing.tiny_llm import tiny_tokenizer

    tokenizer = TextTokenizer(tiny_tokenizer(), parse_special=True)
    server = Server(url, model="m", tokenizer=tokenizer, context_window=99, concurrency=CONCURRENCY, log=log)
    model = HTTPLLM(server)
    prompts = [model.encode(letters(number)) for number in range(PROMPTS)]
    ready()
    rows = model.generate(prompts, TOKENS).tolist()
    assert rows == [prompt[-TOKENS:] for prompt in prompts]
    return rows


def decode(log: str) -> list[list[int]]:
    import torch

    from spae import Codebook
    from spae.incontext import Example, Lexicon, Options, Task, Template
    from spae.incontext import decode as decoding
    from spae.testing.tiny_llm import tiny_llm
    from spae_ops import Pyramid

    model = tiny_llm()
    ids = torch.tensor([model.encode(letter)[0] for letter in "ABCDEFGH"])
    lexicon = Lexicon(
        Codebook.from_arrays(list("ABCDEFGH"), torch.eye(8), ids), Pyramid.square(8, (1, 2, 4, 8)), model
    )
    answers = [
        tuple(ids[torch.randint(8, (85,), generator=torch.Generator().manual_seed(n))].tolist())
        for n in (0, 1)
    ]
    task = Task(Template(), tuple(map(Example, "38", answers)))
    ready()
    options = Options(log=log or None)
    return decoding(
        model, task, [Example("1"), Example("2")], lexicon, stride=2, options=options
    ).ids.tolist()


def toy() -> tuple[Any, Any]:
    """A tokenizer of 8 x 8 pictures over words of the tiny language model, and that model."""
    import torch

    from spae import SPAE, Codebook, SPAEConfig
    from spae.testing.tiny_llm import tiny_llm, tiny_words

    torch.set_num_threads(1)
    torch.manual_seed(0)
    llm, ids = tiny_llm(), torch.arange(60) * 3 + 20
    config = SPAEConfig((8, 8), (1, 2, 2), channels=4, multipliers=(1, 1, 1), num_res_blocks=1)
    book = Codebook.from_arrays(tiny_words(llm, ids), torch.randn(60, 6), llm_ids=ids)
    return SPAE(config, book).eval(), llm


def tokenize(source: str, out: str) -> dict[str, str]:
    from spae.scale import TokenizeConfig, tokenize_collection

    model, _ = toy()
    ready()
    config = TokenizeConfig(shard_size=2, batch_size=1, loaders=0, progress=False)
    tokenize_collection(model, source, out, config)
    files = sorted(path for path in Path(out).glob("0*"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def evaluate(source: str, out: str) -> dict[str, Any]:
    from spae.eval.episodes import FewShotSetting
    from spae.eval.run import Run
    from spae.eval.run import evaluate as evaluated
    from spae.eval.tasks import fewshot

    model, llm = toy()
    ready()
    settings = FewShotSetting(2), FewShotSetting(2, 3)
    asked = fewshot.FewShot(source, (1, 2), settings, 20, 0, lite0=False)
    return evaluated(cast(Any, fewshot), Run("fewshot", (asked,), model, llm, Path(out)))


def fetch(asset: str) -> str:
    from spae import assets

    assets.REGISTRY["toy"] = pickle.loads(bytes.fromhex(asset))
    ready()
    return hashlib.sha256(assets.fetch("toy", progress=False).read_bytes()).hexdigest()


def ready() -> None:
    print("ready", flush=True)


def child(*arguments: str) -> tuple[subprocess.Popen[str], bool]:
    """A process that does one of the above, once it is about to begin; False if it ended before."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline() == "ready\n"


def kill_often(kills: int, longest: float, check: Callable[[], None], *arguments: str) -> dict[str, Any]:
    """Kill a process after a random time each, until so many were; then its result, undisturbed."""
    killed = ended = 0
    while killed < kills:
        process, began = child(*arguments)
        assert began, "it failed before it began"
        time.sleep(random.uniform(0, longest))
        process.kill()
        process.communicate()
        killed += process.returncode == -9
        ended += process.returncode != -9
        check()
    process, _ = child(*arguments)
    output = process.communicate()[0]
    assert process.returncode == 0, f"exit status {process.returncode}"
    return {"kills": killed, "ended before the kill": ended, "result": json.loads(output)}


def torture_http(kills: int, folder: Path) -> dict[str, Any]:
    server, killed = Server(), 0
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    rounds = 0
    while killed < kills:  # a new log whenever one is complete
        part = min(5, kills - killed)
        server.asked.clear()
        kill_often(part, 0.4, lambda: None, "ask", url, str(folder / f"log-{rounds}.jsonl"))
        assert len(server.asked) == PROMPTS
        twice = sum(server.asked.values()) - PROMPTS
        assert twice <= CONCURRENCY * part, f"{twice} requests were made twice in {part} kills"
        killed, rounds = killed + part, rounds + 1
    return {"kills": killed}


def torture_decode(kills: int, folder: Path) -> dict[str, Any]:
    process, _ = child("decode", "")
    expected, killed, rounds = json.loads(process.communicate()[0]), 0, 0
    while killed < kills:
        part = min(5, kills - killed)
        found = kill_often(part, 0.5, lambda: None, "decode", str(folder / f"segments-{rounds}.jsonl"))
        assert found["result"] == expected
        killed, rounds = killed + part, rounds + 1
    return {"kills": killed}


def pictures(folder: Path) -> str:
    """Two classes of pictures, train and test."""
    from PIL import Image

    draw = random.Random(0)
    for number in range(80):
        place = folder / ("train" if number % 2 else "test") / "ab"[number // 2 % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (8, 8), draw.randbytes(192)).save(place / f"{number:02}.png")
    return str(folder)


def torture_tokenize(kills: int, folder: Path) -> dict[str, Any]:
    return _torture_parts("tokenize", kills, 3.0, folder)


def torture_eval(kills: int, folder: Path) -> dict[str, Any]:
    return _torture_parts("evaluate", kills, 3.0, folder)


def _torture_parts(name: str, kills: int, longest: float, folder: Path) -> dict[str, Any]:
    """What writes into a folder: a new one whenever one is complete."""
    source, killed, rounds = pictures(folder / "pictures"), 0, 0
    process, _ = child(name, source, str(folder / "whole"))
    expected = json.loads(process.communicate()[0])
    assert expected, "nothing was made"
    while killed < kills:
        part = min(5, kills - killed)
        found = kill_often(part, longest, lambda: None, name, source, str(folder / f"out-{rounds}"))
        assert found["result"] == expected
        killed, rounds = killed + part, rounds + 1
    return {"kills": killed}


def torture_fetch(kills: int, folder: Path) -> dict[str, Any]:
    from spae import assets

    content = random.Random(0).randbytes(20_000_000)
    wheels = folder / "wheels"
    wheels.mkdir()
    about = "toy_spae_asset-1.0.dist-info"
    with zipfile.ZipFile(wheels / "toy_spae_asset-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy/whole.bin", content)
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: toy-spae-asset\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    digest = hashlib.sha256(content).hexdigest()
    file = assets.AssetFile("whole.bin", len(content), digest, (("toy-spae-asset", "toy/whole.bin"),))
    asset = assets.Asset("toy", "a toy", "CC0-1.0", ("toy-spae-asset==1.0",), "whole.bin", (file,))
    assets.REGISTRY["toy"] = asset
    os.environ |= {"SPAE_CACHE": str(folder / "cache"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    os.environ.pop("SPAE_OFFLINE", None)
    cached = folder / "cache" / "assets"

    def check() -> None:
        deadline = time.monotonic() + 10
        while clients := _those_in(cached):
            assert time.monotonic() < deadline, f"clients are left: {clients}"
            time.sleep(0.05)
        if (cached / "toy").exists():
            assert hashlib.sha256(assets.path("toy").read_bytes()).hexdigest() == digest
            shutil.rmtree(cached / "toy")  # so that the next has work again

    found = kill_often(kills, 3.0, check, "fetch", pickle.dumps(asset).hex())
    assert found["result"] == digest
    assert sorted(path.name for path in cached.iterdir()) == ["toy", "toy.lock"]
    return {"kills": found["kills"], "ended before the kill": found["ended before the kill"]}


def _those_in(folder: Path) -> list[str]:
    """Processes whose working directory is in a folder (Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd").startswith(str(folder)):
                found.append(process.name)
        except OSError:
            continue
    return found


CHILDREN: dict[str, Callable[..., Any]] = {
    "ask": ask,
    "decode": decode,
    "tokenize": tokenize,
    "evaluate": evaluate,
    "fetch": fetch,
}
TORTURES = {
    "http": torture_http,
    "decode": torture_decode,
    "tokenize": torture_tokenize,
    "eval": torture_eval,
    "fetch": torture_fetch,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=25, help="of each kind (default: 25)")
    parser.add_argument("--kinds", nargs="+", default=[*TORTURES])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the counts")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, *rest = arguments.child
        print(json.dumps(CHILDREN[name](*rest)), flush=True)
        return 0
    random.seed(arguments.seed)
    results: dict[str, Any] = {}
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder:
            try:
                results[kind] = {**TORTURES[kind](arguments.kills, Path(folder)), "lost": 0}
            except AssertionError as error:
                results[kind] = {"failed": str(error)}
        print(f"{kind}: {results[kind]}", file=sys.stderr, flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    return int(any("failed" in result for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
