"""A Ray Data job on a local cluster, one of whose workers is killed."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from spae.data import TokenDataset
from spae.scale import TokenizeConfig, tokenize_collection, tokenize_on_ray

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytest.importorskip("ray.data", reason="needs the extra ray")
if not Path("/proc").is_dir():
    pytest.skip("needs /proc, to find a worker", allow_module_level=True)


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def actors():
    """The busy actors of our own cluster: below this process, by the titles that Ray gives its workers."""
    parents, titled = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (title := (folder / "cmdline").read_bytes()).startswith(b"ray::") and b"MapWorker" in title:
                titled.append(int(folder.name))
        except OSError:  # it has ended
            pass

    def ours(pid):
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid in titled if ours(pid)]


def test_every_image_once_though_a_worker_is_killed(toy, photos, tmp_path, cluster):
    config = TokenizeConfig(shard_size=1, batch_size=1, loaders=0)
    out, killed, ended = tmp_path / "out", [], threading.Event()

    def kill():
        while not ended.is_set() and not killed:
            if len(list(out.glob("0*.json"))) >= 2:
                for pid in sorted(actors())[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.append((pid, len(list(out.glob("0*.json")))))
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        report = tokenize_on_ray(toy, str(photos), out, config, workers=2)
    finally:
        ended.set()
        killer.join()
    assert killed
    assert killed[0][1] < 23  # while there was work
    assert (report.images, len(report.skipped)) == (21, 2)
    tokenize_collection(toy, photos, tmp_path / "whole", config)
    assert [item.key for item in TokenDataset(out)] == [item.key for item in TokenDataset(tmp_path / "whole")]
    for path in (tmp_path / "whole").glob("0*"):
        assert path.read_bytes() == (out / path.name).read_bytes()
    records = [json.loads(path.read_text())["images"] for path in out.glob("0*.json")]
    assert (len(records), sum(records)) == (23, 21)
