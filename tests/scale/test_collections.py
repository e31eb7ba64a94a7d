"""Collections: every image once, whatever happens while they are made; and what is read is what was encoded."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch.utils.data import DataLoader

from spae import SPAE, load
from spae.data import TokenDataset, open_data
from spae.scale import TokenizeConfig, tokenize_collection
from spae.scale.tokenizing import Worker

ROOT = Path(__file__).parents[2]


def config(**entries):
    return TokenizeConfig(**{"shard_size": 4, "batch_size": 3, "loaders": 0, **entries})


def contents(folder):
    """Every file of a collection, by name; none is hidden but the lock of the folder."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}
    assert [name for name in found if name.startswith(".")] == []
    return found


@pytest.mark.parametrize("form", ["npy", "tar", "parquet"])
@pytest.mark.parametrize("loaders", [0, 2])
def test_what_is_read_is_what_was_encoded(toy, photos, tmp_path, form, loaders, capsys):
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    report = tokenize_collection(toy, photos, tmp_path / "out", config(form=form, loaders=loaders))
    assert (report.images, report.encoded, len(report.skipped)) == (21, 21, 2)
    model, source = load(toy), open_data(photos, None, image_size=16)
    good = [n for n, key in enumerate(source.keys) if key[-8:-6] not in ("04", "22")]
    data = TokenDataset(tmp_path / "out")
    assert len(data) == 21
    for number, item in zip(good, data, strict=True):
        image, *about = source[number]
        assert torch.equal(item.ids, model.encode(image[None]).ids[0])
        assert [item.caption, item.label, item.key] == about
    assert data[-1].key == source.keys[good[-1]]
    assert {item.caption for item in data} == {"red things", "blue", "thirteen, größer"}
    assert [image.key for image in data.skipped] == ["blue/22.x.png", "red_things/04.x.png"]
    assert all("expected an image" in image.error for image in data.skipped)
    assert sorted([*good, *(image.number for image in data.skipped)]) == list(range(23))
    assert (data.vocab_size, data.num_layers, data.pyramid) == (40, 3, model.pyramid)
    assert capsys.readouterr().err.count("skipped ") == 2
    first = TokenDataset(tmp_path / "out", 2)[3]
    assert torch.equal(first.ids, data[3].ids[:5])
    with pytest.raises(ValueError, match=r"num_layers: expected 1 to 3, got 4"):
        TokenDataset(tmp_path / "out", 4)


def test_the_files_are_plain_ones(toy, photos, tmp_path):
    tokenize_collection(toy, photos, tmp_path / "npy", config(layers=2))
    ids = np.load(tmp_path / "npy/00001.npy")
    assert (ids.dtype, ids.shape) == (np.uint16, (4, 5))
    lines = [json.loads(line) for line in (tmp_path / "npy/00000.jsonl").read_text().splitlines()]
    assert lines[1] == {"key": "blue/13.x.png", "caption": "thirteen, größer", "label": 0}
    tokenize_collection(toy, photos, tmp_path / "tar", config(form="tar", layers=2))
    with tarfile.open(tmp_path / "tar/00000.tar") as archive:
        names = archive.getnames()
        assert names[:4] == [f"000000000000.{extension}" for extension in ("npy", "json", "txt", "cls")]
        assert len(names) == 16
        assert archive.extractfile("000000000001.txt").read().decode() == "thirteen, größer"


