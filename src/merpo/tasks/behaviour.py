"""The behaviour policies that log data: analytic for the point robots, shipped checkpoints for the others.

`weights/<family>/index.json` lists the shipped checkpoints of one privileged training run (updates,
environment steps, deterministic return per task) and which of them each quality uses. Neural behaviour is the
*stochastic* policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from merpo.errors import ConfigError, StorageError
from merpo.tasks.analytic import MEDIUM_SKILL, MIXED_SKILLS, degraded_act, greedy_act, is_analytic
from merpo.tasks.family import Act, Family
from merpo.tasks.names import check_quality, get_family
from merpo.tasks.policies import (
    Policy,
    dealt_act,
    load_policy,
    mode_act,
    read_json,
    save_policy,
    write_json,
)
from merpo.tasks.trainer import train_behaviour

__all__ = ["Shipped", "behaviour_act", "expert_act", "select_checkpoints", "shipped", "train_behaviour"]

WEIGHTS = Path(__file__).parent / "weights"
MEDIUM_SHARE = 0.45
"""Share of the way from uniform actions to the expert, task by task, that `medium` comes nearest to."""
SMALL_GAIN = 0.1
"""Share of the mean gain over uniform actions below which a task cannot tell good checkpoints from poor ones."""
MIXED_COUNT = 8
"""Number of successive checkpoints in the `mixed` quality."""
POOL_COUNT = 16
"""Number of checkpoints that ship at most."""
REFERENCE_SEED = 20_240_229
"""Seed of the reference returns, so that they are the same in every data set of a family."""
REFERENCE_EPISODES = 20
"""Episodes per task behind a reference return, in MuJoCo families of many tasks fewer (500 in all, 5 at least)."""


@dataclass(frozen=True)
class Shipped:
    """The checkpoints that ship with a family."""

    checkpoints: tuple[dict[str, Any], ...]
    """Per checkpoint, in order of training: `file`, `updates`, `env_steps`, `returns` per task, `mean_return`."""
    qualities: dict[str, list[list[int]]]
    """Per quality (`medium`, `expert`, `mixed`) and task: the checkpoints it uses, `mixed` from poor to expert."""
    folder: Path
    """Where the files are."""
    reference: dict[str, list[float]] | None = None
    """Mean returns per task of uniform actions (`random`) and of the deterministic `expert`, where stored."""

    def policy(self, checkpoint: int) -> Policy:
        """The policy of one checkpoint."""
        return load_policy(self.folder / self.checkpoints[checkpoint]["file"])


def has_weights(name: str) -> bool:
    """Whether checkpoints ship with this family."""
    return (WEIGHTS / get_family(name).name / "index.json").exists()


def pedigree(name: str) -> tuple[tuple[str, str], ...]:
    """What tells the shipped checkpoints of a family from others, for `SetInfo.versions`; empty without any."""
    if not has_weights(name):
        return ()
    index = (WEIGHTS / get_family(name).name / "index.json").read_bytes()
    return (("behaviour policies", hashlib.sha256(index).hexdigest()[:12]),)


@cache
def shipped(name: str) -> Shipped:
    """The shipped checkpoints of a family. Raises StorageError if there are none."""
    folder = WEIGHTS / get_family(name).name
    if not has_weights(name):
        raise StorageError(
            f"family={name!r} ships no behaviour policies, only quality='random' can be logged. Train them with merpo"
            f" behaviour train {name} --out DIR --updates 600000, then choose with merpo behaviour select DIR."
        )
    index = read_json(folder / "index.json")
    try:
        return Shipped(tuple(index["checkpoints"]), dict(index["qualities"]), folder, index.get("reference"))
    except (KeyError, TypeError) as error:
        raise StorageError(
            f"path={str(folder / 'index.json')!r}: expected the keys 'checkpoints' and 'qualities' ({error})."
            " Write it anew with select_checkpoints."
        ) from error


def expert_act(family: Family, task_ids: Sequence[int]) -> Act:
    """The family's deterministic expert, which knows the true tasks; the 1 of a normalised score."""
    if is_analytic(family):
        return greedy_act(family, task_ids)
    kept = shipped(family.name)
    # one expert for all tasks: it sees which task it is in
    return mode_act(family, kept.policy(kept.qualities["expert"][0][0]), task_ids)


