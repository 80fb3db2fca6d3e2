"""Off-policy evaluation: the return of a policy from a log of another one, without running it.

    fitted_q            linear fitted Q evaluation (Le et al. 2019; Duan, Jia and Wang 2020), with jackknife scores
    importance_sampling per-decision, plain or weighted (Precup et al. 2000), the behaviour policy estimated
    doubly_robust       per-decision importance sampling of the residuals of fitted Q, plain or weighted
                        (Jiang and Li 2016; Thomas and Brunskill 2016)

Model-based rollouts are in `stitched.py`.

All estimate J(pi) = E[sum over the first `horizon` steps of discount^t r_t]; after a termination nothing follows.
NumPy float64 and linear regression throughout: an estimate takes milliseconds, so that resampling is affordable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from merpo.data import TaskData
from merpo.errors import ConfigError, DataError
from merpo.evaluation.features import Features

Obs = Float[np.ndarray, "row obs"]
Action = Float[np.ndarray, "row act"]
Rows = Float[np.ndarray, " row"]


@dataclass(frozen=True)
class Target:
    """The policy to evaluate."""

    act: Callable[[np.ndarray], np.ndarray]
    """Observations [row, obs] to actions [row, act]; of a `discrete` policy, to the probabilities of its actions."""
    discrete: bool = False
    """Actions are one-hot in the log, and `act` gives probabilities."""
    spread: float = 0.0
    """For importance sampling of a deterministic policy: evaluate N(act(s), spread^2) instead, which has support."""

    def draw(self, obs: Obs, rng: np.random.Generator) -> Action:
        """Actions as they would be logged."""
        action = np.asarray(self.act(obs), np.float64)
        if not self.discrete:
            return action
        edges = np.cumsum(action, axis=1) / action.sum(1, keepdims=True)
        pick = (rng.random((len(action), 1)) >= edges[:, :-1]).sum(1)
        return np.asarray(np.eye(action.shape[1])[pick])

    def log_prob(self, obs: Obs, action: Action) -> Rows:
        """log pi(a|s) of logged actions."""
        mine = np.asarray(self.act(obs), np.float64)
        if self.discrete:
            return np.asarray(np.log(np.maximum((mine * action).sum(1), 1e-300)))
        if self.spread <= 0.0:
            raise ConfigError(
                "spread=0: a deterministic policy gives logged actions no probability, so importance sampling cannot"
                " evaluate it. Give a spread (about half of the behaviour's), or use fitted_q."
            )
        return _gaussian(action - mine, np.full(mine.shape[1], self.spread))


@dataclass(frozen=True)
class Problem:
    """A log as the estimators read it, for one horizon and discount."""

    task: TaskData
    horizon: int
    discount: float = 1.0

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ConfigError(f"horizon={self.horizon}: expected at least one step.")
        if not 0.0 < self.discount <= 1.0:
            raise ConfigError(f"discount={self.discount}: expected a number in (0, 1].")
        if self.task.episodes < 1:
            raise DataError(f"task {self.task.name!r} has no episode: expected at least one.")

    @property
    def episode(self) -> Int[np.ndarray, " row"]:
        """The episode that every row belongs to."""
        return np.repeat(np.arange(self.task.episodes), np.diff(self.task.episode_start))

    @property
    def step(self) -> Int[np.ndarray, " row"]:
        """The step within its episode."""
        return np.arange(len(self.task)) - self.task.episode_start[self.episode]

    def per_episode(self, rows: Rows) -> Float[np.ndarray, " episode"]:
        """Discounted sums over every episode's first `horizon` rows."""
        weight = np.where(self.step < self.horizon, self.discount**self.step, 0.0)
        return np.bincount(self.episode, rows * weight, self.task.episodes)

    @property
    def returns(self) -> Float[np.ndarray, " episode"]:
        """Logged returns."""
        return self.per_episode(np.asarray(self.task.transitions.reward, np.float64))


@dataclass(frozen=True)
class FittedQ:
    """What `fitted_q` found."""

    value: float
    """The estimate of J(pi)."""
    scores: Float[np.ndarray, " episode"]
    """Jackknife pseudo-values, one per logged episode: their mean is the bias-corrected estimate, and they vary as
    independent measurements of it would."""
    weights: Float[np.ndarray, "step k"]
    """Q_h(s, a) = phi(s, a) . weights[h] + the floor; the last row (no step left) is zero."""
    floor: Float[np.ndarray, " step"]
    """What pairs outside the features' reach are worth."""
    effective: float
    """Effective number of transitions behind the estimate, of the (signed) marginal weights that it amounts to."""


