"""What saving the state of meta-training costs: bytes, seconds to save and to take up, by number of tasks.

    python benchmarks/checkpoint_cost.py --out results/resume/cost.json

The state is that of the default settings for locomotion (17 observations, 6 actions, 20,000 imagined transitions per
task), filled with random numbers. `share` is what saving takes of the time at one save a minute; where it would be more
than 2 %, merpo saves less often.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from merpo.algorithms import merpo
from merpo.algorithms.presets import STANDARD
from merpo.runs import Checkpoints, versions, write_atomic


def state(tasks: int) -> Any:
    """A state of one seed's meta-training, filled with random numbers."""

    def make() -> Any:
        z = jnp.zeros((tasks, STANDARD.context), jnp.float32)
        return merpo.init_meta(jax.random.split(jax.random.key(0), 1), z, 17, 6, STANDARD)

    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(x.dtype) if x.dtype == jnp.float32 else np.zeros(x.shape, x.dtype),
        eqx.filter_eval_shape(make),
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/resume/cost.json"))
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 16, 64])
    options = parser.parse_args()
    rows = []
    for tasks in options.tasks:
        tree = state(tasks)
        size = sum(x.nbytes for x in jax.tree.leaves(tree))
        rings = sum(x.nbytes for x in jax.tree.leaves(tree.rings))
        with tempfile.TemporaryDirectory() as folder:
            states = Checkpoints(folder)
            with states.of({"tasks": tasks}):
                busy = time.process_time()
                states.save("meta-training", 1, tree)
                states.save("meta-training", 2, tree)
                busy = (time.process_time() - busy) / 2
                begin = time.perf_counter()
                states.load("meta-training", lambda done, tree=tree: tree)  # type: ignore[misc]
                load = time.perf_counter() - begin
        save = states.spent / 2
        row = {
            "tasks": tasks,
            "MB": size / 1e6,
            "MB_imagined": rings / 1e6,
            "save_s": save,
            "save_cpu_s": busy,
            "load_s": load,
        }
        rows.append({**{k: round(v, 3) for k, v in row.items()}, "share": round(save / (60.0 + save), 5)})
        print(rows[-1], flush=True)
    write_atomic(options.out, json.dumps({"rows": rows, "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
