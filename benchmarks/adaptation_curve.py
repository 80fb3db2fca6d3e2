"""What the meta-model is worth: hold-out error against gradient steps on an unseen task's small log.

    python benchmarks/adaptation_curve.py [--out results/adaptation] [--seeds 0 1 2] [--episodes 3]

Point-Robot-Wind, medium data: the dynamics differ from task to task, and the test tasks' winds are in no training
log. Per seed the meta-model is learned from the 40 training tasks and adapted to each of the 10 test tasks from
`--episodes` logged episodes (one of them held out), beside an ensemble of the same size from random weights, without
proximal term, with the same optimiser, batches and hold-out. Written: a figure and a JSON file with the settings,
the curves per seed, and 95 % bootstrap intervals over (seed, task) of the error and of the ratio of steps.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from merpo import DynamicsConfig, __version__
from merpo.data import Preparation, TaskSet, stack
from merpo.dynamics.ensemble import Ensemble, fit_scale
from merpo.dynamics.fit import adapt_models, meta_chunk, split_rows
from merpo.report import adaptation_figure
from merpo.tasks import generate

FAMILY, QUALITY = "point-robot-wind", "medium"
CONFIG = DynamicsConfig(
    hidden=(64, 64, 64), members=5, elites=4, learning_rate=3e-3, batch=64, meta_iterations=100, adapt_steps=500,
    check_every=5,
)  # fmt: skip
K = 10
"""Gradient steps from the meta-model that scratch is compared with."""


def curves(data: TaskSet, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold-out error [task, check] of the ensemble's mean member, from the meta-model and from scratch."""
    prepare = Preparation.fit(data.train)
    train, test = ([prepare.task(t) for t in part] for part in (data.train, data.test))
    logs = [t.transitions for t in train]
    scale = fit_scale(jax.tree.map(lambda *x: jnp.concatenate([jnp.asarray(v) for v in x]), *logs))
    k_init, k_meta, k_adapt = jax.random.split(jax.random.key(seed), 3)
    fresh = Ensemble.init(k_init, data.info.obs_dim, data.info.act_dim, CONFIG)
    meta, *_ = meta_chunk(
        fresh, stack(train), split_rows(train, CONFIG, seed), scale, k_meta, jnp.asarray(0, jnp.int32),
        config=CONFIG, learn_termination=False, iterations=CONFIG.meta_iterations, tasks_per_iteration=16,
    )  # fmt: skip
    stacked, rows = stack(test), split_rows(test, CONFIG, seed + 1)
    found = []
    for start, config in ((meta, CONFIG), (fresh, replace(CONFIG, eta=0.0))):
        _, curve = adapt_models(start, stacked, rows, scale, k_adapt, config=config, learn_termination=False)
        found.append(np.asarray(curve))
    return found[0], found[1]


def steps_needed(curve: np.ndarray, level: float, every: int) -> float:
    """Gradient steps after which the curve is at or below the level for the first time; infinite if never."""
    below = np.flatnonzero(curve <= level)
    return float(below[0] * every) if len(below) else float("inf")


def interval(samples: np.ndarray, rng: np.random.Generator) -> list[float | None]:
    """Median with a 95 % bootstrap interval; null stands for infinity (never reached within the budget)."""
    draws = np.median(samples[rng.integers(0, len(samples), (2000, len(samples)))], axis=1)
    values = [np.median(samples), *np.quantile(draws, [0.025, 0.975], method="nearest")]
    return [float(v) if np.isfinite(v) else None for v in values]


def main() -> None:
    """Measure, draw, write."""
    parser = argparse.ArgumentParser(description="Adaptation from the meta-model against training from scratch.")
    parser.add_argument("--out", default="results/adaptation", help="folder for the figure and the JSON file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=3, help="logged episodes of each unseen task")
    options = parser.parse_args()
    begun = time.perf_counter()

    from_meta, from_scratch = [], []
    for seed in options.seeds:
        data = generate(FAMILY, QUALITY, episodes=20, seed=seed, test_episodes=options.episodes)
        one, other = curves(data, seed)
        from_meta.append(one)
        from_scratch.append(other)
    meta, scratch = np.concatenate(from_meta), np.concatenate(from_scratch)
    every, rng = CONFIG.check_every, np.random.default_rng(0)
    steps = [every * i for i in range(meta.shape[1])]
    at = K // every
    ratio = np.array([steps_needed(s, m[at], every) / K for m, s in zip(meta, scratch, strict=True)])
    summary = {
        "error_from_meta_after_k": interval(meta[:, at], rng),
        "error_from_scratch_after_k": interval(scratch[:, at], rng),
        "error_from_scratch_after_10k": interval(scratch[:, 10 * at], rng),
        "times_more_steps_from_scratch": interval(ratio, rng),
        "never_reached_from_scratch": float(np.mean(~np.isfinite(ratio))),
    }
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    adaptation_figure(
        folder / "adaptation.png", steps, meta, scratch,
        title=f"Point-Robot-Wind: the model on an unseen task's {options.episodes} logged episodes",
    )  # fmt: skip
    report = {
        "family": FAMILY, "quality": QUALITY, "k": K, "seeds": options.seeds, "tasks": len(meta) // len(from_meta),
        "episodes": options.episodes, "budget": CONFIG.adapt_steps, "config": asdict(CONFIG), "merpo": __version__,
        "seconds": round(time.perf_counter() - begun, 1), "intervals": "median, 95 % bootstrap over (seed, task)",
        "summary": summary, "steps": steps,
        "from_meta": [np.median(c, axis=0).tolist() for c in from_meta],
        "from_scratch": [np.median(c, axis=0).tolist() for c in from_scratch],
    }  # fmt: skip
    temporary = folder / f".adaptation.{os.getpid()}.part"
    temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    os.replace(temporary, folder / "adaptation.json")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
