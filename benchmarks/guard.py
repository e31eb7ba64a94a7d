"""The guard: ratios within one run against floors kept in a file, so that a slower release does not pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import report

FLOORS = Path(__file__).parent / "floors.json"


def failures(results: dict[str, Any], floors: Path) -> list[str]:
    """Why a run does not pass; empty if it does.

    A floor is {"codebook", "queries", "kind", "ratio"} under its question and device: the least that the
    fastest peer's median over ours may be. Floors for what the run did not measure are left aside; a run
    that meets none fails, since it guards nothing.
    """
    wanted = json.loads(floors.read_text()).get(results["question"], {}).get(results["device"], [])
    groups = report.grouped(results["rows"])
    reasons, met = [], 0
    for floor in wanted:
        rows = groups.get((floor["kind"], floor["queries"]))
        if floor["codebook"] != results["codebook"] or rows is None:
            continue
        met += 1
        ratio = report.ratio(rows)
        case = f"{floor['codebook']}, {floor['queries']} {floor['kind']} queries"
        if ratio is None:
            reasons.append(f"{case}: one of ours and one peer are needed for a ratio")
        elif ratio < floor["ratio"]:
            reasons.append(f"{case}: fastest peer / ours is {ratio:.2f}, the floor is {floor['ratio']}")
    return reasons if met else [f"no floor in {floors.name} applies to this run"]
