"""A report on a data set: everything that cannot be learned from, and everything that looks like a
mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from merpo.data.prepare import action_bounds
from merpo.data.types import SetInfo, TaskData, TaskSet
from merpo.data.validation import Finding, problems, shape_problems

SMALL = 100
"""A task with fewer transitions is reported as very small."""
SATURATED = 0.5
"""Share of actions at their bounds from which saturation is reported."""
DUPLICATES = 0.01
"""Share of repeated transitions in a task from which it is a warning; below it is only mentioned."""
NEAR_CONSTANT = 1e-4
"""A column counts as near-constant when its spread within a task is below this, relative to max(1,
|mean|).
"""


@dataclass(frozen=True)
class TaskSummary:
    """One task in figures; returns are undiscounted, per episode."""

    name: str
    split: str
    episodes: int
    steps: int
    shortest: int
    longest: int
    return_mean: float
    return_std: float
    reward_min: float
    reward_max: float
    terminated: int
    """Episodes that terminated."""
    truncated: int
    """Episodes that were truncated (and did not terminate)."""
    saturated: float
    """Share of action entries within 1 % of a bound."""


@dataclass(frozen=True)
class Summary:
    """A set in figures, see `info`."""

    info: SetInfo
    train_tasks: int
    test_tasks: int
    episodes: int
    steps: int
    tasks: tuple[TaskSummary, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries and lists; figures that are not finite become None."""
        return _finite(asdict(self))

    def render(self) -> str:
        """A plain-text table."""
        i = self.info
        lines = [
            (
                f"{i.family}/{i.quality} v{i.version}: {self.train_tasks} training and {self.test_tasks} test"
                f" tasks, {self.episodes} episodes, {self.steps} steps"
            ),
            (
                f"obs_dim {i.obs_dim}, act_dim {i.act_dim}, gamma {i.gamma}, horizon {i.horizon}, termination"
                f" {i.termination}, physics {i.physics}, seed {i.seed}"
            ),
            "",
        ]
        return "\n".join(lines) + _table(self.tasks)


@dataclass(frozen=True)
class Report:
    """What `check` found."""

    findings: tuple[Finding, ...]
    """Errors first, then warnings, then remarks."""
    summary: Summary

    @property
    def ok(self) -> bool:
        """True when there is no error: the set can be learned from."""
        return not any(f.severity == "error" for f in self.findings)

    def count(self, severity: str) -> int:
        """How many findings have this severity."""
        return sum(f.severity == severity for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries and lists."""
        return {
            "ok": self.ok,
            "findings": [asdict(f) for f in self.findings],
            "summary": self.summary.to_json(),
        }

    def render(self) -> str:
        """Plain text: the table of tasks, then one paragraph per finding."""
        lines = [self.summary.render(), ""]
        lines += [f"{f.severity.upper()} [{f.code}] {f.text}" for f in self.findings]
        verdict = "can be learned from" if self.ok else "cannot be learned from as it is"
        errors, warnings = self.count("error"), self.count("warning")
        return "\n".join([*lines, f"{errors} errors, {warnings} warnings: the data set {verdict}."])


def check(taskset: TaskSet, on_constant: str = "error") -> Report:
    """Look for everything `validate` would raise, and for what is legal but suspicious; no data raise.

    Warnings: observation columns (near) constant within a task, episodes ending with neither flag, rows whose
    `next_obs` is not the next row's `obs`, saturated actions, repeated transitions (within a task, and
    between training and test tasks), constant or very differently scaled rewards, very small tasks, and
    terminations that look like time limits or contradict `info.termination`.
    """
    found = list(problems(taskset, on_constant))
    if not any(f.code == "info" for f in found):
        with np.errstate(all="ignore"):  # infinite values are reported already
            found += _warnings(taskset)
    order = {"error": 0, "warning": 1, "info": 2}
    return Report(tuple(sorted(found, key=lambda f: order[f.severity])), info(taskset))


def info(taskset: TaskSet) -> Summary:
    """A set in figures; tasks with unsound shapes are counted but left out of the table."""
    with np.errstate(all="ignore"):
        rows = tuple(_summary(t, taskset.info) for t in _sound(taskset))
    train, test = len(taskset.train), len(taskset.test)
    return Summary(taskset.info, train, test, sum(r.episodes for r in rows), sum(r.steps for r in rows), rows)


def _sound(taskset: TaskSet) -> list[TaskData]:
    return [t for t in taskset if not any(shape_problems(t, taskset.info))]


def _warnings(taskset: TaskSet) -> list[Finding]:
    """What is legal but suspicious."""
    found: list[Finding] = []
    keyed = [(task, _row_keys(task)) for task in _sound(taskset)]
    for task, keys in keyed:
        found += _shape_of_episodes(task, taskset.info)
        found += _columns(task, taskset.info)
        found += _repeats(task, keys)
    found += _reward_scales([task for task, _ in keyed if task.split == "train"])
    found += _leakage(keyed)
    return found


def _finite(x: Any) -> Any:
    """Nested dictionaries and sequences with None for numbers that JSON cannot hold."""
    if isinstance(x, dict):
        return {k: _finite(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_finite(v) for v in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x


def _summary(task: TaskData, about: SetInfo) -> TaskSummary:
    returns, lengths = task.returns(), np.diff(task.episode_start)
    last = np.asarray(task.episode_start)[1:] - 1
    terminated = np.asarray(task.transitions.terminated)[last]
    truncated = np.asarray(task.transitions.truncated)[last] & ~terminated
    reward = np.asarray(task.transitions.reward, np.float64)
    return TaskSummary(
        name=task.name,
        split=task.split,
        episodes=task.episodes,
        steps=len(task),
        shortest=int(lengths.min()),
        longest=int(lengths.max()),
        return_mean=float(returns.mean()),
        return_std=float(returns.std()),
        reward_min=float(reward.min()),
        reward_max=float(reward.max()),
        terminated=int(terminated.sum()),
        truncated=int(truncated.sum()),
        saturated=float(_at_bounds(task, about).mean()),
    )


def _at_bounds(task: TaskData, about: SetInfo) -> Bool[np.ndarray, "n act"]:
    """Which action entries lie within 1 % of a bound."""
    low, high = action_bounds(about)
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    return np.abs(np.asarray(task.transitions.action, np.float64) - middle) >= 0.99 * half


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
    if len(broken):
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
    share = _at_bounds(task, about).mean(axis=0)
    if (share > SATURATED).any():
        column = int(share.argmax())
        message = f"{share[column]:.0%} of the actions in column {column} lie at their bounds."
        advice = "Densities are clipped there; check that the actions are scaled as their bounds say."
        yield found("saturation", message, advice)
    reward = np.asarray(task.transitions.reward)
    if len(reward) > 1 and np.ptp(reward) == 0:
        message = f"the reward is {reward[0]:g} in every transition."
        yield found("constant-reward", message, "Nothing tells good from bad here; check the reward column.")


def _row_keys(task: TaskData) -> Int[np.ndarray, " n"]:
    """A 64-bit hash of each transition's observation, action, reward and successor."""
    t = task.transitions
    columns = [np.asarray(t.obs), np.asarray(t.action), np.asarray(t.reward)[:, None], np.asarray(t.next_obs)]
    rows = np.ascontiguousarray(np.concatenate(columns, axis=1))
    width = rows.shape[1] * rows.itemsize
    return np.fromiter((hash(r) for r in rows.view(f"V{width}").ravel().tolist()), np.int64, len(rows))


