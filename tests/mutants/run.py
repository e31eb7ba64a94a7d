"""The mutation run, `make mutants`: applies every mutant of catalogue.py to a copy of the tree, rebuilds what it needs and
runs the tests named with it, which must fail. Writes results/mutants.md.

One mutant after another at low priority; half an hour or so on two cores. `--only` takes parts of names, `--resume`
keeps the verdicts of the run before, and `--table` writes the table from what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from catalogue import FILES, MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build/mutants"
TREE, VERDICTS, LOG = FOLDER / "tree", FOLDER / "verdicts.json", FOLDER / "log"
TABLE = ROOT / "results/mutants.md"
TIME_LIMIT = 1800


def main() -> int:
    parser = argparse.ArgumentParser(description="Applies mutants and runs the tests that must fail.")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of mutants; default all")
    parser.add_argument("--resume", action="store_true", help="keep the verdicts of the last run")
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    check_list()
    verdicts = json.loads(VERDICTS.read_text()) if VERDICTS.exists() else {}
    if not (arguments.resume or arguments.table or arguments.only):
        verdicts = {}
    if not arguments.table:
        chosen = [m for m in MUTANTS if not arguments.only or any(part in m.name for part in arguments.only)]
        chosen = [m for m in chosen if not (arguments.resume and m.name in verdicts)]
        copy_tree()
        check_unchanged({name for mutant in chosen for name in mutant.tests})
        last = ""
        for mutant in chosen:
            verdicts[mutant.name] = verdict = judge(mutant, rebuild=is_built(mutant.file) or is_built(last))
            last = mutant.file
            VERDICTS.write_text(json.dumps(verdicts, indent=1))
            print(f"{mutant.name}: {verdict}", flush=True)
    write_table(verdicts)
    return sum(not is_explained(m, verdicts.get(m.name, "not run")) for m in MUTANTS)


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


def check_unchanged(names: set[str]) -> None:
    """The tests pass where nothing is changed.

    Raises:
        RuntimeError: one fails.
    """
    for name in sorted(names):
        if failed := run_tests(name):
            raise RuntimeError(
                f"{failed} of {FILES[name]} fails without a mutant, see {FOLDER / 'tests.log'}"
            )


def judge(mutant: Mutant, rebuild: bool) -> str:
    """Applies the mutant, and takes it back: what kills it, or "survived"."""
    file = TREE / mutant.file
    text = file.read_text()
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        if rebuild and not build():
            return "does not build"
        return next(filter(None, map(run_tests, mutant.tests)), "survived")
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


def run_tests(name: str) -> str:
    """The first test of a file that fails; empty if none does."""
    environment = os.environ | {
        "PYTHONPATH": str(TREE),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    options = ["-q", "-x", "--tb=line", "-p", "no:cacheprovider", FILES[name]]
    command = [sys.executable, "-X", "faulthandler", "-m", "pytest", *options]
    try:
        result = subprocess.run(
            command, cwd=TREE, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        return f"{FILES[name]} runs longer than {TIME_LIMIT} s"
    (FOLDER / "tests.log").write_text(result.stdout + result.stderr)
    if result.returncode == 0:
        return ""
    failed = re.search(r"^FAILED \S+?::(\S+)", result.stdout, re.MULTILINE)
    if failed:
        return failed[1]
    crashed = re.search(r'File ".*?", line \d+ in (test_\w+)', result.stderr)
    if result.returncode < 0 and crashed:
        return f"{crashed[1]} (ends by signal {-result.returncode})"
    return "does not build"  # an error in a fixture or in collection is no verdict on the mutant


def is_explained(mutant: Mutant, verdict: str) -> bool:
    return bool(mutant.survives) if verdict == "survived" else verdict not in ("not run", "does not build")


def write_table(verdicts: dict[str, str]) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    found = [(m, verdicts.get(m.name, "not run")) for m in MUTANTS]
    ran = [(m, verdict) for m, verdict in found if verdict != "not run"]
    killed = [m for m, verdict in ran if verdict not in ("survived", "does not build")]
    lines = [
        "# Mutants of the exact lookup",
        "",
        f"`make mutants` at {commit.stdout.strip()}, {time.strftime('%Y-%m-%d')}: of {len(found)} mutants {len(ran)} ran and "
        f"{len(killed)} were killed. Each is one change to the source (`tests/mutants/catalogue.py`); what kills it is the "
        "first test that fails. A run may be in parts (`--only`, `--resume`): a verdict is that of the mutant's last run.",
        "",
        "| mutant | file | killed by |",
        "|---|---|---|",
    ]
    for mutant, verdict in found:
        if verdict in ("survived", "not run", "does not build"):
            verdict = f"**{verdict}** {mutant.survives}".strip()
        else:
            verdict = f"`{verdict}`"
        lines.append(f"| {mutant.name} | {Path(mutant.file).name} | {verdict} |")
    TABLE.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