def behaviour_act(family: Family, quality: str, task_ids: Sequence[int], episodes: int, seed: int) -> Act:
    """The stochastic policy that logs this quality, for one `Family.rollout` of these tasks and episodes.

    Every random number is keyed by (seed, task id, episode). Raises UnknownNameError for an unknown quality.
    """
    check_quality(quality)
    if is_analytic(family):
        skills = {"random": (0.0,), "medium": (MEDIUM_SKILL,), "expert": (1.0,), "mixed": MIXED_SKILLS}
        return degraded_act(family, task_ids, episodes, seed, skills[quality])
    if quality == "random":
        return uniform_act(family, task_ids, episodes, seed)
    return _shipped_act(family, quality, task_ids, episodes, seed)


def uniform_act(family: Family, task_ids: Sequence[int], episodes: int, seed: int) -> Act:
    """Uniform actions in [-1, 1]; the 0 of a normalised score."""
    shape = (family.horizon, family.act_dim)
    draws = np.stack(
        [
            [np.random.default_rng([seed, int(t), e, 1]).uniform(-1.0, 1.0, shape) for e in range(episodes)]
            for t in task_ids
        ]
    )

    def act(obs: np.ndarray, step: int) -> np.ndarray:
        del obs
        return draws[:, :, step]

    return act


@cache
def reference_returns(family: Family) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Mean undiscounted returns per task of uniform actions and of the deterministic expert.

    As stored with the family's weights, which were selected in modern physics; else simulated here. None for the
    expert where the family ships none.
    """
    known = is_analytic(family) or has_weights(family.name)
    stored = shipped(family.name).reference if known and not is_analytic(family) else None
    if stored is not None and family is get_family(family.name):
        return tuple(stored["random"]), tuple(stored["expert"])
    expert = expert_act(family, range(family.num_tasks)) if known else None
    return _reference(family, None), None if expert is None else _reference(family, expert)


def reference_episodes(family: Family) -> int:
    """Episodes per task behind the reference returns of a family."""
    return REFERENCE_EPISODES if is_analytic(family) else min(REFERENCE_EPISODES, max(5, 500 // family.num_tasks))


def _reference(family: Family, act: Act | None) -> tuple[float, ...]:
    """Mean returns per task of a policy, or of uniform actions."""
    ids, episodes = tuple(range(family.num_tasks)), reference_episodes(family)
    act = uniform_act(family, ids, episodes, REFERENCE_SEED) if act is None else act
    returns = family.rollout(act, ids, episodes, REFERENCE_SEED).returns
    return tuple(float(r) for r in returns.mean(axis=1))


def _shipped_act(family: Family, quality: str, task_ids: Sequence[int], episodes: int, seed: int) -> Act:
    """Sampled actions of the shipped checkpoints; episode e of a task follows the quality's e-th, in turn."""
    kept = shipped(family.name)
    dealt = [kept.qualities[quality][t] for t in task_ids]
    used = sorted({c for row in dealt for c in row})
    which = np.asarray([[used.index(row[e % len(row)]) for e in range(episodes)] for row in dealt])
    shape = (family.horizon, family.act_dim)
    noise = np.zeros((len(task_ids), episodes, *shape), np.float32)
    for i, task in enumerate(task_ids):
        for e in range(episodes):
            noise[i, e] = np.random.default_rng([seed, int(task), e, 2]).standard_normal(shape, np.float32)
    return dealt_act(family, [kept.policy(c) for c in used], which, task_ids, noise)