def test_large_vocabularies_take_four_bytes(toy, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(
        SPAE, "encode", lambda self, x, n: type("T", (), {"ids": torch.full((len(x), 21), 70000)})()
    )
    worker = Worker(toy, photos, tmp_path / "out", config(), device="cpu")
    assert worker.collection.about["dtype"] == "uint16"
    monkeypatch.setattr("spae.codebook.Codebook.__len__", lambda self: 1 << 17)
    tokenize_collection(toy, photos, tmp_path / "large", config())
    data = TokenDataset(tmp_path / "large")
    assert data.vocab_size == 1 << 17
    assert data[7].ids.tolist() == [70000] * 21
    assert np.load(tmp_path / "large/00000.npy").dtype == np.uint32


@pytest.mark.parametrize("form", ["npy", "tar"])
def test_a_loader_gives_batches_in_any_order_and_process(toy, photos, tmp_path, form):
    tokenize_collection(toy, photos, tmp_path / "out", config(form=form))
    data = TokenDataset(tmp_path / "out")
    assert len(pickle.dumps(data)) < 4000  # no shard goes along
    by_key = {item.key: item for item in data}
    seen = []
    for batch in DataLoader(data, 4, shuffle=True, num_workers=1):
        assert batch.ids.dtype == torch.int64
        for ids, caption, label, key in zip(*batch, strict=True):
            assert torch.equal(ids, by_key[key].ids)
            assert (caption, int(label)) == (by_key[key].caption, by_key[key].label)
            seen.append(key)
    assert sorted(seen) == sorted(by_key)


@pytest.mark.parametrize("place", ["encode", "data", "record"])
def test_an_interrupted_run_goes_on(toy, photos, tmp_path, monkeypatch, place):
    """Wherever it stops: in the middle of a shard, after its files, before its record."""
    tokenize_collection(toy, photos, tmp_path / "whole", config())
    calls, encode, replace = [], SPAE.encode, os.replace

    def stop_at(count, function):
        def call(*arguments):
            calls.append(arguments)
            if len(calls) == count:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    if place == "encode":
        monkeypatch.setattr(SPAE, "encode", stop_at(6, encode))
    else:  # the third file is the first shard's record; collection.json comes first
        monkeypatch.setattr("spae.scale.collection.os.replace", stop_at(6 if place == "data" else 7, replace))
    with pytest.raises(KeyboardInterrupt):
        tokenize_collection(toy, photos, tmp_path / "out", config())
    monkeypatch.undo()
    done = list((tmp_path / "out").glob("0*.json"))
    assert 1 <= len(done) < 6
    with pytest.raises(ValueError, match=rf"expected 6 shards, got {len(done)}; `spae tokenize`"):
        TokenDataset(tmp_path / "out")
    report = tokenize_collection(toy, photos, tmp_path / "out", config(loaders=1, progress=False))
    assert report.images == 21
    assert report.encoded == 21 - sum(json.loads(path.read_text())["images"] for path in done)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert tokenize_collection(toy, photos, tmp_path / "out", config()).encoded == 0


def test_a_killed_process_leaves_nothing_that_counts(toy, photos, tmp_path):
    """SIGKILL, at whatever it is at: what is there in the end is what one run makes."""
    tokenize_collection(toy, photos, tmp_path / "whole", config(shard_size=2))
    out, kills = tmp_path / "out", 0
    command = ["--model", toy, "--shard-size", "2", "--batch-size", "3", "--loaders", "1"]
    script = (
        "import sys, time; from spae import SPAE; from spae.cli import main; encode = SPAE.encode\n"
        "def slow(*a):\n    time.sleep(0.1)\n    return encode(*a)\n"
        "SPAE.encode = slow\nsys.exit(main(sys.argv[1:]))"
    )
    while True:
        before = len(list(out.glob("0*.json")))
        process = subprocess.Popen(
            [sys.executable, "-c", script, "tokenize", str(photos), str(out), *command], cwd=ROOT
        )
        while process.poll() is None and (kills == 1 or len(list(out.glob("0*.json"))) < before + 3):
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert (process.returncode, kills) == (0, 1)
    assert contents(out) == contents(tmp_path / "whole")


def _share(toy, photos, out, rank):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    report = tokenize_collection(toy, photos, out, config(shard_size=1, progress=False))
    (out.parent / f"encoded-{rank}").write_text(str(report.encoded))


def test_processes_share_the_shards(toy, photos, tmp_path):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_share, args=(toy, photos, tmp_path / "out", n)) for n in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert sum(int((tmp_path / f"encoded-{rank}").read_text()) for rank in range(2)) == 21
    tokenize_collection(toy, photos, tmp_path / "whole", config(shard_size=1))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_another_process_makes_is_waited_for_and_then_taken_over(toy, photos, tmp_path, monkeypatch):
    worker = Worker(toy, photos, tmp_path / "out", config(), device="cpu")
    other, waited = FileLock(tmp_path / "out/.00002.lock", thread_local=False), []
    other.acquire()

    def sleep(seconds):
        assert worker.collection.missing() == [2]
        waited.append(seconds)
        if len(waited) == 2:
            other.release()  # as the system does where a process dies

    monkeypatch.setattr("spae.scale.tokenizing.time.sleep", sleep)
    assert worker.run().encoded == 21
    assert len(waited) == 2
    assert len(TokenDataset(tmp_path / "out")) == 21


