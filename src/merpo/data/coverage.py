"""What a log covers and how good it is, estimated: overlap of states between tasks, support of actions, quality.

Estimates from samples of at most `SAMPLE` rows per task, evenly spaced; the same for the same data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from merpo.data.prepare import action_bounds
from merpo.data.summary import aligned
from merpo.data.types import SetInfo, TaskData
from merpo.data.validation import Finding

SAMPLE, POOL = 256, 4096
"""Rows drawn per task, and rows of the other tasks that they are compared with."""
BINS = 10
"""Parts into which the range of an action column is divided."""
FEW = 10
"""Neighbours without which nothing is said of a task's noise."""
NEAREST = 1e-3
"""States closer than this per column, in standard deviations, are always near each other."""
APART = 0.5
"""Share of a test task's states near training states below which it is reported."""
FEW_ACTIONS = 0.3
"""Share of the action range used below which it is reported."""
REPEATABLE = 0.02
"""Median difference of actions at neighbouring states, in standard deviations, below which they are a function of
the state.
"""


@dataclass(frozen=True)
class TaskCoverage:
    """Estimates for one task; None where they cannot be made."""

    name: str
    split: str
    overlap: float | None
    """Share of its states that lie near a state of (other) training tasks: no further than nearly all (95 %) states
    of a task lie from the nearest state in other episodes of the same task."""
    actions: float
    """Share of the range within its bounds that the actions use, mean over columns."""
    noise: float | None
    """Median difference of the actions taken at neighbouring states, in standard deviations of the action: 0 for a
    deterministic behaviour."""
    best_tenth: float
    """Mean return of the best tenth of the episodes."""
    score: float | None
    """Mean return on the scale where the task's reference policies are 0 (random) and 1 (expert)."""


@dataclass(frozen=True)
class Coverage:
    """Estimates for a set."""

    tasks: tuple[TaskCoverage, ...]
    quality: str
    """`random`, `medium`, `expert` or `mixed` where reference returns are known, else `unknown`."""
    basis: str
    """What the estimate of quality rests on, in words."""

    def render(self) -> str:
        """A plain-text table, and a sentence on quality."""
        body: list[tuple[str, ...]] = [
            ("task", "split", "state overlap", "action range", "action noise", "best tenth", "score")
        ]
        for t in self.tasks:
            share = [f"{x:.0%}" if x is not None else "-" for x in (t.overlap, t.actions)]
            noise, score = (f"{x:.2f}" if x is not None else "-" for x in (t.noise, t.score))
            body.append((t.name, t.split, *share, noise, f"{t.best_tenth:.4g}", score))
        return f"{aligned(body)}\nestimated quality: {self.quality} ({self.basis})"


