"""What policies do on a task, beside what was logged there: paths of point robots, returns over time of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import merpo
    from merpo.data import TaskData, TaskSet
    from merpo.report.page import Traces

LOGGED, TASKS = 6, 6
"""Logged episodes and tasks that are shown, at most."""


def paths(act: Any, family: Any, ids: Sequence[int], episodes: int = 1) -> np.ndarray:
    """Positions [task, episode, step + 1, 2] of a policy on point robots, the last one reached included."""
    run = family.rollout(act, ids, episodes, 0)
    return np.concatenate([run.obs, run.next_obs[:, :, -1:]], axis=2)


def positions(task: TaskData, episode: int) -> np.ndarray:
    """Positions [step + 1, 2] of a logged episode of a point robot."""
    start, end = task.episode_start[episode], task.episode_start[episode + 1]
    t = task.transitions
    return np.concatenate([t.obs[start:end], t.next_obs[end - 1 : end]])


def goal_of(task: TaskData) -> list[float]:
    """Where a point robot should go."""
    from merpo.tasks.point_robot import WIND_GOAL

    return list(task.parameters.get("goal", WIND_GOAL))  # type: ignore[arg-type]


def traces(tasks: TaskSet, policies: Mapping[str, merpo.PolicySet]) -> Traces:
    """Some logged episodes beside one simulated episode of each policy's first seed, on a few of the tasks."""
    from merpo.evaluation import task_id
    from merpo.tasks import families, family_of

    chosen = np.unique(np.linspace(0, len(tasks) - 1, min(TASKS, len(tasks))).round().astype(int)).tolist()
    if tasks.info.family not in families():
        return _actions(tasks, policies, chosen)
    family, ids = family_of(tasks.info), [task_id(t.name) for t in tasks]
    acts = {m: p.act(p.seeds[0]) for m, p in policies.items()}
    if tasks.info.family.startswith(("point-robot", "sparse-point-robot")):
        return _paths(tasks, {m: paths(a, family, ids) for m, a in acts.items()}, chosen)
    return _returns(tasks, {m: family.rollout(a, ids, 1, 0) for m, a in acts.items()}, chosen)


def _paths(tasks: TaskSet, found: Mapping[str, np.ndarray], chosen: Sequence[int]) -> Traces:
    from merpo.report.page import Trace, Traces

    made = []
    for i in chosen:
        logged = tuple(positions(tasks[i], e) for e in range(min(LOGGED, tasks[i].episodes)))
        x, y = goal_of(tasks[i])
        made.append(Trace(tasks[i].name, logged, {m: p[i, 0] for m, p in found.items()}, (float(x), float(y))))
    return Traces("paths", tuple(made))


def _returns(tasks: TaskSet, found: Mapping[str, Any], chosen: Sequence[int]) -> Traces:
    """The return so far, and the state column whose course differs most between log and policy."""
    from merpo.report.page import Trace, Traces

    spans = [[_rows(tasks[i], e) for e in range(min(LOGGED, tasks[i].episodes))] for i in chosen]
    logged = [tasks[i].transitions.obs[np.concatenate(s)] for i, s in zip(chosen, spans, strict=True)]
    own = [np.concatenate([run.obs[i, 0, : run.length[i, 0]] for run in found.values()]) for i in chosen]
    scale = np.concatenate(logged).std(0) + 1e-6
    apart = sum(np.abs(a.mean(0) - b.mean(0)) for a, b in zip(logged, own, strict=True)) / scale
    column = int(np.argmax(apart))

    def lines(reward: np.ndarray, obs: np.ndarray) -> np.ndarray:
        keep = np.unique(np.linspace(0, len(reward) - 1, min(len(reward), 200)).round().astype(int))
        return np.stack([np.arange(len(reward)), np.cumsum(reward, dtype=np.float64), obs[:, column]], axis=1)[keep]

    made = []
    for i, rows in zip(chosen, spans, strict=True):
        t = tasks[i].transitions
        ends = {m: int(run.length[i, 0]) for m, run in found.items()}
        shown = {m: lines(run.reward[i, 0, : ends[m]], run.obs[i, 0, : ends[m]]) for m, run in found.items()}
        made.append(Trace(tasks[i].name, tuple(lines(t.reward[r], t.obs[r]) for r in rows), shown))
    return Traces("returns", tuple(made), ("step", "return so far", f"obs[{column}]"))


def _actions(tasks: TaskSet, policies: Mapping[str, merpo.PolicySet], chosen: Sequence[int]) -> Traces:
    """Along the first logged episode: the logged action, and the policies' in the same states."""
    from merpo.report.page import Trace, Traces

    made = []
    for i in chosen:
        rows = _rows(tasks[i], 0)[:200]
        t = tasks[i].transitions

        def line(action: np.ndarray) -> np.ndarray:
            return np.stack([np.arange(len(action)), action[:, 0]], axis=1)

        shown = {m: line(p.policy(i)(t.obs[rows])) for m, p in policies.items()}
        made.append(Trace(tasks[i].name, (line(t.action[rows]),), shown))
    return Traces("actions", tuple(made), ("step", "action[0]"))


def _rows(task: TaskData, episode: int) -> np.ndarray:
    return np.arange(task.episode_start[episode], task.episode_start[episode + 1])
