#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Merges the JSON lists that the benchmark executables wrote into one list, and prints it as a table.

An entry is {name, ours, peer_name, peer, unit, ratio}; the peer's fields may be null or absent.
"""

import argparse
import json
from pathlib import Path


def number(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, (int, float)) else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the *.json files")
    parser.add_argument("--json", type=Path, help="write the merged list here")
    args = parser.parse_args()

    results = []
    for file in sorted(args.folder.glob("*.json")):
        results += json.loads(file.read_text())
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    if not results:
        return
    rows = [("benchmark", "ours", "peer", "unit", "ratio", "peer name")]
    rows += [(r["name"], number(r.get("ours")), number(r.get("peer")), r.get("unit") or "", number(r.get("ratio")),
              r.get("peer_name") or "") for r in results]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    for row in rows:
        cells = [row[i].rjust(widths[i]) if i in (1, 2, 4) else row[i].ljust(widths[i]) for i in range(6)]
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    main()
