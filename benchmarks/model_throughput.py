"""Throughput of dynamics training, imagination and meta-updates, as a fraction of this machine's matrix-product peak.

    python benchmarks/model_throughput.py [--hidden 256 128] [--tasks 4] [--seconds 3] [--out FILE.json]

The other three quarters of `rac_throughput.py`, which has the RAC update and says how the peak is measured. Systems
of 17 observation and 6 action columns; three hidden layers of each width asked for, and batches of 256. Counted are
the multiply-adds that are needed, with `mac` as there, times two for the floating-point operations:

    model step        one gradient step of 5 members on 256 rows each, m = mac(23, 37):
                      5 * 256 * (3 m - 23 h)          forward, backward to weights, backward to inputs but the first
    imagination       4 elites, 1000 rows, 5 steps, actor a = mac(17, 12):
                      5000 * (a + m)                  every row through the actor and one member
    meta-update       of pi_c and Q_c over the tasks, 256 states each, z of 2; a = mac(17, 12), c = mac(23, 1),
                      a' = mac(19, 12), c' = mac(25, 1):
                      256 * (a + 3 a' - 19 h)         the task's policy, forward; pi_c, forward and backward
                      128 * 2 * (c + 3 c' - 25 h)     half of the states: its critics, forward; Q_c, both

Elementwise work, random numbers, Adam and the gathering of batches are in the time but not in the count. Models and
imagination of several tasks are dispatched as the library does it, one thread per core; a meta-update is one call.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rac_throughput import ACT, OBS, ROWS, best, macs, peak_gflops, problem, split

from merpo.algorithms import merpo
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.presets import STANDARD
from merpo.algorithms.threads import cores, cuts, side_by_side
from merpo.compilation import compiled
from merpo.data.types import Stacked
from merpo.dynamics import fit
from merpo.dynamics.ensemble import Ensemble
from merpo.dynamics.fit import Rows
from merpo.dynamics.imagination import Ring
from merpo.files import write_atomic
from merpo.runs import versions

BATCH, STATES, Z, ROLLOUTS, LENGTH, STEPS = 256, 256, 2, 1000, 5, 20
"""Rows of a model's step; states of a meta-update; columns of z; imagined rollouts and their steps; steps per call."""


def settings(hidden: int) -> MerPOConfig:
    """The defaults of locomotion, with networks and batches of these sizes."""
    wide = (hidden,) * 3
    dynamics = replace(STANDARD.dynamics, hidden=wide, batch=BATCH, adapt_steps=STEPS, check_every=STEPS)
    learner = replace(
        STANDARD.rac, actor_hidden=wide, critic_hidden=wide, rollout_rows=ROLLOUTS, rollout_length=LENGTH,
        alpha_mode="fixed",
    )  # fmt: skip
    config = replace(STANDARD, rac=learner, dynamics=dynamics, meta_steps=STEPS, context=Z)
    return replace(config, meta_batch=STATES, meta_rows=STATES * 1000)


def flops(hidden: int, tasks: int) -> dict[str, int]:
    """The counts of the module's docstring, of one step (imagination: one rollout) of every task."""
    mac = partial(macs, hidden=hidden)
    model, actor, critic = mac(OBS + ACT, 2 * (OBS + 1) + 1), mac(OBS, 2 * ACT), mac(OBS + ACT, 1)
    shared_actor, shared_critic = mac(OBS + Z, 2 * ACT), mac(OBS + ACT + Z, 1)
    policy = STATES * (actor + 3 * shared_actor - (OBS + Z) * hidden)
    value = STATES // 2 * 2 * (critic + 3 * shared_critic - (OBS + ACT + Z) * hidden)
    return {
        "model step": 2 * tasks * STANDARD.dynamics.members * BATCH * (3 * model - (OBS + ACT) * hidden),
        "imagination": 2 * tasks * ROLLOUTS * LENGTH * (actor + model),
        "meta-update": 2 * tasks * (policy + value),
    }


def calls(hidden: int, tasks: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """By name: a call, and how many steps it makes."""
    config = settings(hidden)
    learners, rings, jobs, anchors, keys = problem(tasks, config)
    z, key = jnp.zeros((tasks, Z), jnp.float32), keys[0]
    jobs = replace(jobs, z=z)
    state = merpo.MetaState(learners, rings, merpo.init_meta(keys[:1], z, OBS, ACT, config).metas)
    members, every = config.dynamics.members, jnp.broadcast_to(jnp.arange(ROWS, dtype=jnp.int32), (tasks, ROWS))
    held, boot = every[:, :STEPS], jnp.broadcast_to(every[:, None], (tasks, members, ROWS))
    rows = Rows(boot, every, jobs.size, held, jnp.ones(held.shape, bool))
    phi = Ensemble.init(key, OBS, ACT, config.dynamics)

    @compiled()
    def imagine(learners: Any, rings: Ring, jobs: merpo.Jobs, anchors: Any, keys: Any) -> Any:
        return merpo.imagine_jobs(learners, rings, jobs, anchors, keys, 0.99, config)[1].rows.reward

    @compiled()
    def meta_steps(state: Any, jobs: merpo.Jobs, keys: Any) -> Any:
        return merpo.meta_jobs(state, jobs, keys, 1, config)[0].metas

    def adapt(part: tuple[Stacked, Rows]) -> Any:
        made = fit.adapt_models(phi, *part, jobs.scale, key, config=config.dynamics, learn_termination=False)
        return jax.block_until_ready(made)

    def roll(part: Any) -> Any:
        return jax.block_until_ready(imagine(*part))

    shares, every_job = split((learners, rings, anchors, keys), tasks), [jobs.part(c) for c in cuts(tasks, cores())]
    rolls = [(*own[:2], job, *own[2:]) for own, job in zip(shares, every_job, strict=True)]
    fits = split((Stacked(jobs.data, jobs.size), rows), tasks)
    assert config.meta_states(tasks) == STATES
    return {
        "model step": (partial(side_by_side, adapt, fits), STEPS),
        "imagination": (partial(side_by_side, roll, rolls), 1),
        "meta-update": (partial(meta_steps, state, jobs, keys), STEPS),
    }


def measured(widths: Sequence[int], tasks: int, seconds: float) -> list[dict[str, Any]]:
    """One row per width and kind of work."""
    found = []
    for hidden in widths:
        counts = flops(hidden, tasks)
        for name, (call, steps) in calls(hidden, tasks).items():
            before = peak_gflops()
            least = best(call, seconds) / steps
            peak, rate = max(before, peak_gflops()), counts[name] / least / 1e9
            found.append({
                "work": name, "hidden": hidden, "tasks": tasks, "mflop": round(counts[name] / 1e6, 1),
                "milliseconds": round(least * 1e3, 3), "gflops": round(rate, 1), "peak_gflops": round(peak, 1),
                "fraction_of_peak": round(rate / peak, 3),
            })  # fmt: skip
            print(f"{name:<12} {hidden:>4} wide  {least * 1e3:8.3f} ms  {rate:7.1f} of {peak:6.1f} GFLOP/s"
                  f"  {rate / peak:6.1%}", flush=True)  # fmt: skip
    return found


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each measurement")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    rows = measured(options.hidden, options.tasks, options.seconds)
    if options.out:
        setting = {"machine": platform.machine(), "cores": cores(), "batch": BATCH, **versions()}
        write_atomic(options.out, json.dumps({"setting": setting, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
