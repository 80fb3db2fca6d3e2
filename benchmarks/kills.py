"""Kill `merpo train --resume` at random moments and compare what is left in the end with an undisturbed run.

    python benchmarks/kills.py --kills 50 --out results/resume/kills.json

Three kinds of moment take turns: `any` (uniform over a process's life, its start included), `learning` (uniform over
half a life after the process's first save), `writing` (as soon as the temporary file of the n-th write is seen, n drawn
from 1 to 20; where the file is still there afterwards, the write was cut short). Life is counted in processor seconds,
so that other work on the machine does not shift the moments. A small run: 40 tasks, 30 rounds of meta-training, state
saved after every round.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from merpo.runs import versions, write_atomic

SETTINGS = {
    "train_updates": 300, "meta_every": 10, "meta_steps": 1, "group": 40, "tasks_per_iteration": 10,
    "rac": {
        "actor_hidden": [16], "critic_hidden": [16], "batch": 32, "rollout_length": 1, "rollout_rows": 20,
        "imagine_every": 10, "buffer": 2000,
    },
    "dynamics": {
        "hidden": [16], "members": 2, "elites": 1, "batch": 32, "meta_iterations": 30, "inner_steps": 2,
        "adapt_steps": 50, "check_every": 25, "group": 40,
    },
}  # fmt: skip
RESULTS = ("checkpoint.safetensors", "metrics.jsonl", "curves/train.safetensors", "config.json")
KINDS = ("any", "learning", "writing")


def command(folder: Path, *more: str) -> list[str]:
    """The command line of a run in `folder`."""
    set_name = ("point-robot-wind/medium", "--episodes", "10", "--seed", "0")
    config = ("--config", str(folder.parent / "settings.json"))
    return [sys.executable, "-m", "merpo.cli", "train", *set_name, *config, "--out", str(folder), *more]


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of what a finished run leaves."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in RESULTS}


def temporaries(folder: Path) -> set[str]:
    """Temporary files of writes in a run folder."""
    found = set()
    for place in (folder, folder / "resume", folder / "curves"):
        try:
            found |= {f"{place.name}/{e.name}" for e in os.scandir(place) if e.name.endswith(".tmp")}
        except OSError:
            continue
    return found


def changed(folder: Path) -> set[tuple[str, int]]:
    """The saved states with their times."""
    try:
        return {(e.name, e.stat().st_mtime_ns) for e in os.scandir(folder / "resume") if e.name[-1] == "s"}
    except OSError:
        return set()


def stage(folder: Path) -> str:
    """How far a run is, by the files in its folder."""
    if (folder / "run.json").exists():
        return "finished, clearing up"
    if (folder / "checkpoint.safetensors").exists():
        return "writing the result"
    names = {p.stem.rstrip("-0123456789") for p in (folder / "resume").glob("*.safetensors")}
    order = ("meta-training", "models", "meta-model")
    return next((n for n in order if n in names), "before the first save")


def busy(process: subprocess.Popen[Any]) -> float:
    """Processor seconds that a process has used."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_moment(process: subprocess.Popen[Any], folder: Path, kind: str, life: float, rng: random.Random) -> None:
    """Return when it is time to kill, or when the process has ended."""
    before, old = changed(folder), temporaries(folder)
    after = rng.uniform(0.0, life if kind == "any" else 0.5 * life)
    writes, seen = rng.randrange(1, 21), set(old)
    first = 0.0
    while process.poll() is None:
        if kind == "any" and busy(process) >= after:
            return
        if kind == "learning":
            first = first or (busy(process) if changed(folder) != before else 0.0)
            if first and busy(process) - first >= after:
                return
        if kind == "writing":
            fresh = temporaries(folder) - seen
            seen |= fresh
            if fresh and len(seen) - len(old) >= writes:
                return
        time.sleep(0.001 if kind == "writing" else 0.01)


