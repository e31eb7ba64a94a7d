"""The guard: ratios within one run against floors kept in a file, so that a slower release does not pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import report

FLOORS = Path(__file__).parent / "floors.json"


def failures(question: report.Reading, results: dict[str, Any], floors: Path) -> list[str]:
    """Why a run does not pass; empty if it does.

    A floor is {"ratio"}, the labels of a case, and what else the record must say ("codebook" at the least),
    under its question and device. The ratio is the least that the question's ratio of that case may be
    (unless the question says otherwise, the fastest peer's median over ours): a number, or one for each set
    of instructions that it is known to hold for. Floors for what the run did not measure, or for other sets
    than the record's, are left aside; a run that meets none fails, since it guards nothing.
    """
    instructions = results.get("instructions")
    wanted = json.loads(floors.read_text()).get(question.name, {}).get(results["device"], [])
    groups = report.grouped(question, results["rows"])
    reasons, met = [], 0
    for floor in wanted:
        labels = {name: floor.get(name) for name in question.labels}
        rows = next((rows for found, rows in groups if found == labels), None)
        least = floor["ratio"].get(instructions) if isinstance(floor["ratio"], dict) else floor["ratio"]
        facts = floor.keys() - {*question.labels, "ratio"}
        if rows is None or least is None or any(floor[name] != results.get(name) for name in facts):
            continue
        met += 1
        ratio = question.ratio(rows)
        case = f"{floor['codebook']}, {question.case_title(labels)}"
        if ratio is None:
            reasons.append(f"{case}: who is needed for a ratio did not run")
        elif ratio < least:
            reasons.append(f"{case}: the ratio is {ratio:.2f}, the floor is {least}")
    by = f" by {instructions}" if instructions else ""
    return reasons if met else [f"no floor in {floors.name} applies to this run{by}"]