def test_another_collection_is_not_mixed_in(toy, photos, tmp_path):
    out = tmp_path / "out"
    tokenize_collection(toy, photos, out, config())
    before = contents(out)
    for entries in ({"layers": 1}, {"shard_size": 5}, {"form": "tar"}):
        with pytest.raises(
            ValueError, match=rf"{next(iter(entries))[:5]}.*: expected .*; another collection"
        ):
            tokenize_collection(toy, photos, out, config(**entries))
    shutil.move(photos / "blue/14.x.png", photos / "blue/99.png")
    with pytest.raises(ValueError, match=r"keys: expected .*; another collection needs another folder"):
        tokenize_collection(toy, photos, out, config())
    assert contents(out) == before
    with pytest.raises(ValueError, match="layers: expected 1 to 3, got 4"):
        tokenize_collection(toy, photos, tmp_path / "more", config(layers=4))
    with pytest.raises(ValueError, match=r"tokenize\.form: expected .*, got 'csv'"):
        config(form="csv")


def test_a_shard_whose_record_is_removed_is_made_again(toy, photos, tmp_path):
    out = tmp_path / "out"
    tokenize_collection(toy, photos, out, config())
    before = contents(out)
    (out / "00003.json").unlink()
    (out / "00003.npy").write_bytes(b"")
    assert tokenize_collection(toy, photos, out, config()).encoded in (3, 4)
    assert contents(out) == before


def test_nothing_but_bad_images_is_an_error(toy, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_bytes(b"no picture")
    with pytest.raises(
        ValueError, match=r"source: expected images that can be read, got 1 that cannot, first a\.png"
    ):
        tokenize_collection(toy, tmp_path / "bad", tmp_path / "out", config())


def test_views_are_tokenized_as_their_images_are_called(toy, photos, tmp_path):
    spec = {"folder": str(photos), "views": {"count": 2, "shift": 1}}
    tokenize_collection(toy, spec, tmp_path / "out", config(split="train"))
    data = TokenDataset(tmp_path / "out")
    keys = [item.key for item in data]
    assert keys[: len(keys) // 2] == keys[len(keys) // 2 :]
    assert {keys.count(key) for key in keys} == {2}


def test_damaged_collections_are_named(toy, photos, tmp_path):
    out = tmp_path / "out"
    tokenize_collection(toy, photos, out, config())
    with pytest.raises(
        FileNotFoundError, match=r"photos/collection.json: expected what `spae tokenize` wrote"
    ):
        TokenDataset(photos)
    (out / "00000.npy").write_bytes((out / "00000.npy").read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"00000.npy: expected a whole shard of tokens"):
        TokenDataset(out)[0]
    shutil.copy(out / "00004.npy", out / "00002.npy")
    with pytest.raises(
        ValueError, match=r"00002.npy: expected a whole shard of tokens, got .*rows of ids, 4, got 3"
    ):
        TokenDataset(out)[8]
    (out / "00004.json").write_text("{}")
    with pytest.raises(ValueError, match=r"00004.json: expected a shard's record"):
        TokenDataset(out)


def test_ids_of_another_codebook_are_found(toy, photos, tmp_path):
    tokenize_collection(toy, photos, tmp_path / "out", config())
    data = TokenDataset(tmp_path / "out")
    data.check(load(toy))
    data.about["codebook"]["checksum"] = "0" * 64
    with pytest.raises(ValueError, match=r"expected ids of the tokenizer's codebook .*, got 000000000000"):
        data.check(load(toy))
