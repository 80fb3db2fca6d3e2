"""What the meta-model is worth beside other places to start from: errors of the adapted models, and returns with them.

    python benchmarks/model_starts.py [--family point-robot-wind] [--seeds 0 1 2] [--episodes 1 3 10 50]
                                      [--out results/adaptation/starts-point-robot-wind.json]

Medium logs; 20 training and 10 unseen test tasks; 600 updates of each training task, 1000 of each test task, as in
study main. MerPO is meta-trained once per seed. Then every test task's model is adapted, with the same steps, batches
and hold-out, from

    meta-model   phi_m
    pooled       one model fitted to all training tasks together: where phi_m starts from
    average      the mean of the weights of the training tasks' own models, learned from the same random weights
    scratch      these random weights, without the proximal term

and MerPO adapts the same meta-policy in each. No model from scratch takes an adapted one's place here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import merpo
from merpo import TaskSet
from merpo.algorithms import stages
from merpo.algorithms.health import Where
from merpo.algorithms.pipeline import termination_rule
from merpo.algorithms.presets import default_config
from merpo.data.types import TaskData
from merpo.dynamics.ensemble import Ensemble
from merpo.dynamics.fit import adapt_models
from merpo.evaluation import bootstrap_interval
from merpo.evaluation.simulate import evaluate_policies, task_id
from merpo.files import write_atomic
from merpo.runs import versions

QUALITY, TRAIN_TASKS, TEST_TASKS, STARTS = "medium", 20, 10, 10
STEPS = (0, 50, 100, 300)
"""Gradient steps whose errors the table has."""


def other_starts(meta: merpo.Meta, train: TaskSet) -> dict[str, Ensemble]:
    """Models with [seed] leaves to adapt from in phi_m's place."""
    config, learned, info = meta.config, meta.learned, meta.info
    batch = stages.make_batch(train.tasks, learned.preparation, config, seed=0)
    learns_ends = termination_rule(info, learned.preparation).learned
    names = tuple(t.name for t in train)
    only_pooled = replace(config, dynamics=replace(config.dynamics, meta_iterations=0))
    steps = stages.FROM_SCRATCH * config.dynamics.adapt_steps
    alone = replace(config.dynamics, eta=0.0, adapt_steps=steps)
    found: dict[str, list[Ensemble]] = {"pooled": [], "average": [], "scratch": []}
    for seed in meta.seeds:
        key, k_adapt = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
        where = Where("the pooled model", (seed,), names, only_pooled)
        found["pooled"].append(stages.fit_meta_model(batch, learned.scale, key, info, learns_ends, where))
        fresh = Ensemble.init(jax.random.split(key)[0], info.obs_dim, info.act_dim, config.dynamics)
        own, _ = adapt_models(
            fresh, batch.stacked, batch.rows, learned.scale, k_adapt, config=alone, learn_termination=learns_ends
        )
        found["average"].append(jax.tree.map(lambda x: jnp.mean(x, axis=0), own.model))
        found["scratch"].append(fresh)
    return {name: jax.tree.map(lambda *x: jnp.stack(x), *models) for name, models in found.items()}


def simulated(policies: merpo.PolicySet, family: str, tasks: Sequence[TaskData]) -> np.ndarray:
    """Mean returns [seed, task]."""

    def of_seed(seed: int) -> np.ndarray:
        each = [policies.policy(i, seed) for i in range(len(tasks))]

        def act(obs: np.ndarray, step: int) -> np.ndarray:
            del step
            return np.stack([policy(o) for policy, o in zip(each, obs, strict=True)])

        return evaluate_policies(family, act, [task_id(t.name) for t in tasks], STARTS, 0).mean(axis=1)

    return np.stack([of_seed(s) for s in policies.seeds])


def row(errors: np.ndarray, returns: np.ndarray, every: int) -> dict[str, Any]:
    """`errors` [seed, task, check], `returns` [seed, task]: medians of the one, the mean of the other."""
    interval = bootstrap_interval(returns[..., None])
    median = np.median(errors.reshape(-1, errors.shape[-1]), axis=0)
    return {
        "error_after": {str(n): float(median[n // every]) for n in STEPS},
        "errors": median.tolist(),
        "mean_return": [interval.value, interval.low, interval.high],
        "returns": returns.tolist(),
    }


def main() -> None:
    """Learn, adapt, simulate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="point-robot-wind")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, nargs="+", default=[1, 3, 10, 50])
    parser.add_argument("--train-updates", type=int, default=600)
    parser.add_argument("--adapt-updates", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    begun = time.perf_counter()
    data = merpo.load(f"{options.family}/{QUALITY}")
    train = replace(data.train, tasks=data.train.tasks[:TRAIN_TASKS])
    test = data.test.tasks[:TEST_TASKS]
    config = default_config(data.info, train.tasks)
    config = replace(
        config, train_updates=options.train_updates, adapt_updates=options.adapt_updates,
        dynamics=replace(config.dynamics, scratch_steps=0),
    )  # fmt: skip
    meta = merpo.MerPO(config, seeds=options.seeds).fit(train)
    print(f"meta-trained after {time.perf_counter() - begun:.0f} s", flush=True)
    starts = {"meta-model": meta.learned.meta_model, **other_starts(meta, train)}
    rows: list[dict[str, Any]] = []
    for episodes in options.episodes:
        logs = [t.select(range(min(episodes, t.episodes))) for t in test]
        for name, model in starts.items():
            free = name == "scratch"
            dynamics = replace(config.dynamics, eta=0.0) if free else config.dynamics
            one = replace(
                meta, learned=replace(meta.learned, meta_model=model), config=replace(config, dynamics=dynamics)
            )
            models = one.adapt_models(logs)
            returns = simulated(one.adapt_many(logs, models=models), options.family, logs)
            rows.append({"episodes": episodes, "start": name, **row(models.error, returns, dynamics.check_every)})
            shown = {k: round(v, 4) for k, v in rows[-1]["error_after"].items()}
            print(episodes, name, shown, np.round(rows[-1]["mean_return"], 2), flush=True)
    if options.out:
        content = {
            "family": options.family, "quality": QUALITY, "seeds": options.seeds, "train_tasks": TRAIN_TASKS,
            "test_tasks": TEST_TASKS, "train_updates": options.train_updates, "adapt_updates": options.adapt_updates,
            "starts_per_task": STARTS, "errors": "median over (seed, task) of the hold-out error",
            "seconds": round(time.perf_counter() - begun, 1), "rows": rows, "versions": versions(),
        }  # fmt: skip
        write_atomic(options.out, json.dumps(content, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
