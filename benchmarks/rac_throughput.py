"""Throughput of RAC updates for several tasks at once, as a fraction of this machine's matrix-product peak.

    python benchmarks/rac_throughput.py [--tasks 1 4 16] [--groups 1] [--seconds 3] [--out FILE.json]

One update (batch 256 = 128 real + 128 imagined rows, three hidden layers of 256, two critics, 17 observation and 6
action columns) needs, in multiply-adds per row of one network, with `mac(i, o) = i h + 2 h h + h o`:

    actor a = mac(17, 12), critic c = mac(23, 1), each critic evaluated twice over (two critics)

    Bellman target    256 a           actions at the next states, forward
                      256 * 2c        target critics, forward
    pushed actions    128 a           actions at the imagined states, forward
    critic loss       384 * 2c        forward: real, imagined and pushed rows
                      384 * 2c        backward with respect to the weights
                      384 * 2(c - 23 h)   backward with respect to the inputs of all layers but the first
    actor loss        256 a + 256 a   actor and meta-policy, forward
                      256 * 2c        critics, forward
                      256 * 2(c - 17 h)   critics, backward with respect to the action columns only
                      256 a + 256 (a - 17 h)   actor, backward with respect to weights, then inputs

times two for the floating-point operations. Elementwise work, random numbers, Adam and the gathering of the batch are
in the time but not in the count, so the fraction says what all of that costs.

Several tasks are dispatched as the library does it: one thread per core, each with its share of the tasks.

The peak is the best of square float32 products of several sizes, in the same process and interleaved with the
measurements; both figures are the best of several repetitions, since other work on the machine only ever slows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from merpo import RACConfig
from merpo.algorithms import merpo, rac
from merpo.algorithms.merpo import Jobs
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.threads import cores, cuts, side_by_side
from merpo.compilation import compiled
from merpo.data.types import Transitions
from merpo.devices import map_groups
from merpo.dynamics.ensemble import Ensemble, TargetScale
from merpo.dynamics.fit import FittedModel
from merpo.dynamics.imagination import Ring
from merpo.dynamics.termination import Termination
from merpo.files import write_atomic

OBS, ACT, HIDDEN = 17, 6, 256
CONFIG = RACConfig(actor_hidden=(HIDDEN,) * 3, critic_hidden=(HIDDEN,) * 3, batch=256, real_fraction=0.5)
ROWS, STEPS = 10_000, 20
"""Logged and imagined rows per task; updates per compiled call."""


def macs(n_in: int, n_out: int, hidden: int = HIDDEN) -> int:
    """Multiply-adds of one row through three hidden layers."""
    return n_in * hidden + 2 * hidden * hidden + hidden * n_out


def flops_per_update() -> int:
    """The count of the module's docstring."""
    actor, critic = macs(OBS, 2 * ACT), macs(OBS + ACT, 1)
    batch, imagined = CONFIG.batch, CONFIG.batch - CONFIG.real_rows
    rows = batch + imagined
    target = batch * actor + batch * 2 * critic
    pushed = imagined * actor
    critics = rows * 2 * (critic + critic + critic - (OBS + ACT) * HIDDEN)
    improvement = 2 * batch * actor + batch * 2 * (critic + critic - OBS * HIDDEN)
    improvement += batch * (actor + actor - OBS * HIDDEN)
    return 2 * (target + pushed + critics + improvement)


def best(call: Callable[[], Any], seconds: float) -> float:
    """Least time of one call over about `seconds`, after one call to compile."""
    jax.block_until_ready(call())
    least, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(call())
        least = min(least, time.perf_counter() - start)
    return float(least)


def peak_gflops(seconds: float = 1.0, sizes: tuple[int, ...] = (1024, 1536, 2048)) -> float:
    """Best rate of square float32 products in GFLOP/s."""
    product = jax.jit(jnp.matmul)
    rates = []
    for n in sizes:
        a = jax.random.normal(jax.random.key(n), (n, n), jnp.float32)
        rates.append(2 * n**3 / best(partial(product, a, a), seconds / len(sizes)) / 1e9)
    return max(rates)


