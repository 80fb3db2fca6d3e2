"""Collection: a family and a quality to a complete `TaskSet`, the same bytes for the same arguments."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import numpy as np

from merpo.data.types import TaskData, TaskSet, Transitions
from merpo.errors import ConfigError
from merpo.tasks.behaviour import behaviour_act, pedigree, reference_returns
from merpo.tasks.family import Family, Rollout
from merpo.tasks.names import check_quality, family_of, get_family


def generate(
    family: Family | str, quality: str, episodes: int = 50, seed: int = 0, test_episodes: int | None = None
) -> TaskSet:
    """Log `episodes` episodes per training task and `test_episodes` (default: as many) per test task.

    The splits are collected with different seeds, so that in families with train = test their logs differ;
    tasks are then named `task-000-train` and `task-000-test`, else `task-000`. Every task carries its true
    parameters and its reference returns. For `half-cheetah-fwd-back` the mean velocity of a step, which the
    observation lacks, can be had back from the log: v = d (reward + 0.05 ||action||^2).

    Raises UnknownNameError for an unknown family or quality, ConfigError for counts below one or a negative
    seed.
    """
    if isinstance(family, str):
        family = get_family(family)
    check_quality(quality)
    counts = {"train": episodes, "test": episodes if test_episodes is None else test_episodes}
    for split, count in counts.items():
        if count < 1:
            name = "episodes" if split == "train" else "test_episodes"
            raise ConfigError(f"{name}={count!r}: expected at least one episode per task. Raise it.")
    if seed < 0:
        raise ConfigError(f"seed={seed!r}: expected a number that is not negative. Choose another.")
    shared = bool(set(family.train_ids) & set(family.test_ids))
    random, expert = reference_returns(family)
    tasks = []
    for number, (split, count) in enumerate(counts.items()):
        ids = family.train_ids if split == "train" else family.test_ids
        # one word of a seed sequence: keeps the splits and the evaluations' own small seeds apart
        split_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        run = family.rollout(behaviour_act(family, quality, ids, count, split_seed), ids, count, split_seed)
        for row, task in enumerate(ids):
            name = f"task-{task:03d}-{split}" if shared else f"task-{task:03d}"
            reference = {"random": random[task]} | ({} if expert is None else {"expert": expert[task]})
            tasks.append(_task(run, row, name, split, family.parameters(task), reference))
    info = family.info(quality, seed)
    return TaskSet(replace(info, versions=info.versions + pedigree(family.name)), tuple(tasks))


def env_specs(taskset: TaskSet) -> dict[str, str] | None:
    """Per task of a generated set, the specification (JSON) of its environment, for `merpo.data.save`.

    With it Minari's `recover_environment()` gives the very task that the data were collected in. None without
    Gymnasium.
    """
    if importlib.util.find_spec("gymnasium") is None:
        return None
    import gymnasium

    family = family_of(taskset.info)
    base = json.loads(gymnasium.spec(family.env_id).to_json())
    setting = {} if family.physics == "none" else {"physics": family.physics, "observation": family.observation}
    return {
        task.name: json.dumps({**base, "kwargs": {**base["kwargs"], **setting, **dict(task.parameters)}})
        for task in taskset
    }


def _task(
    run: Rollout,
    row: int,
    name: str,
    split: str,
    parameters: dict[str, float | list[float]],
    reference: dict[str, float],
) -> TaskData:
    length = run.length[row]
    kept = np.arange(run.reward.shape[-1])[None] < length[:, None]
    transitions = Transitions(
        obs=run.obs[row][kept],
        action=run.action[row][kept],
        reward=run.reward[row][kept],
        next_obs=run.next_obs[row][kept],
        terminated=run.terminated[row][kept],
        truncated=run.truncated[row][kept],
    )
    start = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    return TaskData(name, split, transitions, start, parameters, reference)
