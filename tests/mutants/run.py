"""The mutation run, `make mutants`: applies every mutant of catalogue.py to a copy of the tree, rebuilds what it needs and
runs the tests named with it, which must fail; in the end, without a mutant, those that did, which must pass.

Writes results/mutants.json, and the same as a table beside it. One mutant after another; half an hour or so on two
idle cores. A verdict keeps a digest of the sources and tests that it is of. `--resume` keeps those that have not
changed since, `--only` takes parts of names, and `--table` only writes the table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from catalogue import CPU, FILES, LOSS, MUTANTS, TIES, TILES, TRUNCATION, Mutant

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build/mutants"
TREE, LOG = FOLDER / "tree", FOLDER / "log"
VERDICTS = ROOT / "results/mutants.json"
TIME_LIMIT = 1800
SURVIVED, NO_BUILD, NOT_RUN = "survived", "does not build", "not run"
# What a verdict rests on, beside the tests' own files and what Git ignores: all, and by what the tests are of.
SOURCES = (
    "csrc/common",
    "setup.py",
    "spae_ops/lookup",
    "spae/testing/oracles.py",
    "tests/spae_ops/conftest.py",
)
ON_CPU = ("csrc/nearest_code/cpu", "csrc/simd", "spae/testing/int8.py")
ON_GPU = ("csrc/nearest_code/cuda", "tests/spae_ops/cuda_emulator")
TRUNCATED = (*ON_CPU, "csrc/distance_cross_entropy", "spae_ops/cross_entropy")


def main() -> int:
    parser = argparse.ArgumentParser(description="Applies mutants and runs the tests that must fail.")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of mutants; default all")
    parser.add_argument("--resume", action="store_true", help="keep verdicts on what has not changed")
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    check_list()
    verdicts = json.loads(VERDICTS.read_text()) if VERDICTS.exists() else {}
    if not arguments.table:
        chosen = [m for m in MUTANTS if not arguments.only or any(part in m.name for part in arguments.only)]
        if arguments.resume:
            chosen = [m for m in chosen if verdicts.get(m.name, {}).get("sources") != sources_of(m)]
        copy_tree()
        run(chosen, verdicts)
    write_table(verdicts)
    return sum(not is_explained(m, verdict_of(m, verdicts)) for m in MUTANTS)


def run(chosen: list[Mutant], verdicts: dict[str, Any]) -> None:
    """Judges mutants, each as soon as it is known into VERDICTS."""
    last = ""
    for mutant in chosen:
        killer = judge(mutant, rebuild=is_built(mutant.file) or is_built(last))
        last = mutant.file
        verdicts[mutant.name] = {
            "verdict": killer,
            "date": time.strftime("%Y-%m-%d"),
            "sources": sources_of(mutant),
        }
        save(verdicts)
        print(f"{mutant.name}: {killer}", flush=True)
    confirm(verdicts)


def confirm(verdicts: dict[str, Any]) -> None:
    """What killed a mutant must pass where nothing is changed; what has is marked so.

    Raises:
        RuntimeError: one does not.
    """
    now = [verdicts[m.name] for m in MUTANTS if verdicts.get(m.name, {}).get("sources") == sources_of(m)]
    new = [v for v in now if "::" in v["verdict"] and not v.get("passes")]
    killers = {v["verdict"] for v in new if v["verdict"].endswith("]") or " " not in v["verdict"]}
    chosen = [sorted(killers)] if killers else []
    for verdict in {v["verdict"] for v in new} - killers:  # the test's name alone is known
        file, _, how = verdict.partition("::")
        chosen.append([file, "-k", how.partition(" ")[0]])
    failed = ("" if build() else "the build") if chosen else ""
    failed = failed or next(filter(None, (run_tests(*tests) for tests in chosen)), "")
    if failed:
        raise RuntimeError(f"without a mutant: expected all to pass, {failed} does not, see {FOLDER}")
    for verdict in new:
        verdict["passes"] = True
    save(verdicts)


def save(verdicts: dict[str, Any]) -> None:
    VERDICTS.write_text(json.dumps(verdicts, indent=1) + "\n")


def sources_of(mutant: Mutant) -> str:
    """A digest of the files that decide whether a mutant survives, as they are now, and of the mutant."""
    tests = [FILES[name] for name in mutant.tests]
    more = (
        TRUNCATED
        if mutant.tests in (TRUNCATION, LOSS, TIES)
        else ON_CPU
        if mutant.tests in (CPU, TILES)
        else ON_GPU
    )
    listed = subprocess.run(
        ["git", "ls-files", "-z", *SOURCES, *more, *tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    digest = hashlib.sha256(repr((mutant.file, mutant.old, mutant.new, mutant.tests)).encode())
    for name in sorted(filter(None, listed.stdout.split("\0"))):
        if not (ROOT / name).is_file():
            continue
        digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


def verdict_of(mutant: Mutant, verdicts: dict[str, Any]) -> str:
    return verdicts.get(mutant.name, {}).get("verdict", NOT_RUN)


def check_list() -> None:
    """Every mutant applies.

    Raises:
        ValueError: one does not; the list has to follow the code.
    """
    for mutant in MUTANTS:
        count = (ROOT / mutant.file).read_text().count(mutant.old)
        if count != 1:
            raise ValueError(
                f"{mutant.name}: expected {mutant.old!r} once in {mutant.file}, found it {count} times"
            )


def copy_tree() -> None:
    """The files that git knows, as they are now, into TREE, whose build folder stays; builds them.

    Raises:
        RuntimeError: they do not build.
    """
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        source, target = ROOT / name, TREE / name
        if name == "" or not source.is_file():
            continue
        if target.exists() and target.read_bytes() == source.read_bytes():
            continue  # keeps its time, so that nothing is built again
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    if not build():
        raise RuntimeError(f"the tree does not build, see {LOG}")


def judge(mutant: Mutant, rebuild: bool) -> str:
    """Applies the mutant, and takes it back: the test that kills it (its id in pytest), or SURVIVED."""
    file = TREE / mutant.file
    text = file.read_text()
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        if rebuild and not build():
            return NO_BUILD
        return next(filter(None, (run_tests(FILES[name]) for name in mutant.tests)), SURVIVED)
    finally:
        file.write_text(text)


def is_built(file: str) -> bool:
    """Whether the extension has to be built again; CUDA's part is built by its tests."""
    return file.startswith("csrc/") and "/cuda/" not in file


