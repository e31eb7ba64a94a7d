"""Verdicts and where they are kept, and the processes that they come from."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from spae_ops import CodeIndex
from spae_ops.admission import admit as admission
from spae_ops.admission import process, verdicts
from spae_ops.admission.verdicts import Verdict

CPU = torch.device("cpu")


def verdict(
    outcome="passed", detail="", family="nearest_code", implementation="cuda", dtype="float32", width=64
):
    return Verdict(family, implementation, dtype, width, "cpu", outcome, detail)


def forget(monkeypatch):
    """As another process would start."""
    monkeypatch.setattr(verdicts, "_known", {})


class TestKeeping:
    def test_another_process_reads_it(self, world, monkeypatch):
        for outcome in ("passed", "failed"):
            verdicts.keep(CPU, verdict(outcome, "of interest"))
            forget(monkeypatch)
            assert verdicts.kept(CPU, verdict().case) == verdict(outcome, "of interest")

    def test_unknown_is_only_remembered(self, world, monkeypatch):
        verdicts.keep(CPU, verdict("unknown"))
        assert verdicts.kept(CPU, verdict().case).outcome == "unknown"
        forget(monkeypatch)
        assert verdicts.kept(CPU, verdict().case) is None

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: text[: len(text) // 2],
            lambda text: "",
            lambda text: "[" * 100_000,
            lambda text: "null",
            lambda text: text.replace("failed", "passed"),
            lambda text: text.replace("of interest", "of interesT"),
            lambda text: text.replace('"sha256"', '"sha255"'),
            lambda text: json.dumps({**json.loads(text), "verdict": 3}),
            lambda text: json.dumps({**json.loads(text), "environment": {}}),
            lambda text: "\udcff" + text,
        ],
    )  # fmt: skip
    def test_a_damaged_file_counts_as_absent(self, world, monkeypatch, change):
        verdicts.keep(CPU, verdict("failed", "of interest"))
        (file,) = world.folder.rglob("*.json")
        file.write_text(change(file.read_text()), errors="surrogateescape")
        forget(monkeypatch)
        assert verdicts.kept(CPU, verdict().case) is None
        assert verdicts.summary_on(CPU, "nearest_code", "cuda") == "untested"
        verdicts.keep(CPU, verdict("passed"))
        forget(monkeypatch)
        assert verdicts.kept(CPU, verdict().case) == verdict("passed")

    def test_every_flipped_bit_counts_as_absent_or_changes_nothing(self, world, monkeypatch):
        verdicts.keep(CPU, verdict("failed", "x"))
        (file,) = world.folder.rglob("*.json")
        whole = file.read_bytes()
        for place in range(0, len(whole) * 8, 7):
            changed = bytearray(whole)
            changed[place // 8] ^= 1 << place % 8
            file.write_bytes(changed)
            forget(monkeypatch)
            assert verdicts.kept(CPU, verdict().case) in (None, verdict("failed", "x"))

    def test_another_environment_or_case_has_no_verdict(self, world, monkeypatch):
        verdicts.keep(CPU, verdict())
        (file,) = world.folder.rglob("*.json")
        for other in (verdict(family="pyramid"), verdict(dtype="float16"), verdict(width=128)):
            assert verdicts.kept(CPU, other.case) is None
            file.with_name(f"{'-'.join(map(str, other.case))}.json").write_bytes(file.read_bytes())
            forget(monkeypatch)
            assert verdicts.kept(CPU, other.case) is None
        assert verdicts.kept(CPU, verdict().case) == verdict()
        forget(monkeypatch)
        monkeypatch.setitem(world.environment, "torch", "2")
        assert verdicts.kept(CPU, verdict().case) is None

    def test_readers_see_whole_files_while_others_write(self, world):
        verdicts.keep(CPU, verdict())
        (file,) = world.folder.rglob("*.json")

        def write(number):
            verdicts.keep(CPU, verdict("failed", "x" * number))

        def read(_):
            return verdicts._read(file, CPU, verdict().case)

        with ThreadPoolExecutor(8) as pool:
            written = pool.map(write, range(100))
            found = list(pool.map(read, range(400)))
            list(written)
        assert None not in found
        assert [path.name for path in file.parent.iterdir()] == [file.name]

    def test_a_cache_that_cannot_be_written_costs_only_time(self, world, monkeypatch):
        (world.folder / "file").write_text("")
        monkeypatch.setenv("SPAE_CACHE", str(world.folder / "file" / "cache"))
        verdicts.keep(CPU, verdict())
        assert verdicts.kept(CPU, verdict().case) == verdict()
        with admission._lock(CPU, "cuda"):  # there is none to be had
            pass

    def test_modes(self, world, monkeypatch):
        verdicts.keep(CPU, verdict())
        monkeypatch.setenv("SPAE_ADMIT", "off")
        assert verdicts.kept(CPU, verdict().case) is None
        monkeypatch.setenv("SPAE_ADMIT", "force")
        forget(monkeypatch)
        assert verdicts.kept(CPU, verdict().case) is None
        verdicts.keep(CPU, verdict("failed"))
        assert verdicts.kept(CPU, verdict().case) == verdict("failed")
        monkeypatch.setenv("SPAE_ADMIT", "")
        forget(monkeypatch)
        assert verdicts.kept(CPU, verdict().case) == verdict("failed")
        monkeypatch.setenv("SPAE_ADMIT", "on")
        with pytest.raises(ValueError, match="SPAE_ADMIT: expected off or force, or nothing, got 'on'"):
            CodeIndex(torch.eye(3))

    def test_the_environment_names_what_a_verdict_depends_on(self, monkeypatch):
        class Properties:
            name, major, minor, multi_processor_count = "NVIDIA H200", 9, 0, 132

        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
        found = verdicts.environment(torch.device("cuda", 5), "cuda")
        verdicts.environment.cache_clear()
        assert found["device"] == "NVIDIA H200"
        assert found["capability"] == "9.0"
        assert found["torch"] == torch.__version__
        assert len(found["sources"]) == 64
        assert found["sources"] != verdicts._sources("triton") or not list(verdicts._ROOT.glob("_C*.so"))

    def test_width_classes(self):
        of = [
            verdicts.case("nearest_code", "cuda", torch.bfloat16, width)[2:]
            for width in (1, 64, 65, 576, 577)
        ]
        assert of == [("bfloat16", w) for w in (64, 64, 128, 576, 640)]


class TestProcess:
    """Examinations apart, and what becomes of processes that end otherwise."""

    def run(self, monkeypatch, *codes, families=("nearest_code",), limit=60.0):
        """Processes that run `codes` in turn."""
        monkeypatch.setattr(process, "TIME_LIMIT", limit)
        left = list(codes)
        monkeypatch.setattr(process, "command", lambda *arguments: [sys.executable, "-c", left.pop(0)])
        return [(v.outcome, v.detail) for v in process.examine("cuda", families, CPU, torch.float32, 40)]

    def report(self, family="nearest_code", outcome="passed", **other):
        fields = {
            "family": family,
            "outcome": outcome,
            "detail": "",
            "environment": verdicts.environment(CPU, "cuda"),
        }
        return f"print({json.dumps({**fields, **other})!r}, flush=True);"

    def test_a_real_one(self, world, monkeypatch):
        monkeypatch.setattr(verdicts, "environment", lambda device, implementation: None)
        families = ["nearest_code", "pyramid", "distance_cross_entropy"]
        found = process.examine("torch", families, CPU, torch.bfloat16, 40)
        assert [(v.family, v.outcome) for v in found] == [(family, "passed") for family in families], found
        assert found[0][:5] == ("nearest_code", "torch", "bfloat16", 64, "cpu")
        assert "adversarial queries" in found[0].detail

    def test_what_it_says_counts_and_nothing_else(self, world, monkeypatch):
        noise = "print('Warning: {'); print('[1]'); print('{\"family\": 3}');"
        assert self.run(monkeypatch, noise + self.report(detail="fine")) == [("passed", "fine")]

    def test_time_is_limited(self, world, monkeypatch):
        code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
        found = self.run(monkeypatch, code, limit=0.5)
        assert found == [("unknown", "it took more than 0 s and was stopped")]

    def test_what_was_found_before_the_end_counts(self, world, monkeypatch):
        code = self.report() + "import time; time.sleep(60)"
        found = self.run(monkeypatch, code, families=("nearest_code", "pyramid"), limit=2.0)
        assert [outcome for outcome, _ in found] == ["passed", "unknown"]

    def test_a_crash_is_unknown(self, world, monkeypatch):
        assert "ended with status -6: it said nothing" in self.run(monkeypatch, "import os; os.abort()")[0][1]
        assert self.run(monkeypatch, "raise SystemExit('no such device')") == [
            ("unknown", "its process ended with status 1: no such device")
        ]
        assert self.run(monkeypatch, "") == [("unknown", "there was no verdict")]

    def test_another_goes_on_after_one_that_stopped(self, world, monkeypatch):
        found = self.run(
            monkeypatch,
            self.report(outcome="failed", detail="illegal memory access"),
            self.report("pyramid"),
            families=("nearest_code", "pyramid"),
        )
        assert found == [("failed", "illegal memory access"), ("passed", "")]

    def test_another_environment_says_nothing_here(self, world, monkeypatch):
        (found,) = self.run(monkeypatch, self.report(environment={"torch": "0"}))
        assert found[0] == "unknown"
        assert "another environment" in found[1]

    def test_what_does_not_start(self, world, monkeypatch):
        monkeypatch.setattr(process, "command", lambda *arguments: [os.path.join(os.sep, "no", "such")])
        (found,) = process.examine("cuda", ["pyramid"], CPU, torch.float32, 40)
        assert found.outcome == "unknown"
        assert found.detail.startswith("its process did not start: ")
