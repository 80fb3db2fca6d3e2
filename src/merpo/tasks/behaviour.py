"""The behaviour policies that log data: analytic for the point robots, shipped checkpoints for the others.

`weights/<family>/index.json` lists the shipped checkpoints of one privileged training run (updates,
environment steps, deterministic return per task) and which of them each quality uses. Neural behaviour is the
*stochastic* policy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from merpo.errors import ConfigError, StorageError
from merpo.tasks.analytic import MEDIUM_SKILL, MIXED_SKILLS, degraded_act, greedy_act, is_analytic
from merpo.tasks.family import Act, Family
from merpo.tasks.names import check_quality, get_family
from merpo.tasks.policies import (
    Policy,
    distribution,
    inputs,
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
"""Share of the expert's return, task by task, that the `medium` checkpoint comes nearest to."""
MIXED_COUNT = 8
"""Number of successive checkpoints in the `mixed` quality."""


@dataclass(frozen=True)
class Shipped:
    """The checkpoints that ship with a family."""

    checkpoints: tuple[dict[str, Any], ...]
    """Per checkpoint: `file`, `updates`, `env_steps`, `returns` per task, `mean_return`."""
    qualities: dict[str, list[str]]
    """Files that `medium`, `expert` and `mixed` use, the latter from poor to expert."""
    folder: Path
    """Where the files are."""

    def policies(self, quality: str) -> tuple[Policy, ...]:
        """The policies of a quality."""
        return tuple(load_policy(self.folder / file) for file in self.qualities[quality])


@cache
def shipped(name: str) -> Shipped:
    """The shipped checkpoints of a family. Raises StorageError if there are none."""
    folder = WEIGHTS / get_family(name).name
    index = read_json(folder / "index.json")
    try:
        return Shipped(tuple(index["checkpoints"]), dict(index["qualities"]), folder)
    except (KeyError, TypeError) as error:
        raise StorageError(
            f"path={str(folder / 'index.json')!r}: expected the keys 'checkpoints' and 'qualities' ({error})."
            " Write it anew with select_checkpoints."
        ) from error


def expert_act(family: Family, task_ids: Sequence[int]) -> Act:
    """The family's deterministic expert, which knows the true tasks; the 1 of a normalised score."""
    if is_analytic(family):
        return greedy_act(family, task_ids)
    return mode_act(family, shipped(family.name).policies("expert")[0], task_ids)


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
    return _sampled_act(family, shipped(family.name).policies(quality), task_ids, episodes, seed)


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


def _sampled_act(
    family: Family, policies: Sequence[Policy], task_ids: Sequence[int], episodes: int, seed: int
) -> Act:
    """Sampled actions; episode e follows checkpoint `e % len(policies)`."""
    shape = (family.horizon, family.act_dim)
    noise = np.stack(
        [
            [
                np.random.default_rng([seed, int(t), e, 2]).standard_normal(shape, np.float32)
                for e in range(episodes)
            ]
            for t in task_ids
        ]
    )

    def act(obs: np.ndarray, step: int) -> np.ndarray:
        action = np.zeros((*obs.shape[:2], family.act_dim), np.float32)
        for k, policy in enumerate(policies):
            part = slice(k, None, len(policies))
            if obs[:, part].size:
                mean, std = distribution(policy.actor, inputs(family, policy, task_ids, obs[:, part]))
                action[:, part] = np.tanh(mean + std * noise[:, part, step])
        return action

    return act


def select_checkpoints(run_dir: str | Path, dest: str | Path | None = None) -> dict[str, list[str]]:
    """Pick `medium`, `expert`, `mixed` from a training run's checkpoints; write weights and index to `dest`.

    expert: the best mean deterministic return. medium: every task nearest to 45 % of the expert's return.
    mixed: 8 checkpoints in order of training whose mean returns come nearest to evenly spaced shares of the
    expert's, 5 % to 100 %. `dest` defaults to the folder of the shipped weights of the run's family; files of
    an earlier selection are removed from it. Returns the files per quality.

    Raises StorageError if the run holds no complete checkpoint, ConfigError if it holds fewer than 8.
    """
    folder = Path(run_dir)
    records = []
    for path in sorted(folder.glob("ckpt-*.json")):
        if path.with_suffix(".safetensors").exists():
            records.append(read_json(path) | {"stem": path.stem})
    if not records:
        raise StorageError(
            f"run_dir={str(run_dir)!r}: expected checkpoints ckpt-*.json with .safetensors beside them."
            " Give the folder that train_behaviour wrote to."
        )
    family = get_family(records[0]["family"])
    best = max(records, key=lambda r: r["mean_return"])
    rising = [r for r in records if r["updates"] <= best["updates"]]
    if len(rising) < MIXED_COUNT:
        raise ConfigError(
            f"run_dir={str(run_dir)!r}: expected at least {MIXED_COUNT} checkpoints up to the best one, found"
            f" {len(rising)}. Train longer, or save more often."
        )
    goal = np.asarray(best["returns"])
    medium = min(rising, key=lambda r: float(np.abs(np.asarray(r["returns"]) / goal - MEDIUM_SHARE).max()))
    mixed = _spread(rising, best)
    target = Path(dest) if dest is not None else WEIGHTS / family.name
    target.mkdir(parents=True, exist_ok=True)

    chosen = sorted({r["stem"]: r for r in (*mixed, medium, best)}.values(), key=lambda r: r["updates"])
    names = {r["stem"]: f"{r['stem']}.safetensors" for r in chosen}
    for r in chosen:
        save_policy(target / names[r["stem"]], load_policy(folder / f"{r['stem']}.safetensors"))
    kept = ("updates", "env_steps", "returns", "mean_return")
    qualities = {
        "medium": [names[medium["stem"]]],
        "expert": [names[best["stem"]]],
        "mixed": [names[r["stem"]] for r in mixed],
    }
    index = {
        "family": family.name,
        "version": family.version,
        "seed": best["seed"],
        "config": best["config"],
        "checkpoints": [{"file": names[r["stem"]], **{k: r[k] for k in kept}} for r in chosen],
        "qualities": qualities,
    }
    # the index last: until it is there, an interrupted selection still reads as the one before
    write_json(target / "index.json", index)
    for path in target.glob("ckpt-*.safetensors"):
        if path.name not in names.values():
            os.remove(path)
    shipped.cache_clear()
    return qualities


def _spread(records: list[dict[str, Any]], best: dict[str, Any]) -> list[dict[str, Any]]:
    """MIXED_COUNT records in order of training, nearest to evenly spaced returns, by dynamic programming."""
    shares = np.linspace(0.05, 1.0, MIXED_COUNT)
    value = np.asarray([r["mean_return"] for r in records]) / best["mean_return"]
    cost = np.abs(value[:, None] - shares[None])
    cost[-1, :-1] = cost[:-1, -1] = np.inf  # the expert, last in the list, is the last of the mixture
    total = np.full(cost.shape, np.inf)
    origin = np.zeros(cost.shape, int)
    total[:, 0] = cost[:, 0]
    for j in range(1, MIXED_COUNT):
        for i in range(j, len(records)):
            origin[i, j] = int(np.argmin(total[:i, j - 1]))
            total[i, j] = cost[i, j] + total[origin[i, j], j - 1]
    picked = [len(records) - 1]
    for j in range(MIXED_COUNT - 1, 0, -1):
        picked.append(int(origin[picked[-1], j]))
    return [records[i] for i in reversed(picked)]
