"""`python -m spae_ops.admission`: examines an implementation; prints a line of JSON for each family of ops.

It ends after the first family that leaves the device in doubt.
"""

from __future__ import annotations

import argparse
import json
import sys

import torch

from spae_ops._dispatch import TABLES
from spae_ops.admission import verdicts
from spae_ops.admission.examine import EXAMINATIONS, examine
from spae_ops.admission.verdicts import UNKNOWN


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spae_ops.admission", description=__doc__)
    parser.add_argument("families", nargs="+", choices=sorted(EXAMINATIONS), help="families of ops")
    parser.add_argument("--impl", required=True, help="the implementation")
    parser.add_argument("--device", default="cuda", help="default: the current CUDA device")
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "float16", "bfloat16"), help="of codes"
    )
    parser.add_argument("--width", type=int, default=576, help="of codes")
    given = parser.parse_args(arguments)
    device, dtype = torch.device(given.device), getattr(torch, given.dtype)
    # Fails here, without a verdict, if the device is of no use at all.
    torch.zeros(1, device=device)
    for family in given.families:
        report = {"family": family, "outcome": UNKNOWN, "environment": None}
        implementation, reason = TABLES[family].load(given.impl, device)
        if implementation is None or reason is not None:
            print(json.dumps({**report, "detail": f"cannot run: {reason}"}), flush=True)
            continue
        finding = examine(family, implementation, device, dtype, given.width)
        report |= {"outcome": finding.outcome, "detail": finding.detail}
        report["environment"] = verdicts.environment(device, given.impl) if device.type == "cuda" else None
        print(json.dumps(report), flush=True)
        if finding.in_doubt:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
