"""On how many test tasks of a study MerPO is at or above both of its anchors, the logged behaviour and the meta-policy.

    python benchmarks/both_anchors.py RUN [--out results/STUDY]

RUN is the folder of `merpo bench` with cells of merpo and of meta-policy. Per family and quality: the share of tasks on
which the mean over seeds is at or above each anchor and above both, and the share on which it is in every single seed.
Written are anchors.json and anchors.md.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from merpo.files import write_atomic

COLUMNS = ("behaviour", "meta-policy", "both", "both, in every seed")


def shares(folder: Path) -> dict[str, dict[str, float]]:
    """The figures of every family and quality."""
    found: dict[tuple[str, str], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((folder / "cells").glob("*.json")):
        cell = json.loads(path.read_bytes())
        if "identity" not in cell or cell["identity"]["method"] not in ("merpo", "meta-policy"):
            continue
        known = cell["identity"]
        group = found[(known["family"], known["quality"])]
        group[known["method"]].append((known["seed"], cell["mean"]))
        group["behaviour"] = [cell["behaviour"]]
    table = {}
    for (family, quality), group in sorted(found.items()):
        mine, meta = (np.asarray([mean for _, mean in sorted(group[m])]) for m in ("merpo", "meta-policy"))
        if mine.shape != meta.shape:
            raise SystemExit(f"{family}/{quality}: merpo and meta-policy have not the same seeds")
        data = np.asarray(group["behaviour"])
        above, over = mine.mean(0) >= data[0], mine.mean(0) >= meta.mean(0)
        each = ((mine >= data) & (mine >= meta)).all(0)
        values = (above.mean(), over.mean(), (above & over).mean(), each.mean())
        table[f"{family}/{quality}"] = {
            **dict(zip(COLUMNS, map(float, values), strict=True)), "tasks": mine.shape[1], "seeds": len(mine),
        }  # fmt: skip
    return table


def markdown(table: dict[str, dict[str, float]]) -> str:
    """The table for people."""
    lines = [
        "Share of test tasks on which MerPO's return, mean over seeds, is at or above that of",
        "",
        f"| data | tasks | seeds | {' | '.join(COLUMNS)} |",
        f"|:---|---:|---:|{'---:|' * len(COLUMNS)}",
    ]
    for name, row in table.items():
        cells = [f"{row[c]:.0%}" for c in COLUMNS]
        lines.append(f"| {name} | {row['tasks']} | {row['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read, print, write."""
    parser = argparse.ArgumentParser(description="MerPO beside both of its anchors.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table = shares(options.run)
    print(markdown(table))
    if options.out:
        write_atomic(options.out / "anchors.json", json.dumps(table, indent=1) + "\n")
        write_atomic(options.out / "anchors.md", markdown(table))


if __name__ == "__main__":
    main()