def problem(tasks: int, config: MerPOConfig | None = None) -> tuple[Any, ...]:
    """Learners, full rings and jobs of `tasks` tasks, with made-up data; `config` in place of `CONFIG` and defaults."""
    config = config or MerPOConfig(rac=CONFIG)
    rng = np.random.default_rng(0)
    f32 = np.float32

    def rows() -> Transitions:
        lead = (tasks, ROWS)
        obs, following = (jnp.asarray(rng.normal(size=(*lead, OBS)).astype(f32)) for _ in range(2))
        action = jnp.asarray(rng.uniform(-1, 1, (*lead, ACT)).astype(f32))
        never = jnp.zeros(lead, bool)
        return Transitions(obs, action, jnp.asarray(rng.normal(size=lead).astype(f32)), following, never, never)

    actor, critic = jax.vmap(lambda k: rac.networks(k, OBS, ACT, config.rac))(jax.random.split(jax.random.key(0), 1))
    actor, critic = jax.tree.map(lambda x: jnp.repeat(x, tasks, axis=0), (actor, critic))
    learners = merpo.init_learners(actor, critic, config.rac)
    full = jnp.full((tasks,), ROWS, jnp.int32)
    rings = Ring(rows(), jnp.zeros((tasks,), jnp.int32), full)
    # The imagination itself is not timed here: it runs once every few hundred updates.
    model = jax.vmap(lambda k: Ensemble.init(k, OBS, ACT, config.dynamics))(jax.random.split(jax.random.key(1), tasks))
    elites = jnp.zeros((tasks, config.dynamics.elites), jnp.int32)
    fitted = FittedModel(model, elites, jnp.zeros((tasks, config.dynamics.members), jnp.float32))
    out, state = jnp.ones(OBS + 1, jnp.float32), jnp.ones(OBS, jnp.float32)
    none = jnp.zeros(0, jnp.float32)
    number = partial(jnp.full, (tasks,), dtype=jnp.float32)
    jobs = Jobs(
        rows(), full, jnp.arange(tasks, dtype=jnp.int32), jnp.zeros((tasks,), jnp.int32), fitted,
        TargetScale(out, out, state, state),
        Termination("never", jnp.zeros(0, jnp.int32), none, none),
        rac.Weights(alpha=number(0.4), beta=number(0.1), floor=number(0.0), pace=number(1e-4), ramp=number(0.0)),
        jnp.zeros((tasks, 0), jnp.float32),
    )  # fmt: skip
    return learners, rings, jobs, actor, jax.random.split(jax.random.key(2), tasks)


@compiled(static_argnames=("group",))
def advance(learners: Any, rings: Any, jobs: Jobs, anchors: Any, keys: Any, *, group: int) -> Any:
    """`STEPS` updates of every task: `group` of them batched by `vmap`, the groups one after another."""

    def one(args: tuple[Any, ...]) -> Any:
        learner, ring, task, weights, anchor, key = args
        return merpo.rac_steps(learner, ring, jobs, task, anchor, weights, key, STEPS, 0.99, CONFIG)

    packed = (learners, rings, jobs.task, jobs.weights, anchors, keys)
    return map_groups(one, packed, group)


def split(tree: Any, tasks: int) -> list[Any]:
    """Equal parts of leaves [task, ...], one for every core."""
    return [jax.tree.map(lambda x, c=c: x[c], tree) for c in cuts(tasks, cores())]


def in_parts(args: tuple[Any, ...], group: int) -> Callable[[], Any]:
    """`advance` as the library runs it: equal parts of the tasks, each dispatched from its own thread."""
    learners, rings, jobs, anchors, keys = args
    states, parts = split((learners, rings, anchors), len(keys)), []
    for (learner, ring, anchor), c in zip(states, cuts(len(keys), cores()), strict=True):
        parts.append((learner, ring, jobs.part(c), anchor))

    def run(part: tuple[Any, ...]) -> None:
        jax.block_until_ready(advance(*part, keys[: part[2].task.shape[0]], group=group))

    return partial(side_by_side, run, parts)


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description="Throughput of RAC updates against the matrix-product peak.")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--groups", type=int, nargs="+", default=[1], help="tasks batched by vmap; 1 is lax.map")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each measurement")
    parser.add_argument("--out", default=None, help="JSON file to write")
    options = parser.parse_args()

    flops = flops_per_update()
    print(f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}; {flops / 1e9:.3f} GFLOP per update")
    print(f"{'tasks':>5} {'group':>5} {'updates/s':>10} {'GFLOP/s':>8} {'peak':>7} {'fraction':>8}")
    results = []
    for tasks in options.tasks:
        args = problem(tasks)
        for group in sorted({min(g, tasks) for g in options.groups}):
            before = peak_gflops()
            least = best(in_parts(args, group), options.seconds)
            peak = max(before, peak_gflops())
            rate = tasks * STEPS / least
            found = {
                "tasks": tasks,
                "group": group,
                "updates_per_second": rate,
                "gflops": rate * flops / 1e9,
                "peak_gflops": peak,
                "fraction_of_peak": rate * flops / 1e9 / peak,
            }
            results.append(found)
            figures = f"{rate:>10.1f} {found['gflops']:>8.1f} {peak:>7.1f} {found['fraction_of_peak']:>8.1%}"
            print(f"{tasks:>5} {group:>5} {figures}")
    if options.out:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        setting = {
            "flops_per_update": flops, "cores": os.cpu_count(), "jax": jax.__version__, "load_average": load,
            "batch": CONFIG.batch, "hidden": [HIDDEN] * 3, "obs_dim": OBS, "act_dim": ACT,
        }  # fmt: skip
        write_atomic(options.out, json.dumps({"setting": setting, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
