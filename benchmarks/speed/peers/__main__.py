"""Measures one adapter: `python -m benchmarks.speed.peers <adapter> <folder of checkouts> <file of the rows>`."""

import importlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path


def main(adapter: str, checkouts: str, out: str) -> None:
    """Write the rows of the adapter as JSON."""
    if os.environ.get("REGVIT_PEER"):
        sys.path.append(os.environ["REGVIT_PEER"])  # behind what is installed
    rows = importlib.import_module(f"benchmarks.speed.peers.{adapter}").rows(Path(checkouts))
    Path(out).write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