def coverage(tasks: Sequence[TaskData], about: SetInfo) -> Coverage:
    """Estimates for tasks with sound shapes; rows that are not finite are left out."""
    obs = [_rows(t) for t in tasks]
    train = [x for x, t in zip(obs, tasks, strict=True) if t.split == "train"] or obs
    pooled = np.concatenate(train) if train else np.zeros((0, about.obs_dim))
    std = pooled.std(axis=0) if len(pooled) else np.ones(about.obs_dim)
    scale = np.where(std > 1e-9, std, 1.0)
    obs = [x / scale for x in obs]
    pairs = [_neighbours(t, scale) for t in tasks]
    radius = _radius([d for (d, _), t in zip(pairs, tasks, strict=True) if t.split == "train"], about.obs_dim)
    found = []
    for i, task in enumerate(tasks):
        others = [x for j, (x, t) in enumerate(zip(obs, tasks, strict=True)) if j != i and t.split == "train"]
        overlap = None
        if radius is not None and others and len(obs[i]):
            pool = np.concatenate(others)
            near = _distance(obs[i], pool[:: max(len(pool) // POOL, 1)]).min(axis=1)
            overlap = float((near <= radius).mean())
        distance, difference = pairs[i]
        close = difference[distance <= radius] if radius is not None else difference[:0]
        returns = np.sort(task.returns())
        span = {"random", "expert"} <= task.reference.keys() and task.reference["expert"] != task.reference["random"]
        score = None
        if span:
            low = task.reference["random"]
            score = float((returns.mean() - low) / (task.reference["expert"] - low))
        found.append(
            TaskCoverage(
                name=task.name,
                split=task.split,
                overlap=overlap,
                actions=_support(task, about),
                noise=float(np.median(close)) if len(close) >= FEW else None,
                best_tenth=float(returns[-max(len(returns) // 10, 1) :].mean()),
                score=score,
            )
        )
    return Coverage(tuple(found), *_quality(tasks))


def action_noise(tasks: Sequence[TaskData]) -> float | None:
    """Median over tasks of the median difference of the actions taken at neighbouring states, in standard deviations of
    the action: 0 for a function of the state, about 1 for actions that hardly depend on it. None where nothing is near.
    """
    if not tasks:
        return None
    std = np.concatenate([_rows(t) for t in tasks]).std(axis=0)
    pairs = [_neighbours(t, np.where(std > 1e-9, std, 1.0)) for t in tasks]
    radius = _radius([d for d, _ in pairs], len(std))
    close = [difference[distance <= radius] for distance, difference in pairs if radius is not None]
    found = [float(np.median(c)) for c in close if len(c) >= FEW]
    return float(np.median(found)) if found else None


def _radius(distances: Sequence[Float[np.ndarray, " _"]], obs_dim: int) -> float | None:
    """Within which states are neighbours: nearly all lie that near to one in other episodes of their task."""
    known = [d for d in distances if len(d)]
    if not known:
        return None
    # never below rounding: equal states may be all there is
    return max(float(np.quantile(np.concatenate(known), 0.95)), NEAREST * float(np.sqrt(obs_dim)))


def coverage_findings(covered: Coverage, about: SetInfo) -> Iterator[Finding]:
    """What deserves attention in the estimates."""
    for task in covered.tasks:
        if task.split == "test" and task.overlap is not None and task.overlap < APART:
            message = f"task {task.name!r}: only {task.overlap:.0%} of its states lie near those of the training tasks."
            advice = "The meta-model extrapolates there: train on tasks or behaviours that visit such states."
            yield Finding("warning", "unseen-states", message, advice, task.name)
        if task.actions < FEW_ACTIONS:
            message = f"task {task.name!r}: its actions use {task.actions:.0%} of the range within their bounds."
            advice = "Nothing is known of other actions; if the bounds are too wide, correct them."
            yield Finding("warning", "narrow-actions", message, advice, task.name)
    noise = [t.noise for t in covered.tasks if t.noise is not None]
    if noise and max(noise) < REPEATABLE:
        message = "the actions are a function of the state in every task: no two actions are ever tried in one place."
        advice = "What other actions do must come from other tasks or the model; log with some exploration noise."
        yield Finding("info", "deterministic", message, advice)
    scores = [t.score for t in covered.tasks if t.score is not None]
    if scores and about.quality in ("random", "expert"):
        mean = float(np.mean(scores))
        if (about.quality == "expert" and mean < 0.5) or (about.quality == "random" and mean > 0.5):
            message = f"info.quality={about.quality!r}, but the mean return scores {mean:.2f} (0 random, 1 expert)."
            yield Finding("warning", "quality", message, "Correct the label or the reference returns, or log again.")


def _rows(task: TaskData) -> Float[np.ndarray, "sample obs"]:
    x = np.asarray(task.transitions.obs)
    x = x[np.unique(np.linspace(0, len(x) - 1, min(SAMPLE, len(x))).astype(int))].astype(np.float64)
    return x[np.isfinite(x).all(axis=1)]


def _distance(a: Float[np.ndarray, "n k"], b: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "n m"]:
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    return np.sqrt(np.maximum(square, 0.0))


def _neighbours(
    task: TaskData, scale: Float[np.ndarray, " obs"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Distance of states to the nearest one in another half of the episodes, and the difference of the actions."""
    t, start = task.transitions, np.asarray(task.episode_start)
    half = int(start[len(start) // 2]) if task.episodes > 1 else len(task) // 2
    if not 0 < half < len(task):
        return np.zeros(0), np.zeros(0)
    picked = [
        np.unique(np.linspace(a, b - 1, min(SAMPLE, b - a)).astype(int)) for a, b in ((0, half), (half, len(task)))
    ]
    obs, action = (np.asarray(x, np.float64) for x in (t.obs, t.action))
    finite = np.isfinite(np.concatenate([obs, action], axis=1)).all(axis=1)
    first, second = (p[finite[p]] for p in picked)
    if not len(first) or not len(second):
        return np.zeros(0), np.zeros(0)
    distance = _distance(obs[first] / scale, obs[second] / scale)
    nearest = distance.argmin(axis=1)
    deviation = action[finite].std(axis=0)
    spread = np.where(deviation > 1e-9, deviation, 1.0)
    difference = np.abs((action[first] - action[second[nearest]]) / spread).mean(axis=1)
    return distance[np.arange(len(first)), nearest], difference


def _support(task: TaskData, about: SetInfo) -> float:
    low, high = action_bounds(about)
    action = np.asarray(task.transitions.action, np.float64)
    action = action[np.isfinite(action).all(axis=1)]
    place = np.clip((action - low) / (high - low) * BINS, 0, BINS - 1).astype(int)
    return float(np.mean([len(np.unique(column)) / BINS for column in place.T])) if len(place) else 0.0


def _quality(tasks: Sequence[TaskData]) -> tuple[str, str]:
    """A word for the data's quality, and what it rests on."""
    scaled = []
    gain = []
    for task in tasks:
        returns, known = task.returns(), task.reference
        if {"random", "expert"} <= known.keys() and known["expert"] != known["random"]:
            scaled.append((returns - known["random"]) / (known["expert"] - known["random"]))
        top = np.sort(returns)[-max(len(returns) // 10, 1) :].mean()
        if np.isfinite(top) and returns.std() > 0:
            gain.append((top - returns.mean()) / returns.std())
    if not scaled:
        rest = "all episodes of a task return the same"
        if gain:
            rest = f"the best tenth of the episodes lies {np.mean(gain):.1f} standard deviations above the mean"
        return "unknown", f"no reference returns are stored; {rest}"
    mean = float(np.mean([s.mean() for s in scaled]))
    spread = float(np.mean([s.std() for s in scaled]))
    basis = f"mean score {mean:.2f}, where 0 is random and 1 expert; deviation between episodes {spread:.2f}"
    if spread > 0.25 and mean >= 0.1:
        return "mixed", basis
    return ("random" if mean < 0.1 else "medium" if mean < 0.75 else "expert"), basis