def one_life(folder: Path, kind: str, life: float, rng: random.Random) -> dict[str, Any] | None:
    """Start or go on with a run and kill it; None if it ended before the kill."""
    with open(folder.parent / "log.txt", "ab") as log:
        process = subprocess.Popen(command(folder, "--resume", "--checkpoint-every", "0"), stdout=log, stderr=log)
    wait_for_moment(process, folder, kind, life, rng)
    used = busy(process)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    code = process.wait()
    if code == -signal.SIGKILL:
        cut = sorted(name.split(".")[1] for name in temporaries(folder))
        return {"kind": kind, "after_cpu_s": round(used, 2), "stage": stage(folder), "cut": cut}
    if code:
        raise RuntimeError(f"a resumed run failed with status {code}; see {folder.parent / 'log.txt'}")
    return None


def children() -> float:
    """Processor seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def workplace(name: str) -> Path:
    """A new folder with the data and the compiled functions of what is run in it, so that lives are short."""
    work = Path(tempfile.mkdtemp(prefix=f"merpo-{name}-"))
    os.environ |= {
        "MERPO_DATA_DIR": str(work / "data"),
        "JAX_COMPILATION_CACHE_DIR": str(work / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return work


def undisturbed(
    work: Path, command: Callable[..., list[str]], hashes: Callable[[Path], dict[str, str]]
) -> tuple[dict[str, str], float]:
    """What an undisturbed run leaves, and its life in processor seconds once all functions are compiled."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "check": True}
    subprocess.run(command(work / "undisturbed"), **quiet)
    expected = hashes(work / "undisturbed")
    begin = children()
    subprocess.run(command(work / "timed"), **quiet)
    life = children() - begin
    assert hashes(work / "timed") == expected, "two undisturbed runs differ"
    return expected, life


def killed_often(
    count: int, work: Path, one_life: Callable[[Path, int | None], dict[str, Any] | None], same: Callable[[Path], bool]
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Kills and runs so far, after every life: `count` kills, and the last run seen through to its end.

    `one_life(folder, i)` lives until the i-th kill (None: to the end) and returns what there is to say of the kill, or
    None for a run that is whole; `same(folder)` compares it with the undisturbed one.
    """
    kills: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    while len(kills) < count or runs[-1]["identical"] is None:
        if not runs or runs[-1]["identical"] is not None:
            runs.append({"kills": 0, "identical": None})
        folder = work / f"run-{len(runs)}"
        kill = one_life(folder, len(kills) if len(kills) < count else None)
        if kill is None:
            runs[-1]["identical"] = same(folder)
            shutil.rmtree(folder)
        else:
            kills.append(kill)
            runs[-1]["kills"] += 1
        print(f"{len(kills)} kills, {len(runs)} runs: {kill or runs[-1]}", flush=True)
        yield kills, runs


def main() -> None:
    """Run the kills and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/resume/kills.json"))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    work = workplace("kills")
    (work / "settings.json").write_text(json.dumps(SETTINGS))
    expected, life = undisturbed(work, command, hashes)

    def live(folder: Path, i: int | None) -> dict[str, Any] | None:
        return one_life(folder, "any", 1e9, rng) if i is None else one_life(folder, KINDS[i % 3], life, rng)

    for kills, runs in killed_often(options.kills, work, live, lambda folder: hashes(folder) == expected):
        finished = [r for r in runs if r["identical"] is not None]
        summary = {
            "kills": len(kills),
            "kills_by_moment": dict(Counter(k["kind"] for k in kills)),
            "kills_by_stage": dict(Counter(k["stage"] for k in kills)),
            "writes_cut_short": dict(Counter(name for k in kills for name in k["cut"])),
            "runs_finished": len(finished),
            "runs_identical": sum(r["identical"] for r in finished),
            "undisturbed_cpu_s": round(life, 2),
        }
        content = {"summary": summary, "runs": runs, "kills": kills, "compared": RESULTS, "versions": versions()}
        write_atomic(options.out, json.dumps(content, indent=1) + "\n")
    shutil.rmtree(work)
    print(json.dumps(summary, indent=1))
    assert all(r["identical"] for r in runs), "a resumed run differs from the undisturbed one"


if __name__ == "__main__":
    main()
