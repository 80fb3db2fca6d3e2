"""Folders in the FOCAL layout, written as the field's collectors write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def trajectory(rng, steps=6, obs=3, act=2) -> np.ndarray:
    """Object array [steps, 4]: obs, action, reward, next_obs."""
    made = np.empty((steps, 4), object)
    walk = rng.normal(size=(steps + 1, obs))
    for i in range(steps):
        made[i, 0], made[i, 3] = walk[i], walk[i + 1]
        made[i, 1] = rng.uniform(-0.9, 0.9, act).astype(np.float32)
        made[i, 2] = float(rng.normal()) if i % 2 else np.float64(rng.normal())
    return made


def write_focal(folder: Path, tasks=2, samples=2, steps=(100, 200), seed=0) -> dict[str, list[float]]:
    """Write the folder; returns of every file by task, in the order of step and sample."""
    rng = np.random.default_rng(seed)
    returns: dict[str, list[float]] = {}
    for i in range(tasks):
        own = folder / f"goal_idx{i}"
        own.mkdir(parents=True)
        returns[own.name] = []
        for k in steps:
            for n in range(samples):
                rows = trajectory(rng, steps=4 + n)
                np.save(own / f"trj_evalsample{n}_step{k}.npy", rows, allow_pickle=True)
                returns[own.name].append(float(sum(r[2] for r in rows)))
    return returns