def fitted_q(problem: Problem, target: Target, features: Features, ridge: float | None = None) -> FittedQ:
    """Linear fitted Q evaluation: Q_h = regression of r + discount V_{h+1}(s') on phi(s, a), backwards in h.

    The ridge (per row; 1e-4, in finite MDPs 1e-6) shrinks towards a floor, the least logged reward followed by the
    least value of a logged next state: what the log says nothing about is valued low. The estimate equals a doubly
    robust one with linear marginal weights, whose effective sample size is reported (Duan, Jia and Wang 2020).
    Leaving out one episode at a time gives the scores.
    """
    t, task = task_arrays(problem.task), problem.task
    horizon, discount = problem.horizon, problem.discount
    ridge = ridge if ridge is not None else (1e-6 if target.discrete else 1e-4)
    first = task.episode_start[:-1]
    now = features(t.obs, t.action)
    after = features(t.next_obs, np.asarray(target.act(t.next_obs), np.float64))
    start = features(t.obs[first], np.asarray(target.act(t.obs[first]), np.float64))
    k, episodes, goes_on = now.shape[1], task.episodes, (~t.terminated).astype(np.float64)[:, None]
    right = np.concatenate(
        [discount * goes_on * after, t.reward[:, None], discount * goes_on, np.ones_like(goes_on)], axis=1
    )
    least = float(t.reward.min())
    # no value lies below the least reward for all steps left; a termination leaves none
    left = np.concatenate([np.cumsum(discount ** np.arange(horizon))[::-1], [0.0]])
    deepest = np.minimum(least * left, 0.0) if t.terminated.any() else least * left
    living = after[~t.terminated] if not t.terminated.all() else np.zeros((1, k))

    bounds = task.episode_start
    gram = np.stack([now[a:b].T @ now[a:b] for a, b in pairwise(bounds)])
    cross = np.stack([now[a:b].T @ right[a:b] for a, b in pairwise(bounds)])
    # row 0 has every episode, row e + 1 all but episode e; all of them are solved at once
    left_out = np.concatenate([np.zeros((1, episodes)), np.eye(episodes)]) if episodes > 1 else np.zeros((1, 1))
    kept = 1.0 - left_out

    def total(each: np.ndarray) -> np.ndarray:
        return each.sum(0)[None] - np.tensordot(left_out, each, 1)

    rows = kept @ np.diff(bounds).astype(np.float64)
    found = np.linalg.solve(total(gram) + ridge * rows[:, None, None] * np.eye(k), total(cross))
    step, gain, ahead, one = found[:, :, :k], found[:, :, k], found[:, :, k + 1], found[:, :, k + 2]
    w, low = np.zeros((horizon + 1, len(kept), k)), np.zeros((horizon + 1, len(kept)))
    for h in range(horizon - 1, -1, -1):
        worst = low[h + 1] + (living @ w[h + 1].T).min(0)
        worst = np.minimum(worst, 0.0) if t.terminated.any() else worst
        low[h] = np.maximum(least + discount * worst, deepest[h])
        moved = (step @ w[h + 1][..., None])[..., 0]
        w[h] = gain + ahead * low[h + 1][:, None] + moved - one * low[h][:, None]
    mean_start = (kept @ start) / kept.sum(1, keepdims=True)
    values = (mean_start * w[0]).sum(1) + low[0]
    value = float(values[0])
    scores = episodes * value - (episodes - 1) * values[1:] if episodes > 1 else np.full(1, value)
    # the estimate is nearly sum_n weight_n r_n: marginal weights of transitions, summed over steps
    visits, p = np.zeros(k), mean_start[0]
    for _ in range(horizon):
        visits, p = visits + p, step[0].T @ p
    marginal = now @ np.linalg.solve(gram.sum(0) + ridge * len(task) * np.eye(k), visits)
    return FittedQ(value, scores, w[:, 0], low[:, 0], effective_sample_size(np.abs(marginal)))


