"""What the optimisation level of XLA's CPU backend costs in compilation and gives in speed.

    python benchmarks/compilation_level.py [--levels 0 1 2 3] [--repeats 4] [--out results/compile/level.json]

The two large chunks, one round of them for two tasks, with the default settings for small systems and for locomotion
(the latter in half-cheetah's dimensions), are traced once and compiled with every level; XLA's own is 3. Then all are
run in turns, and the fastest of the repeats counts. CPU seconds: other work on the machine lengthens them less than the
clock's. No cache is used.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from standard import CHEETAH, POINT_ROBOT, Shapes, arrays, chunks

from merpo.compilation import LIGHT
from merpo.files import write_atomic
from merpo.runs import versions

(LEVEL,) = LIGHT
TASKS = 2


def measure(shapes: Shapes, chunk: str, levels: list[int], repeats: int) -> list[dict[str, Any]]:
    """One row per level."""
    given = arrays(TASKS, shapes)[chunk]
    lowered, updates = chunks(TASKS, shapes)[chunk](), shapes.config.rac.imagine_every
    made: dict[int, Callable[..., Any]] = {}
    compiling: dict[int, float] = {}
    running = dict.fromkeys(levels, float("inf"))
    for level in levels:
        begun = time.process_time()
        made[level] = lowered.compile(compiler_options={LEVEL: level})
        compiling[level] = time.process_time() - begun
    for _ in range(repeats):
        for level in levels:
            own = jax.tree.map(lambda x: jnp.copy(x) if eqx.is_array(x) else x, given)  # the chunk keeps what it gets
            jax.block_until_ready(own)
            begun = time.process_time()
            jax.block_until_ready(made[level](*own))
            running[level] = min(running[level], (time.process_time() - begun) / updates / TASKS)
    return [
        {"level": n, "compile_cpu_s": round(compiling[n], 1), "update_cpu_ms": round(running[n] * 1e3, 3)}
        for n in levels
    ]


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    found = []
    for name, shapes in (("small", POINT_ROBOT), ("locomotion", CHEETAH)):
        for chunk in ("meta-training", "adaptation"):
            for row in measure(shapes, chunk, options.levels, options.repeats):
                found.append({"settings": name, "chunk": chunk, **row})
                print(found[-1], flush=True)
    if options.out:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        write_atomic(
            options.out, json.dumps({"load_average": load, "rows": found, "versions": versions()}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
