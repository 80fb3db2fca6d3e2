"""Model-based off-policy evaluation: artificial trajectories, stitched from logged transitions or from their residuals
around a regression (after Fonteneau, Murphy, Wehenkel and Ernst 2013, "Batch mode RL based on the synthesis of
artificial trajectories")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from merpo.errors import ConfigError
from merpo.evaluation.features import Features
from merpo.evaluation.offpolicy import Arrays, Problem, Target, task_arrays


@dataclass(frozen=True)
class Stitched:
    """What `rollouts` found."""

    value: float
    """Mean return of the artificial trajectories."""
    returns: Float[np.ndarray, " trajectory"]
    far: float
    """Share of their steps whose nearest logged pair is farther than pairs of different episodes usually are."""


def rollouts(
    problem: Problem, target: Target, features: Features, count: int = 64, seed: int = 0, reach: float = 1.5
) -> Stitched:
    """Model-based estimate: artificial trajectories of the policy, stitched from logged transitions.

    In a finite MDP each step takes the next state and reward of a random logged transition of the same pair. Elsewhere
    it takes those that a ridge regression on the features predicts, and adds the residual of a near logged transition.
    A regression can run away from the log: states are held within the logged range, widened by half its width (as in
    imagination), rewards within the logged ones.
    A step is `far` when the nearest logged pair, in standardised (s, a), is beyond `reach` times the 95 % quantile of
    what separates logged pairs from the nearest of another episode; in a finite MDP when the pair was never logged.
    """
    if count < 1:
        raise ConfigError(f"count={count}: expected at least one trajectory.")
    t, rng = task_arrays(problem.task), np.random.default_rng(seed)
    near = _same_pair(t) if target.discrete else nearest(t, problem.episode, reach, rng)
    x, y = features(t.obs, t.action), np.concatenate([t.next_obs - t.obs, t.reward[:, None]], axis=1)
    slope = np.linalg.solve(x.T @ x + 1e-6 * len(x) * np.eye(x.shape[1]), x.T @ y)
    residual = y - x @ slope
    both = np.concatenate([t.obs, t.next_obs])
    low, high = both.min(0), both.max(0)
    margin = 0.5 * (high - low)
    starts = t.obs[problem.task.episode_start[:-1]]
    obs = starts[rng.integers(0, len(starts), count)]
    alive, total, far, steps = np.ones(count, bool), np.zeros(count), 0.0, 0.0
    for h in range(problem.horizon):
        action = target.draw(obs, rng)
        row, missing = near(obs, action, rng)
        far, steps = far + float((missing & alive).sum()), steps + float(alive.sum())
        if target.discrete:
            obs, reward = t.next_obs[row], t.reward[row]
        else:
            change = features(obs, action) @ slope + residual[row]
            obs = np.clip(obs + change[:, :-1], low - margin, high + margin)
            reward = np.clip(change[:, -1], t.reward.min(), t.reward.max())
        total = total + np.where(alive, problem.discount**h * reward, 0.0)
        alive = alive & ~t.terminated[row]
    return Stitched(float(total.mean()), total, far / max(steps, 1.0))


Near = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""(obs, action, rng) of rows to (a logged row for each, whether there was nothing near)."""


def _same_pair(t: Arrays) -> Near:
    """A random logged row with the same (state, action); any row where there is none."""
    states, actions = t.obs.shape[1], t.action.shape[1]
    code = t.obs.argmax(1) * actions + t.action.argmax(1)
    order, count = np.argsort(code, kind="stable"), np.bincount(code, minlength=states * actions)
    begin = np.cumsum(count) - count

    def near(obs: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        pair = obs.argmax(1) * actions + action.argmax(1)
        draw, missing = rng.random(len(pair)), count[pair] == 0
        place = np.where(missing, draw * len(code), begin[pair] + draw * count[pair]).astype(np.int64)
        return order[np.minimum(place, len(code) - 1)], missing

    return near


def nearest(t: Arrays, episode: np.ndarray, reach: float, rng: np.random.Generator) -> Near:
    """The nearest or second nearest logged row in standardised (s, a)."""
    pool = np.concatenate([t.obs, t.action], axis=1)
    scale = np.maximum(pool.std(0), 1e-6)
    pool = pool / scale
    limit, k = reach * _usual_distance(pool, episode, rng), min(2, len(pool))

    def near(obs: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        distance = _distances(np.concatenate([obs, action], axis=1) / scale, pool)
        closest = np.argpartition(distance, k - 1, axis=1)[:, :k]
        row = closest[np.arange(len(obs)), rng.integers(0, k, len(obs))]
        return row, distance.min(1) > limit**2

    return near


def _distances(x: np.ndarray, pool: np.ndarray) -> Float[np.ndarray, "row pool"]:
    return np.maximum((x * x).sum(1)[:, None] - 2.0 * x @ pool.T + (pool * pool).sum(1)[None], 0.0)


def _usual_distance(pool: np.ndarray, episode: np.ndarray, rng: np.random.Generator) -> float:
    """95 % quantile of the distance from a logged pair to the nearest of another episode."""
    some = rng.choice(len(pool), min(len(pool), 300), replace=False)
    distance = np.where(episode[some][:, None] == episode[None], np.inf, _distances(pool[some], pool))
    nearest = distance.min(1)
    return float(np.sqrt(np.quantile(nearest[np.isfinite(nearest)], 0.95))) if np.isfinite(nearest).any() else 0.0
