"""What an agent of a task's own reaches, beside the family's one expert for all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from merpo.errors import ConfigError
from merpo.tasks.behaviour import REFERENCE_SEED, shipped, training_checkpoints
from merpo.tasks.names import get_family
from merpo.tasks.policies import load_policy, mode_act

FRESH_STARTS = 100
"""Episodes per policy, from the same starts."""


def own_agents(run_dirs: Sequence[str | Path], episodes: int = FRESH_STARTS) -> list[dict[str, Any]]:
    """Per run of `train_behaviour(tasks=...)` and task: returns of its best checkpoint and of the shipped expert.

    The best of a run is that of the highest mean return on the few starts used in training; the returns here, `own`
    and `expert`, are deterministic ones on `episodes` fresh starts, the same for both. Raises StorageError for a folder
    without checkpoints, ConfigError for a run on all tasks.
    """
    rows = []
    for run_dir in run_dirs:
        records = training_checkpoints(Path(run_dir))
        family = get_family(records[0]["family"])
        tasks = tuple(records[0].get("tasks") or range(family.num_tasks))
        if len(tasks) == family.num_tasks:
            raise ConfigError(
                f"run_dir={str(run_dir)!r}: expected a run on some tasks of {family.name!r}, this one is on all. Train"
                " it with merpo behaviour train --tasks."
            )
        best = max(records, key=lambda r: r["mean_return"])
        kept = shipped(family.name)
        policies = {
            "own": load_policy(Path(run_dir) / best["file"]),
            "expert": kept.policy(kept.qualities["expert"][0][0]),
        }
        returns = {
            name: family.rollout(mode_act(family, policy, tasks), tasks, episodes, REFERENCE_SEED + 1).returns
            for name, policy in policies.items()
        }
        rows += [
            {
                "family": family.name,
                "version": family.version,
                "task": task,
                "seed": best["seed"],
                "together": len(tasks),
                "updates": best["updates"],
                "env_steps": best["env_steps"],
                "asked": records[-1]["asked"],
                "every": records[-1]["every"],
                "all_env_steps": records[-1]["env_steps"],
                "seconds": records[-1]["seconds"],
                "curve": [[r["updates"], r["env_steps"], r["returns"][i]] for r in records],
            }
            | {name: [float(r) for r in found[i]] for name, found in returns.items()}
            for i, task in enumerate(tasks)
        ]
    return rows
