import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import spae
from spae import assets
from spae.cli import main
from spae.commands import doctor
from spae_ops import _extension

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def report(capsys, status=0):
    assert main(["doctor", "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_a_healthy_installation(cache, capsys):
    found = report(capsys)
    assert found["versions"]["spae"] == spae.__version__
    assert found["packages"]["torch"]
    assert (found["broken"], found["cache"]["folder"]) == ([], str(cache))
    assert found["environment"]["SPAE_CACHE"] == str(cache)
    for rows in found["operators"].values():
        assert any(row["available"] for row in rows)
        assert all(row["reason"] for row in rows if not row["available"])
    assert not any(row["cached"] for row in found["cache"]["assets"].values())
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("nothing is broken\n")
    for word in ("nearest_code", "reference", "SPAE_OFFLINE", str(cache), *assets.REGISTRY):
        assert word in text


def test_a_damaged_asset_is_broken(cache, capsys):
    (cache / "assets/smollm2").mkdir(parents=True)
    (cache / "assets/smollm2/LICENSE").write_text("cut")
    found = report(capsys, status=1)
    assert re.search(r"asset smollm2: the cache lacks .*GGUF|gguf", found["broken"][0])
    assert found["cache"]["assets"]["smollm2"]["bytes"] == 3
    assert main(["doctor"]) == 1
    assert "broken: asset smollm2: " in capsys.readouterr().out


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPAE_CACHE", str(tmp_path / "file/cache"))
    assert "cannot be written to; SPAE_CACHE" in report(capsys, status=1)["broken"][0]


def test_an_extension_that_does_not_load_is_broken(cache, monkeypatch, capsys):
    monkeypatch.setattr(_extension, "reason", lambda: "spae_ops._C does not load (OSError: torch has moved)")
    monkeypatch.setattr(doctor, "_built", lambda: True)
    assert report(capsys, status=1)["broken"] == ["spae_ops._C does not load (OSError: torch has moved)"]
    monkeypatch.setattr(doctor, "_built", lambda: False)
    found = report(capsys)
    assert (found["broken"], found["advice"]) == ([], [_extension.reason()])


def test_columns_of_implementations_that_it_does_not_know_are_shown():
    row = {"name": "cuda", "available": True, "reason": "", "admission": "admitted on sm_90"}
    assert doctor._verdict(row) == "yes admission: admitted on sm_90"
    assert doctor._verdict({**row, "available": False, "reason": "no GPU", "admission": ""}) == "no  no GPU"


def test_every_environment_variable_is_listed():
    read = re.compile(r"""(?:environ(?:\.get\(|\[)|getenv\()\s*["']([A-Z_]+)["']|["'](SPAE_[A-Z_]+)["']""")
    files = [*(ROOT / "spae").rglob("*.py"), *(ROOT / "spae_ops").rglob("*.py"), ROOT / "setup.py"]
    files += [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    names = {a or b for path in files for a, b in read.findall(path.read_text(encoding="utf-8"))}
    names -= {"SPAE_WITH_CUDA", "SPAE_CUDA_ARCHITECTURES", "SPAE_WITH_AMX"}  # macros of the build
    assert {"SPAE_CACHE", "SPAE_ISA", "SPAE_NO_EXT"} <= names <= set(doctor.VARIABLES)


def test_it_works_without_the_extension(tmp_path):
    code = (
        "import sys; sys.modules['spae_ops._C'] = None; from spae.cli import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "slower than it could be: spae_ops._C was not built" in done.stdout