def _repeats(task: TaskData, keys: Int[np.ndarray, " n"]) -> Iterator[Finding]:
    repeated = len(keys) - len(np.unique(keys))
    if repeated:
        share = repeated / len(keys)
        message = f"task {task.name!r}: {repeated} of {len(keys)} transitions ({share:.1%}) repeat another one exactly."
        advice = "Usual for deterministic tasks with equal starts; otherwise the log was joined to itself."
        yield Finding("warning" if share >= DUPLICATES else "info", "duplicates", message, advice, task.name)


def _leakage(tasks: list[tuple[TaskData, Int[np.ndarray, " _"]]]) -> Iterator[Finding]:
    """Transitions of test tasks that some training task has as well."""
    train = [keys for task, keys in tasks if task.split == "train"]
    if not train:
        return
    seen = np.unique(np.concatenate(train))
    for task, keys in tasks:
        shared = int(np.isin(keys, seen).sum()) if task.split == "test" else 0
        if shared:
            message = f"task {task.name!r}: {shared} of {len(keys)} transitions are also in a training task."
            advice = "A test on data that were trained on proves nothing: log the test tasks separately."
            yield Finding("warning", "leakage", message, advice, task.name)


def _reward_scales(train: list[TaskData]) -> Iterator[Finding]:
    """Training tasks whose rewards differ in scale by more than a hundred."""
    spread: dict[str, float] = {}
    for task in train:
        deviation = float(np.std(np.asarray(task.transitions.reward, np.float64)))
        if np.isfinite(deviation) and deviation > 0:
            spread[task.name] = deviation
    if spread:
        least, most = min(spread, key=spread.__getitem__), max(spread, key=spread.__getitem__)
        if spread[most] > 100 * spread[least]:
            message = f"the reward's deviation is {spread[most]:.3g} in {most!r} and {spread[least]:.3g} in {least!r}."
            yield Finding("warning", "reward-scale", message, "Rescale the rewards so that tasks weigh alike.")


def _table(rows: tuple[TaskSummary, ...]) -> str:
    head = ("task", "split", "episodes", "steps", "length", "return", "reward", "term/trunc", "saturated")
    body: list[tuple[str, ...]] = [head]
    for r in rows:
        length = str(r.longest) if r.shortest == r.longest else f"{r.shortest}-{r.longest}"
        body.append(
            (
                r.name,
                r.split,
                str(r.episodes),
                str(r.steps),
                length,
                f"{r.return_mean:.4g} +- {r.return_std:.3g}",
                f"{r.reward_min:.4g} .. {r.reward_max:.4g}",
                f"{r.terminated}/{r.truncated}",
                f"{r.saturated:.0%}",
            )
        )
    width = [max(len(line[c]) for line in body) for c in range(len(head))]
    return "\n".join("  ".join(x.ljust(w) for x, w in zip(line, width, strict=True)).rstrip() for line in body)