Density = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""log pi(a|s) of rows: (obs [row, obs], action [row, act]) to [row]."""


def estimate_behaviour(task: TaskData, discrete: bool = False) -> Density:
    """The policy that logged the data: counts of a finite MDP, else a Gaussian around a quadratic regression."""
    t = task_arrays(task)
    if discrete:
        counts = t.obs.T @ t.action + 1e-9
        table = counts / counts.sum(1, keepdims=True)
        return lambda obs, action: np.log(np.maximum(((obs @ table) * action).sum(1), 1e-300))
    mean, std = t.obs.mean(0), np.maximum(t.obs.std(0), 1e-6)

    def basis(obs: np.ndarray) -> np.ndarray:
        z = (obs - mean) / std
        return np.concatenate([np.ones((len(z), 1)), z, z * z], axis=1)

    x = basis(t.obs)
    w = np.linalg.solve(x.T @ x + 1e-6 * len(x) * np.eye(x.shape[1]), x.T @ t.action)
    spread = np.maximum((t.action - x @ w).std(0), 1e-3)
    return lambda obs, action: _gaussian(action - basis(obs) @ w, spread)


def _ratios(problem: Problem, target: Target, behaviour: Density, clip: float) -> Float[np.ndarray, "episode step"]:
    """Products of pi / pi_beta up to and including each step, clipped; zero past an episode's end."""
    t = task_arrays(problem.task)
    log_ratio = target.log_prob(t.obs, t.action) - behaviour(t.obs, t.action)
    grid = np.zeros((problem.task.episodes, problem.horizon))
    inside = problem.step < problem.horizon
    grid[problem.episode[inside], problem.step[inside]] = log_ratio[inside]
    exists = np.zeros(grid.shape, bool)
    exists[problem.episode[inside], problem.step[inside]] = True
    product = np.exp(np.minimum(np.cumsum(grid, axis=1), np.log(clip)))
    return np.where(exists, product, 0.0)


def importance_sampling(
    problem: Problem, target: Target, behaviour: Density, weighted: bool = False, clip: float = 1e6
) -> Float[np.ndarray, " episode"]:
    """Per-decision importance sampling: one score per episode, whose mean estimates J(pi).

    `weighted` divides each step's ratios by their mean over episodes: biased, of far smaller variance.
    """
    rho = _ratios(problem, target, behaviour, clip)
    if weighted:
        rho = rho / np.maximum(rho.mean(0, keepdims=True), 1e-300)
    reward = _grid(problem, np.asarray(problem.task.transitions.reward, np.float64))
    return np.asarray((rho * reward * problem.discount ** np.arange(problem.horizon)).sum(1))


def doubly_robust(
    problem: Problem,
    target: Target,
    behaviour: Density,
    features: Features,
    fitted: FittedQ,
    weighted: bool = False,
    clip: float = 1e6,
) -> Float[np.ndarray, " episode"]:
    """Per-decision importance sampling of r - Q_h(s, a) + V_h(s): one score per episode, their mean estimates J(pi)."""
    t = task_arrays(problem.task)
    rho = _ratios(problem, target, behaviour, clip)
    if weighted:
        rho = rho / np.maximum(rho.mean(0, keepdims=True), 1e-300)
    before = np.concatenate([np.ones((len(rho), 1)), rho[:, :-1]], axis=1)
    h = np.minimum(problem.step, problem.horizon - 1)
    q = (features(t.obs, t.action) * fitted.weights[h]).sum(1) + fitted.floor[h]
    v = (features(t.obs, np.asarray(target.act(t.obs), np.float64)) * fitted.weights[h]).sum(1) + fitted.floor[h]
    gain = rho * _grid(problem, t.reward - q) + before * _grid(problem, v)
    return np.asarray((gain * problem.discount ** np.arange(problem.horizon)).sum(1))


def effective_sample_size(weights: Float[np.ndarray, " n"]) -> float:
    """(sum w)^2 / sum w^2 (Kong 1992)."""
    return float(weights.sum() ** 2 / max((weights**2).sum(), 1e-300))


def _grid(problem: Problem, rows: np.ndarray) -> Float[np.ndarray, "episode step"]:
    grid = np.zeros((problem.task.episodes, problem.horizon))
    inside = problem.step < problem.horizon
    grid[problem.episode[inside], problem.step[inside]] = rows[inside]
    return grid


@dataclass(frozen=True)
class Arrays:
    """A log's columns in float64."""

    obs: Obs
    action: Action
    reward: Rows
    next_obs: Obs
    terminated: Bool[np.ndarray, " row"]


def task_arrays(task: TaskData) -> Arrays:
    """The log's columns in float64."""
    t = task.transitions
    obs, action, reward, after = (np.asarray(x, np.float64) for x in (t.obs, t.action, t.reward, t.next_obs))
    return Arrays(obs, action, reward, after, np.asarray(t.terminated, bool))


def _gaussian(error: np.ndarray, std: np.ndarray) -> Rows:
    return np.asarray((-0.5 * (error / std) ** 2 - np.log(std) - 0.5 * np.log(2.0 * np.pi)).sum(1))
