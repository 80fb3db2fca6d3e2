"""What is legal in one task's log but looks like a mistake."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, Shaped

from merpo.data.summary import at_bounds
from merpo.data.types import SetInfo, TaskData
from merpo.data.validation import Finding

SMALL = 100
"""A task with fewer transitions is reported as very small."""
SATURATED = 0.5
"""Share of actions at their bounds from which saturation is reported."""
DUPLICATES = 0.01
"""Share of repeated transitions in a task from which it is a warning; below it is only mentioned."""
NEAR_CONSTANT = 1e-4
"""A column counts as near-constant when its spread within a task is below this, relative to max(1, |mean|)."""
OUTLIER = 100.0
"""Values further from the median than this many times the distance from the 5 % to the 95 % quantile stand out."""


def suspicions(task: TaskData, about: SetInfo, keys: Int[np.ndarray, " n"]) -> Iterator[Finding]:
    """Warnings and remarks about one task with sound shapes; `keys` are its `row_keys`."""
    yield from _shape_of_episodes(task, about)
    yield from _columns(task, about)
    yield from _repeats(task, keys)


def row_keys(task: TaskData) -> Int[np.ndarray, " n"]:
    """A 64-bit hash of each transition's observation, action, reward and successor."""
    t = task.transitions
    columns = [np.asarray(t.obs), np.asarray(t.action), np.asarray(t.reward)[:, None], np.asarray(t.next_obs)]
    return hashed(np.concatenate(columns, axis=1))


