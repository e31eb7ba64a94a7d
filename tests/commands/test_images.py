"""`spae encode`, `decode` and `words`: many images, bad ones among them, at flat memory."""

import argparse
import gc
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spae import SPAE
from spae.cli import main
from spae.commands import _images
from spae.commands._images import Images, add_images, image_paths
from spae.commands.decode import outputs
from spae.token_files import TokenWriter


def rows(path):
    """The head and the rows of JSON lines."""
    head, *lines = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
    return head, lines


def test_encode_then_decode(toy, picture, capsys):
    picture(Path("cat.png"))
    assert main(["encode", "cat.png", "--model", toy, "--out", "t.json"]) == 0
    tokens = json.loads(Path("t.json").read_text())
    assert tokens["format"] == "spae-tokens-1"
    assert len(tokens["images"][0]["ids"]) == 21
    assert [len(layer) for layer in tokens["images"][0]["words"]] == [1, 4, 16]
    assert not Path("t.json.part").exists()
    assert main(["decode", "t.json", "--model", toy, "--out", "out", "--layers", "2"]) == 0
    decoded = np.asarray(Image.open("out/cat.decoded.png"))
    assert decoded.shape == (16, 16, 3)
    model = SPAE.from_pretrained(toy)
    again = model.decode(model.tokens([tokens["images"][0]["words"][:2]]))[0].detach()
    assert np.array_equal(decoded, ((again.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    assert capsys.readouterr().out.splitlines() == ["out/cat.decoded.png"]
    assert main(["words", "cat.png", "--model", toy, "--layers", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("cat.png\n  1  _w")
    assert main(["words", "cat.png", "--model", toy, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "cat.png", "words": tokens["images"][0]["words"]}


def test_documents_and_lines_hold_the_same(toy, picture, capsys):
    for number in range(5):
        picture(Path(f"in/{number}.png"), number)
    assert main(["encode", "in", "--model", toy, "--out", "t.json", "--batch-size", "2"]) == 0
    assert main(["encode", "in", "--model", toy, "--out", "t.jsonl", "--batch-size", "5"]) == 0
    document, (head, lines) = json.loads(Path("t.json").read_text()), rows("t.jsonl")
    assert document == {**head, "images": lines}
    assert main(["encode", "in", "--model", toy]) == 0
    assert json.loads(capsys.readouterr().out) == document
    assert main(["encode", "in", "--model", toy, "--lines"]) == 0
    assert capsys.readouterr().out == Path("t.jsonl").read_text()
    for name in ("t.json", "t.jsonl"):
        assert main(["decode", name, "--model", toy, "--out", name[2:], "--batch-size", "2"]) == 0
    first, second = sorted(Path("json").rglob("*.png")), sorted(Path("jsonl").rglob("*.png"))
    assert [p.relative_to("json") for p in first] == [Path(f"in/{i}.decoded.png") for i in range(5)]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_folders_patterns_and_standard_input(toy, picture, monkeypatch, capsys):
    for name in ("a/2.png", "a/1.PNG", "a/sub/3.jpg", "b/4.png", "5.png"):
        picture(Path(name))
    Path("a/notes.txt").write_text("no picture")
    assert list(image_paths(["a"])) == [Path("a/1.PNG"), Path("a/2.png"), Path("a/sub/3.jpg")]
    assert list(image_paths(["*/*.png", "5.png"])) == [Path("a/2.png"), Path("b/4.png"), Path("5.png")]
    assert list(image_paths(["**/3.*"])) == [Path("a/sub/3.jpg")]
    monkeypatch.setattr("sys.stdin", io.StringIO("b\n\n5.png\n"))
    assert main(["encode", "-", "--model", toy, "--lines"]) == 0
    names = [json.loads(line).get("name") for line in capsys.readouterr().out.splitlines()]
    assert names == [None, "b/4.png", "5.png"]
    Path("empty").mkdir()
    for given in ("empty", "*.gif"):
        assert main(["encode", given, "--model", toy]) == 1
        assert f", got none in {given}" in capsys.readouterr().err


def test_nothing_is_held_of_what_was_encoded(toy, picture):
    """No object that the collector follows is left of a batch, neither a tensor nor a list."""
    for number in range(24):
        picture(Path(f"in/{number:02}.png"), number)
    parser = argparse.ArgumentParser()
    add_images(parser)
    images = Images(parser.parse_args(["in", "--model", toy, "--batch-size", "2"]))
    counts = []
    gc.freeze()  # what others hold is not counted
    try:
        with (
            open("t.jsonl", "w", encoding="utf-8") as stream,
            TokenWriter(stream, images.model, lines=True) as out,
        ):
            for paths, tokens in images.encoded():
                out.write(paths, tokens)
                del paths, tokens
                gc.collect()
                counts.append(len(gc.get_objects()))
    finally:
        gc.unfreeze()
    assert len(counts) == 12
    assert counts[-1] <= counts[3]  # after the first ones have filled what is kept once


FREED = """
import platform, sys
import torch
from spae.commands._images import give_memory_back

def held():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) // 1024

if platform.libc_ver()[0] != "glibc":
    sys.exit("no glibc")
before = held()
blocks = [torch.ones(16_000) for _ in range(2_000)]  # 64 kB each, 128 MB; not mapped one by one
del blocks[:-1]  # the last keeps the heap from shrinking
kept = held() - before
give_memory_back()
print(kept, held() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_freed_memory_goes_back_to_the_system():
    """Also what lies below memory still in use, which the allocator would keep."""
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True)
    if "no glibc" in done.stderr:
        pytest.skip("needs glibc")
    kept, left = map(int, done.stdout.split())
    assert kept > 100
    assert left < 20


def test_bad_files_are_named_and_skipped(toy, picture, capsys):
    good = [picture(Path(f"{number}.png"), number) for number in range(3)]
    Path("text.png").write_text("no picture")
    Path("cut.png").write_bytes(good[0].read_bytes()[:200])
    given = ["0.png", "text.png", "1.png", "missing.png", "cut.png", "2.png"]
    assert main(["encode", *given, "--model", toy, "--out", "t.jsonl", "--batch-size", "2"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in err] == [
        "skipped text.png",
        "skipped missing.png",
        "skipped cut.png",
        "spae encode",
    ]
    assert err[-1] == "spae encode: 3 of 6 images could not be read"
    assert "No such file" in err[1]
    assert [row["name"] for row in rows("t.jsonl")[1]] == ["0.png", "1.png", "2.png"]
    assert main(["words", "text.png", "--model", toy]) == 1
    assert "1 of 1 images could not be read" in capsys.readouterr().err


def test_what_bad_names_hold_is_written_and_read_again(toy, picture, capsys):
    strange = os.fsdecode(b"caf\xe9.png")
    picture(Path("x.png")).rename(strange)
    assert main(["encode", strange, "--model", toy, "--out", "t.jsonl"]) == 0
    assert main(["decode", "t.jsonl", "--model", toy]) == 0
    assert Path(os.fsdecode(b"caf\xe9.decoded.png")).is_file()
    assert main(["words", strange, "--model", toy]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "caf\\udce9.png"


@pytest.mark.parametrize("cut", [None, 0, 1, 40])
def test_an_interrupted_run_goes_on(toy, picture, monkeypatch, capsys, cut):
    for number in range(6):
        picture(Path(f"in/{number}.png"), number)
    command = ["encode", "in", "--model", toy, "--batch-size", "2", "--out"]
    assert main([*command, "whole.jsonl"]) == 0
    calls, encode = [], SPAE.encode

    def killed(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, *arguments)

    monkeypatch.setattr(SPAE, "encode", killed)
    assert main([*command, "parts.jsonl"]) == 130
    content = Path("parts.jsonl").read_bytes()
    assert content.count(b"\n") == 1 + 4
    if cut is not None:  # half a line, as a full disk leaves it
        Path("parts.jsonl").write_bytes(content + Path("whole.jsonl").read_bytes().splitlines()[5][:cut])
    assert main([*command, "parts.jsonl", "--resume"]) == 0
    assert Path("parts.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert sum(len(images) for images, _ in calls[3:]) == 2
    assert main([*command, "parts.jsonl", "--resume"]) == 0
    assert "nothing new to do" in capsys.readouterr().err


def test_a_run_that_cannot_go_on_changes_nothing(toy, picture, capsys):
    picture(Path("0.png"))
    assert main(["encode", "0.png", "--model", toy, "--resume"]) == 1
    assert "resume: expected JSON lines in --out, got standard output" in capsys.readouterr().err
    assert main(["encode", "0.png", "--model", toy, "--out", "t.jsonl", "--layers", "2"]) == 0
    before = Path("t.jsonl").read_bytes()
    assert main(["encode", "0.png", "--model", toy, "--out", "t.jsonl", "--resume"]) == 1
    assert "resume: expected images of 21 ids in t.jsonl, got 5" in capsys.readouterr().err
    Path("diary.jsonl").write_text('{"day": 1}\nhalf a line')
    assert main(["encode", "0.png", "--model", toy, "--out", "diary.jsonl", "--resume"]) == 1
    assert "diary.jsonl: format: expected 'spae-tokens-1', got nothing" in capsys.readouterr().err
    assert Path("t.jsonl").read_bytes() == before
    assert Path("diary.jsonl").read_text().endswith("half a line")


def test_batches_are_no_larger_and_keep_nothing_of_the_graph(toy, picture, monkeypatch):
    """Encoding and decoding run over batches, without gradients."""
    for number in range(7):
        picture(Path(f"in/{number}.png"), number)
    seen = []

    def watched(name):
        method = getattr(SPAE, name)

        def call(self, given, *arguments):
            result = method(self, given, *arguments)
            values = result if name == "decode" else result.ids
            seen.append((name, len(given), torch.is_grad_enabled(), values.requires_grad))
            return result

        monkeypatch.setattr(SPAE, name, call)

    watched("encode")
    watched("decode")
    assert main(["encode", "in", "--model", toy, "--batch-size", "3", "--out", "t.jsonl"]) == 0
    assert main(["decode", "t.jsonl", "--model", toy, "--batch-size", "3"]) == 0
    assert seen == [(name, size, False, False) for name in ("encode", "decode") for size in (3, 3, 1)]


def test_images_are_read_as_they_are_needed(toy, picture, monkeypatch):
    """Nothing is read ahead of the batch that is encoded."""
    for number in range(6):
        picture(Path(f"in/{number}.png"), number)
    events, read, encode = [], SPAE.preprocess, SPAE.encode
    monkeypatch.setattr(SPAE, "preprocess", lambda *a: events.append("read") or read(*a))
    monkeypatch.setattr(SPAE, "encode", lambda *a: events.append("encode") or encode(*a))
    assert main(["encode", "in", "--model", toy, "--batch-size", "2", "--out", "t.jsonl"]) == 0
    assert events == ["read", "read", "encode"] * 3


def test_outputs_keep_their_folders_and_never_meet():
    out = Path("out")
    assert outputs(["a/x.png", "./b/../b/x.png", "x.png"], out) == [
        out / "a/x.decoded.png",
        out / "b/x.decoded.png",
        out / "x.decoded.png",
    ]
    same = outputs(["x.png", "x.jpg", "X.png", "x.png", "x.png"], out)
    assert same == [out / f"{name}.decoded.png" for name in ("x", "x.jpg", "X.png", "x.png.2", "x.png.3")]
    assert outputs(["/d/s/1.png", "/d/t/1.png"], out) == [out / "s/1.decoded.png", out / "t/1.decoded.png"]
    assert outputs(["/d/s/1.png"], out) == [out / "1.decoded.png"]
    for names in (["../../etc/x.png"], ["..", "."], ["/", "a.png"], ["a/../../x.png", "../y/x.png"]):
        for path in outputs(names, out):
            assert out in path.parents
            assert ".." not in path.parts


def test_decoding_replaces_no_file_unless_told_to(toy, picture, capsys):
    """Neither its own of before nor anybody else's; and nothing is written before that is known."""
    for number in range(3):
        picture(Path(f"in/{number}.png"), number)
    assert main(["encode", "in", "--model", toy, "--out", "t.jsonl"]) == 0
    Path("out/in").mkdir(parents=True)
    Path("out/in/2.decoded.png").symlink_to("somewhere else")
    assert main(["decode", "t.jsonl", "--model", toy, "--out", "out"]) == 1
    message = "out: expected no file where one is to be written, got out/in/2.decoded.png (or --overwrite)"
    assert message in capsys.readouterr().err
    assert [path.name for path in Path("out/in").iterdir()] == ["2.decoded.png"]
    Path("out/in/2.decoded.png").unlink()
    assert main(["decode", "t.jsonl", "--model", toy, "--out", "out"]) == 0
    before = {path: path.read_bytes() for path in Path("out/in").iterdir()}
    assert main(["decode", "t.jsonl", "--model", toy, "--out", "out", "--layers", "1"]) == 1
    assert {path: path.read_bytes() for path in Path("out/in").iterdir()} == before
    assert main(["decode", "t.jsonl", "--model", toy, "--out", "out", "--layers", "1", "--overwrite"]) == 0
    after = {path: path.read_bytes() for path in Path("out/in").iterdir()}
    assert after.keys() == before.keys()
    assert all(after[path] != before[path] for path in before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "0"], "batch-size: expected 1 or more, got 0"),
        (["--layers", "4"], "layers: expected 1 to 3, got 4"),
        (["--layers", "0"], "layers: expected 1 to 3, got 0"),
        (["--device", "cuda:99"], "device: expected one that torch can use here, got 'cuda:99'"),
        (["--device", "toaster"], "device: expected one that torch can use here, got 'toaster'"),
    ],
)
@pytest.mark.parametrize("command", ["encode", "words"])
def test_options_are_named(toy, picture, capsys, command, options, message):
    picture(Path("0.png"))
    assert main([command, "0.png", "--model", toy, *options]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"spae {command}: {message}")
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_bright_pictures_are_not_doubted(toy, picture, recwarn, capsys):
    for number in range(10):
        Image.new("RGB", (20, 20), (240, 250, 255 - number)).save(f"{number}.png")
    assert main(["encode", ".", "--model", toy, "--out", "t.json"]) == 0
    assert not recwarn.list


def test_a_package_that_is_missing_is_no_bad_file(toy, picture, monkeypatch, capsys):
    picture(Path("0.png"))

    def missing(self, images):
        raise ImportError("reading images needs pillow: pip install pillow")

    monkeypatch.setattr(SPAE, "preprocess", missing)
    assert main(["encode", "0.png", "--model", toy]) == 1
    assert "spae encode: reading images needs pillow" in capsys.readouterr().err


def test_batches():
    assert list(_images.in_batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(_images.in_batches([], 2)) == []
