"""The guard: ratios within one run against floors kept in a file, so that a slower release does not pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import report

FLOORS = Path(__file__).parent / "floors.json"


def failures(question: report.Reading, results: dict[str, Any], floors: Path) -> list[str]:
    """Why a run does not pass; empty if it does.

    A floor is {"codebook", "ratio"} and the labels of a case, under its question and device: the least that
    the question's ratio of that case may be (unless the question says otherwise, the fastest peer's median
    over ours). Floors for what the run did not measure are left aside; a run that meets none fails, since it
    guards nothing.
    """
    wanted = json.loads(floors.read_text()).get(question.name, {}).get(results["device"], [])
    groups = report.grouped(question, results["rows"])
    reasons, met = [], 0
    for floor in wanted:
        labels = {name: floor.get(name) for name in question.labels}
        rows = next((rows for found, rows in groups if found == labels), None)
        if floor["codebook"] != results["codebook"] or rows is None:
            continue
        met += 1
        ratio = question.ratio(rows)
        case = f"{floor['codebook']}, {question.case_title(labels)}"
        if ratio is None:
            reasons.append(f"{case}: who is needed for a ratio did not run")
        elif ratio < floor["ratio"]:
            reasons.append(f"{case}: the ratio is {ratio:.2f}, the floor is {floor['ratio']}")
    return reasons if met else [f"no floor in {floors.name} applies to this run"]
