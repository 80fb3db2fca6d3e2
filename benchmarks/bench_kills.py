"""Kill `merpo bench` at random moments, go on, and compare every result with those of an undisturbed run, byte by byte.

    python benchmarks/bench_kills.py --kills 20 --out results/bench/kills.json

A tiny grid: two families, four methods, two seeds; the state is saved after every round. Moments are uniform over a
process's life in processor seconds, its start included, so that other work on the machine does not shift them. Where
Ray is installed, a run on a local cluster of two workers is compared as well.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kills import busy, killed_often, undisturbed, workplace

from merpo.files import write_atomic
from merpo.runs import versions

STUDY = """
name = "kills"
families = ["point-robot-wind", "point-robot-goal"]
qualities = ["medium"]
methods = ["bc", "focal", "rac", "merpo"]
seeds = [0, 1]
episodes = 4
train_tasks = 6
test_tasks = 3
train_updates = 60
adapt_updates = 60
bc_updates = 20
[settings.merpo]
meta_every = 10
meta_steps = 1
group = 3
tasks_per_iteration = 6
rac = { actor_hidden = [8], critic_hidden = [8], batch = 8, rollout_length = 1, rollout_rows = 10, imagine_every = 10, buffer = 100 }
[settings.merpo.dynamics]
hidden = [8]
members = 2
elites = 1
batch = 8
pool_steps = 100
meta_iterations = 6
inner_steps = 1
adapt_steps = 10
check_every = 5
group = 3
"""  # noqa: E501
PATTERNS = ("cells/*.json", "stages/*.safetensors", "results.json", "table.md", "figure.png")


def command(folder: Path, *more: str) -> list[str]:
    """The command line that runs the study in `folder`, and goes on with it."""
    study = str(folder.parent / "kills.toml")
    return [sys.executable, "-m", "merpo.cli", "bench", study, "--out", str(folder), "--checkpoint-every", "0", *more]


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of all that a study leaves but its times."""
    paths = sorted(p for pattern in PATTERNS for p in folder.glob(pattern) if not p.name.endswith(".time.json"))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def finished(folder: Path) -> dict[str, int]:
    """The cells and meta-trainings that are there, with the time of their last change."""
    paths = [*(folder / "cells").glob("*.json"), *(folder / "stages").glob("*.safetensors")]
    return {p.name: p.stat().st_mtime_ns for p in paths if not p.name.endswith(".time.json")}


def one_life(folder: Path, after: float) -> dict[str, Any] | None:
    """Start or go on, and kill after so many processor seconds; None if it ended before."""
    before = finished(folder)
    with open(folder.parent / "log.txt", "ab") as log:
        process = subprocess.Popen(command(folder), stdout=log, stderr=log)
    while process.poll() is None and busy(process) < after:
        time.sleep(0.01)
    used = busy(process)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    code = process.wait()
    now = finished(folder)
    if repeated := [name for name, when in before.items() if now.get(name) != when]:
        raise AssertionError(f"repeated or lost after a kill: {repeated}")
    if code == -signal.SIGKILL:
        work = "in a cell or meta-training" if any((folder / "work").glob("*")) else "between them, or at the start"
        return {"after_cpu_s": round(used, 2), "finished": len(now), "new": len(now) - len(before), "moment": work}
    if code:
        raise RuntimeError(f"a resumed run failed with status {code}; see {folder.parent / 'log.txt'}")
    return None


def main() -> None:
    """Run the kills and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/bench/kills.json"))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    work = workplace("bench-kills")
    (work / "kills.toml").write_text(STUDY)
    expected, life = undisturbed(work, command, hashes)

    def live(folder: Path, i: int | None) -> dict[str, Any] | None:
        return one_life(folder, 1e9 if i is None else rng.uniform(0.0, life))

    *_, (kills, runs) = killed_often(options.kills, work, live, lambda folder: hashes(folder) == expected)
    on_ray = None
    if importlib.util.find_spec("ray"):
        subprocess.run(command(work / "ray", "--workers", "2"), stdout=subprocess.DEVNULL, check=True)
        on_ray = hashes(work / "ray") == expected
    summary = {
        "kills": len(kills),
        "kills_by_moment": dict(Counter(k["moment"] for k in kills)),
        "runs": len(runs),
        "runs_identical": sum(r["identical"] for r in runs),
        "files_compared": len(expected),
        "ray_with_two_workers_identical": on_ray,
        "repeated_or_lost": 0,  # else one_life has raised
        "undisturbed_cpu_s": round(life, 2),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"summary": summary, "runs": runs, "kills": kills, "compared": PATTERNS, "versions": versions()}
    write_atomic(options.out, json.dumps(content, indent=1) + "\n")
    shutil.rmtree(work)
    print(json.dumps(summary, indent=1))
    assert on_ray is not False, "a run on Ray differs from the undisturbed one"
    assert all(r["identical"] for r in runs), "a resumed run differs from the undisturbed one"


if __name__ == "__main__":
    main()