def build() -> bool:
    environment = os.environ | {"SPAE_NO_CUDA": "1", "SPAE_REQUIRE_EXT": "1", "MAX_JOBS": "2"}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    with LOG.open("w") as log:
        return subprocess.run(command, cwd=TREE, env=environment, stdout=log, stderr=log).returncode == 0


def run_tests(*chosen: str) -> str:
    """Of files of tests, or some of them, the first that fails; empty if none does."""
    environment = os.environ | {
        "PYTHONPATH": str(TREE),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    options = ["-q", "-x", "--tb=line", "-p", "no:cacheprovider", *chosen]
    command = [sys.executable, "-X", "faulthandler", "-m", "pytest", *options]
    try:
        result = subprocess.run(
            command, cwd=TREE, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        return f"{chosen[0]} runs longer than {TIME_LIMIT} s"
    (FOLDER / "tests.log").write_text(result.stdout + result.stderr)
    if result.returncode == 0:
        return ""
    if failed := re.search(r"^FAILED (\S+?::\S+)", result.stdout, re.MULTILINE):
        return failed[1]
    crashed = re.search(r'File ".*?", line \d+ in (test_\w+)', result.stderr)
    if result.returncode < 0 and crashed:
        return f"{chosen[0].partition('::')[0]}::{crashed[1]} (ends by signal {-result.returncode})"
    return NO_BUILD  # an error in a fixture or in collection is no verdict on the mutant


def is_explained(mutant: Mutant, verdict: str) -> bool:
    return bool(mutant.survives) if verdict == SURVIVED else verdict not in (NOT_RUN, NO_BUILD)


def write_table(verdicts: dict[str, Any]) -> None:
    found = [(m, verdict_of(m, verdicts)) for m in MUTANTS]
    ran = [(m, verdict) for m, verdict in found if verdict != NOT_RUN]
    killed = [m for m, verdict in ran if verdict not in (SURVIVED, NO_BUILD)]
    lines = [
        "# Mutants of the exact lookup and of the truncated cross-entropy",
        "",
        f"`make mutants`: of {len(found)} mutants {len(ran)} ran and {len(killed)} were killed. Each is one change to the "
        "source (`tests/mutants/catalogue.py`); what kills it is the first test that fails. Dates in brackets: a file of "
        "tests, or what they share, has changed since in some line.",
        "",
        "| mutant | file | killed by | on |",
        "|---|---|---|---|",
    ]
    for mutant, verdict in found:
        if verdict in (SURVIVED, NOT_RUN, NO_BUILD):
            said = f"**{verdict}** {mutant.survives}".strip()
        else:
            test, _, how = verdict.rpartition("::")[2].partition(" ")
            said = f"`{test}` {how}".strip()
        known = verdicts.get(mutant.name, {"date": "", "sources": ""})
        on = known["date"] if known["sources"] == sources_of(mutant) else f"({known['date']})"
        lines.append(f"| {mutant.name} | {Path(mutant.file).name} | {said} | {on} |")
    VERDICTS.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