def select_checkpoints(run_dir: str | Path, dest: str | Path | None = None) -> dict[str, list[list[int]]]:
    """Pick the checkpoints of `medium`, `expert`, `mixed` from a training run; write weights and index to `dest`.

    A checkpoint's share is its deterministic return's place between uniform actions (0) and the best checkpoint
    (1). A pool of 16 checkpoints is taken first: the one with the best mean return, and those before it whose
    shares of the mean return come nearest to evenly spaced ones, 5 % to 100 %. From the pool: `expert` is the
    best for all tasks; `medium` is, task by task, the one nearest to a share of 45 %; `mixed` is, task by task,
    8 checkpoints in order of training nearest to evenly spaced shares. Weights are stored in 16 bits; the
    returns on fresh starts that the index holds as references are those of the stored policy.

    `dest` defaults to the folder of the weights shipped with the run's family; the files of an earlier
    selection are removed from it. Returns the index's `qualities`. Raises StorageError if the run holds no
    complete checkpoint, ConfigError if it holds fewer than 8 up to the best.
    """
    folder = Path(run_dir)
    records = training_checkpoints(folder)
    family = get_family(records[0]["family"])
    if len(records[0]["returns"]) != family.num_tasks:
        raise ConfigError(
            f"run_dir={str(run_dir)!r}: expected a run on all {family.num_tasks} tasks of {family.name!r}, this one is"
            f" on {records[0].get('tasks')}. Compare it with merpo behaviour compare, or train one without --tasks."
        )
    best = max(records, key=lambda r: r["mean_return"])
    rising = [r for r in records if r["updates"] <= best["updates"]]
    if len(rising) < MIXED_COUNT:
        raise ConfigError(
            f"run_dir={str(run_dir)!r}: expected at least {MIXED_COUNT} checkpoints up to the best one, found"
            f" {len(rising)}. Train longer, or save more often."
        )
    random = _reference(family, None)
    share = shares(np.asarray([r["returns"] for r in rising]), np.asarray(random))
    pool = [rising[i] for i in spread(share.mean_return, min(POOL_COUNT, len(rising)))]
    last = len(pool) - 1
    medium, mixed = [], []
    for own in shares(np.asarray([r["returns"] for r in pool]), np.asarray(random)).by_task.T:
        medium.append([int(np.argmin(np.abs(own - MEDIUM_SHARE)))])
        mixed.append(spread(own, MIXED_COUNT))
    qualities = {"medium": medium, "expert": [[last]] * family.num_tasks, "mixed": mixed}

    target = Path(dest) if dest is not None else WEIGHTS / family.name
    target.mkdir(parents=True, exist_ok=True)
    for r in pool:
        save_policy(target / r["file"], load_policy(folder / r["file"]), half=True)
    expert = mode_act(family, load_policy(target / best["file"]), range(family.num_tasks))
    kept = ("file", "updates", "env_steps", "returns", "mean_return")
    index = {
        "family": family.name,
        "version": family.version,
        "seed": best["seed"],
        "config": best["config"],
        "checkpoints": [{k: r[k] for k in kept} for r in pool],
        "qualities": qualities,
        "reference": {"random": random, "expert": _reference(family, expert)},
    }
    write_json(target / "index.json", index)
    # only now: until the new index is in place the old one may still be read
    for path in target.glob("ckpt-*.safetensors"):
        if path.name not in {r["file"] for r in pool}:
            path.unlink()
    shipped.cache_clear()
    reference_returns.cache_clear()
    return qualities


def training_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """What `train_behaviour` wrote beside each checkpoint, in order, and its `file`. Raises StorageError if none."""
    records = [
        read_json(path) | {"file": path.with_suffix(".safetensors").name}
        for path in sorted(folder.glob("ckpt-*.json"))
        if path.with_suffix(".safetensors").exists()
    ]
    if not records:
        raise StorageError(
            f"run_dir={str(folder)!r}: expected ckpt-*.json with .safetensors beside them. Give the folder that"
            " train_behaviour wrote to."
        )
    return records


class Shares(NamedTuple):
    """Where checkpoints stand between uniform actions, 0, and the last checkpoint, 1."""

    mean_return: Float[np.ndarray, " n"]
    """By the mean return over tasks."""
    by_task: Float[np.ndarray, "n task"]
    """By the return on each task; by the mean return on tasks where the last checkpoint gains next to nothing."""


def shares(returns: Float[np.ndarray, "n task"], random: Float[np.ndarray, " task"]) -> Shares:
    """The checkpoints' shares of the last one's gain over `random`, the returns of uniform actions."""
    gain = returns - random
    whole = gain.mean(1) / gain[-1].mean()
    told = gain[-1] > SMALL_GAIN * gain[-1].mean()
    return Shares(whole, np.where(told, gain / np.where(told, gain[-1], 1.0), whole[:, None]))


def spread(shares: Float[np.ndarray, " n"], count: int) -> list[int]:
    """`count` increasing indices, the last n - 1, whose shares come nearest to evenly spaced ones, 5 % to 100 %.

    Least sum of absolute differences, by dynamic programming over (target, index).
    """
    goal = np.linspace(0.05, 1.0, count)
    cost = np.abs(np.asarray(shares, np.float64)[:, None] - goal[None])
    cost[-1, :-1] = cost[:-1, -1] = np.inf  # the expert ends the list and is used nowhere else
    total = np.full(cost.shape, np.inf)
    origin = np.zeros(cost.shape, int)
    total[:, 0] = cost[:, 0]
    for j in range(1, count):
        for i in range(j, len(cost)):
            origin[i, j] = int(np.argmin(total[:i, j - 1]))
            total[i, j] = cost[i, j] + total[origin[i, j], j - 1]
    picked = [len(cost) - 1]
    for j in range(count - 1, 0, -1):
        picked.append(int(origin[picked[-1], j]))
    return picked[::-1]