def hashed(rows: Shaped[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
    """A 64-bit hash of each row's bytes: the multiply-rotate rounds and the finaliser of MurmurHash3 (Appleby)."""
    words = np.ascontiguousarray(rows).view(np.uint32)
    key = np.full(len(rows), 0x9E3779B97F4A7C15, np.uint64)
    for j in range(words.shape[1]):
        word = words[:, j].astype(np.uint64) * np.uint64(0x87C37B91114253D5)
        word = (word << np.uint64(31)) | (word >> np.uint64(33))
        key ^= word * np.uint64(0x4CF5AD432745937F)
        key = ((key << np.uint64(27)) | (key >> np.uint64(37))) * np.uint64(5) + np.uint64(0x52DCE729)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        key = (key ^ (key >> np.uint64(33))) * np.uint64(factor)
    return (key ^ (key >> np.uint64(33))).view(np.int64)


def _shape_of_episodes(task: TaskData, about: SetInfo) -> Iterator[Finding]:
    """How episodes end and hang together."""

    def found(severity: str, code: str, message: str, advice: str) -> Finding:
        return Finding(severity, code, f"task {task.name!r}: {message}", advice, task.name)

    start, t = np.asarray(task.episode_start), task.transitions
    last, lengths = start[1:] - 1, np.diff(start)
    terminated, truncated = np.asarray(t.terminated), np.asarray(t.truncated)
    if len(task) < SMALL:
        advice = "A model fitted to so little tells mostly of the other tasks; log more if you can."
        yield found("warning", "small", f"only {len(task)} transitions in {task.episodes} episodes.", advice)
    open_ends = int((~terminated[last] & ~truncated[last]).sum())
    if open_ends:
        message = f"{open_ends} of {task.episodes} episodes end with neither terminated nor truncated."
        advice = "They are taken as cut logs (value follows); set terminated where the task really ended."
        yield found("warning", "open-end", message, advice)
    if (lengths > about.horizon).any():
        message = f"the longest episode has {lengths.max()} steps, more than info.horizon={about.horizon}."
        yield found("warning", "horizon", message, "Correct the horizon, or the episode bounds.")

    inner = np.setdiff1d(np.arange(len(task)), last)
    obs, following = np.asarray(t.obs, np.float64), np.asarray(t.next_obs, np.float64)
    gap = np.abs(following[inner] - obs[inner + 1]) > 1e-5 * (1.0 + np.abs(following[inner]))
    broken = np.flatnonzero(gap.any(axis=1))
    elsewhere = int(np.isin(hashed(following[inner[broken]]), hashed(obs)).sum()) if len(broken) else 0
    if elsewhere:
        message = (
            f"rows are out of order: in {elsewhere} steps inside episodes the next observation is found in another row"
            f" than the next (first broken step: row {inner[broken[0]]})."
        )
        yield found("warning", "order", message, "Sort the log by episode and time; check the episode bounds.")
    elif len(broken):
        message = (
            f"next_obs is not the next row's obs in {len(broken)} of {len(inner)} steps inside episodes"
            f" (first: row {inner[broken[0]]})."
        )
        advice = "Harmless for learning from single steps, but check the episode bounds and the order of the rows."
        yield found("warning", "chaining", message, advice)

    ends = int(terminated[last].sum())
    if ends and about.termination == "never":
        message = f"{ends} episodes terminated although info.termination='never'."
        advice = "Imagined rollouts would run past the end: set termination to 'learned', or clear the flags."
        yield found("warning", "termination", message, advice)
    if ends > 1 and not truncated.any() and np.all(lengths == about.horizon):
        message = (
            f"every episode has exactly {about.horizon} steps (the horizon) and none is truncated, {ends} terminated."
        )
        advice = "A time limit stored as a termination makes values fall to zero there: store it as truncated."
        yield found("warning", "time-limit", message, advice)


def _columns(task: TaskData, about: SetInfo) -> Iterator[Finding]:
    """Columns that say little: constant observations, saturated actions, constant rewards."""

    def found(code: str, message: str, advice: str) -> Finding:
        return Finding("warning", code, f"task {task.name!r}: {message}", advice, task.name)

    obs = np.asarray(task.transitions.obs, np.float64)
    spread, level = np.ptp(obs, axis=0), np.abs(obs.mean(axis=0))
    constant = np.flatnonzero(spread == 0)
    if len(constant) and len(task) > 1:
        message = f"observation columns {constant.tolist()} are constant within the task."
        yield found("constant-in-task", message, "Fine if they describe the task; otherwise leave them out.")
    near = np.flatnonzero((spread > 0) & (obs.std(axis=0) < NEAR_CONSTANT * np.maximum(1.0, level)))
    if len(near):
        message = (
            f"observation columns {near.tolist()} hardly change (standard deviation {obs.std(axis=0)[near].max():.2g})."
        )
        yield found("near-constant", message, "Standardisation would magnify their noise: check their units.")
    share = at_bounds(task, about).mean(axis=0)
    if (share > SATURATED).any():
        column = int(share.argmax())
        message = f"{share[column]:.0%} of the actions in column {column} lie at their bounds."
        advice = "Densities are clipped there; check that the actions are scaled as their bounds say."
        yield found("saturation", message, advice)
    reward = np.asarray(task.transitions.reward)
    yield from _outliers(task, np.concatenate([obs, reward[:, None].astype(np.float64)], axis=1))
    if len(reward) > 1 and np.ptp(reward) == 0:
        message = f"the reward is {reward[0]:g} in every transition."
        yield found("constant-reward", message, "Nothing tells good from bad here; check the reward column.")


def _outliers(task: TaskData, x: Float[np.ndarray, "n columns"]) -> Iterator[Finding]:
    """Single values far outside everything else in their column (the last one is the reward)."""
    if len(x) < SMALL or not np.isfinite(x).all():
        return
    low, middle, high = np.quantile(x, [0.05, 0.5, 0.95], axis=0)
    distance = np.abs(x - middle)
    wild = (distance > OUTLIER * (high - low)) & (high > low)
    for column in np.flatnonzero(wild.any(axis=0))[:5]:
        row = int(distance[:, column].argmax())
        name = "the reward" if column == x.shape[1] - 1 else f"observation column {column}"
        message = (
            f"task {task.name!r}: {name} has {int(wild[:, column].sum())} values far outside the rest (row {row}:"
            f" {x[row, column]:.4g}; 90 % lie between {low[column]:.4g} and {high[column]:.4g})."
        )
        advice = "A faulty sensor or a missing-value code, often: drop those rows, or they dominate the scaling."
        yield Finding("warning", "outlier", message, advice, task.name)


def _repeats(task: TaskData, keys: Int[np.ndarray, " n"]) -> Iterator[Finding]:
    repeated = len(keys) - len(np.unique(keys))
    if repeated:
        share = repeated / len(keys)
        message = f"task {task.name!r}: {repeated} of {len(keys)} transitions ({share:.1%}) repeat another one exactly."
        advice = "Usual for deterministic tasks with equal starts; otherwise the log was joined to itself."
        yield Finding("warning" if share >= DUPLICATES else "info", "duplicates", message, advice, task.name)
        start = np.asarray(task.episode_start)
        inner = np.setdiff1d(np.arange(1, len(keys)), start)
        twice = int((keys[inner] == keys[inner - 1]).sum())
        if twice >= max(DUPLICATES * len(keys), 2):
            message = f"task {task.name!r}: {twice} steps repeat the step right before them exactly."
            advice = "Fine if the system can stand still; otherwise the logger wrote steps twice: drop the copies."
            yield Finding("warning", "repeated-step", message, advice, task.name)
