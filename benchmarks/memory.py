"""Memory per task: what learning keeps for each, what each compiled chunk needs, and what a process really takes.

    python benchmarks/memory.py --out results/memory/memory.json [--tasks 1 16 64] [--run 64]

The default settings for locomotion, half-cheetah's dimensions, 50 episodes of 200 steps per task, one seed.

`arrays`   bytes of what is kept per task: logs, indices of the split, model, learner, imagined transitions
`chunks`   per stage what the compiler says of its chunk, arguments + results - shared buffers + temporaries
`run`      peak resident memory of a process that meta-trains on `--run` tasks with made-up logs, through all stages but
           with few steps in each (how many does not change the memory); `loaded_bytes` is before, with the logs
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from standard import CHEETAH, chunks, data_shapes

from merpo import MerPO, SetInfo, TaskData, TaskSet, Transitions
from merpo.algorithms import merpo
from merpo.algorithms.presets import STANDARD
from merpo.dynamics.ensemble import POOL_CHUNK, Ensemble
from merpo.files import write_atomic
from merpo.runs import versions

LIMIT = 8 * 2**30
"""Bytes that 64 tasks must fit into."""


def size(tree: Any) -> int:
    """Bytes of all leaves."""
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def arrays(tasks: int) -> dict[str, int]:
    """Bytes kept for `tasks` tasks, by what they hold."""
    batch = data_shapes(tasks)

    def learning() -> Any:
        z = jnp.zeros((tasks, STANDARD.context), jnp.float32)
        return merpo.init_meta(jax.random.split(jax.random.key(0), 1), z, CHEETAH.obs, CHEETAH.act, STANDARD)

    state = eqx.filter_eval_shape(learning)
    model = eqx.filter_eval_shape(lambda: Ensemble.init(jax.random.key(0), CHEETAH.obs, CHEETAH.act, STANDARD.dynamics))
    return {
        "logs": size(batch.stacked),
        "indices": size(batch.rows),
        "models": tasks * size(model),
        "learners": size(state.learners),
        "imagined": size(state.rings),
        "shared by the tasks": size(state.metas) + size(model),
    }


def of_chunks(tasks: int) -> dict[str, dict[str, int]]:
    """What the compiler says that each chunk needs, in bytes."""
    found = {}
    for name, lower in chunks(tasks).items():
        need = lower().compile().memory_analysis()
        parts = {
            "arguments": need.argument_size_in_bytes,
            "results": need.output_size_in_bytes,
            "shared": need.alias_size_in_bytes,
            "temporaries": need.temp_size_in_bytes,
        }
        parts["peak"] = parts["arguments"] + parts["results"] - parts["shared"] + parts["temporaries"]
        found[name] = {k: int(v) for k, v in parts.items()}
    return found


def logs(tasks: int) -> TaskSet:
    """Made-up logs of half-cheetah's size: stable linear systems that an action pushes."""
    rng = np.random.default_rng(0)
    ends = np.tile(np.arange(CHEETAH.horizon) == CHEETAH.horizon - 1, CHEETAH.episodes)
    start = np.arange(CHEETAH.episodes + 1) * CHEETAH.horizon

    def task(i: int) -> TaskData:
        push = rng.normal(size=(CHEETAH.act, CHEETAH.obs)) / np.sqrt(CHEETAH.act)
        obs, action = rng.normal(size=(CHEETAH.rows, CHEETAH.obs)), rng.uniform(-1, 1, (CHEETAH.rows, CHEETAH.act))
        after = 0.9 * obs + 0.1 * action @ push
        s, a, r, following = (x.astype(np.float32) for x in (obs, action, after[:, 0], after))
        return TaskData(
            f"task-{i:03d}", "train", Transitions(s, a, r, following, np.zeros(CHEETAH.rows, bool), ends), start
        )

    info = SetInfo("made-up", 1, "imported", CHEETAH.obs, CHEETAH.act, gamma=0.99, horizon=CHEETAH.horizon)
    return TaskSet(info, tuple(task(i) for i in range(tasks)))


def resident_peak() -> int:
    """Most resident memory that this process has had, in bytes; what `getrusage` says begins with the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(tasks: int, updates: int) -> dict[str, float]:
    """Meta-train in this process; peak resident memory before and after, and the time."""
    data = logs(tasks)
    before = resident_peak()
    dynamics = replace(
        STANDARD.dynamics, pool_steps=POOL_CHUNK, meta_iterations=1, inner_steps=5, adapt_steps=10, check_every=5
    )
    rac = replace(STANDARD.rac, imagine_every=updates)
    config = replace(STANDARD, rac=rac, dynamics=dynamics, train_updates=2 * updates, adapt_updates=updates)
    begin = time.perf_counter()
    MerPO(config, seed=0).fit(data)
    seconds = time.perf_counter() - begin
    return {"tasks": tasks, "loaded_bytes": before, "peak_bytes": resident_peak(), "seconds": seconds}


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--run", type=int, nargs="+", default=[64], help="tasks to run with; 0 for none")
    parser.add_argument("--updates", type=int, default=10, help="updates per round of the run; two rounds")
    parser.add_argument("--here", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here is not None:
        print(json.dumps(run(options.here, options.updates)))
        return

    rows = []
    for tasks in options.tasks:
        kept, need = arrays(tasks), of_chunks(tasks)
        rows.append({"tasks": tasks, "arrays": kept, "chunks": need})
        print(f"{tasks} tasks: {sum(kept.values()) / 1e6:.0f} MB kept", kept)
        for name, parts in need.items():
            print(f"  {name:<18} {parts['peak'] / 1e6:9.1f} MB, {parts['peak'] / 1e6 / tasks:8.2f} per task", parts)
    runs = []
    for tasks in filter(None, options.run):
        command = [sys.executable, __file__, "--here", str(tasks), "--updates", str(options.updates)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        runs.append(found | {"fits": found["peak_bytes"] < LIMIT})
        print(f"run of {tasks} tasks: {found['peak_bytes'] / 2**30:.2f} GiB peak in {found['seconds']:.0f} s")
    if options.out:
        write_atomic(options.out, json.dumps({"sizes": rows, "runs": runs, "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
