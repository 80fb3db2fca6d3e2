"""Stopping when learning diverges: NaN, infinite or exploding figures, with the task and the figure named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from merpo.algorithms.merpo_config import MerPOConfig
from merpo.errors import DivergenceError

VALUES = ("critic/q_data", "critic/q_policy", "critic/gap", "actor/q", "rac/value_scale")
VALUE_LIMIT = 1e6
"""Largest sane value, in prepared units, where values are of order one."""
LIMIT = 1e12
"""Largest sane figure of any other kind: squares of values, likelihoods of narrow Gaussians."""


@dataclass(frozen=True)
class Where:
    """The jobs of a stage by name, seeds outermost."""

    stage: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    config: MerPOConfig

    def job(self, i: int) -> str:
        """Task and seed of a job."""
        return f"task {self.tasks[i % len(self.tasks)]!r}, seed {self.seeds[i // len(self.tasks)]}"

    def entry(self, index: int, length: int) -> str:
        """Who an index into a leading axis of this length belongs to."""
        if length == len(self.seeds) * len(self.tasks):
            return self.job(index)
        return f"seed {self.seeds[index]}" if length == len(self.seeds) else f"entry {index}"


def check_figures(figures: Mapping[str, np.ndarray], where: Where, when: str, jobs: Sequence[int] = ()) -> None:
    """Raise DivergenceError if a figure, last axis [job], is NaN, infinite or beyond its limit.

    `jobs`: the job of each entry of the last axis, where these are not all jobs in order.
    """
    for name, values in figures.items():
        limit = VALUE_LIMIT if name in VALUES else LIMIT
        sane = np.abs(values) <= limit  # False for NaN
        if sane.all():
            continue
        flat = sane.reshape(-1, sane.shape[-1])
        row, column = np.argwhere(~flat)[0]
        value = np.asarray(values).reshape(flat.shape)[row, column]
        who = where.job(jobs[column] if len(jobs) else int(column))
        raise DivergenceError(_text(where, when, f"{name} of {who} is {value:g}", name))


def check_state(tree: Any, where: Where, when: str) -> None:
    """Raise DivergenceError if a parameter, or anything else in a state, is NaN or infinite."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        x = np.asarray(leaf)
        if not np.issubdtype(x.dtype, np.floating) or np.isfinite(x).all():
            continue
        index = int(np.argwhere(~np.isfinite(x))[0][0]) if x.ndim else 0
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        who = where.entry(index, x.shape[0]) if x.ndim else "all jobs"
        raise DivergenceError(_text(where, when, f"{name} of {who} holds NaN or infinite numbers", name))


def _text(where: Where, when: str, what: str, name: str) -> str:
    c = where.config
    advice = {
        "critic": f"Lower rac.critic_lr (now {c.rac.critic_lr:g}) or rac.tau (now {c.rac.tau:g})",
        "actor": f"Lower rac.actor_lr (now {c.rac.actor_lr:g}) or raise rac.lam (now {c.rac.lam:g})",
        "metas": f"Lower meta_lr (now {c.meta_lr:g})",
        "meta": f"Lower meta_lr (now {c.meta_lr:g})",
        "dynamics": f"Lower dynamics.learning_rate (now {c.dynamics.learning_rate:g})",
        "rings": f"Lower rac.rollout_length (now {c.rac.rollout_length})",
        "bc": "Look at that task's actions",
    }
    parts = name.replace("/", ".").split(".")
    found = next((advice[p] for p in parts if p in advice), advice["critic"])
    return (
        f"{where.stage} diverged, {when}: {what}. {found}. If other tasks are well, `merpo data check` may show what "
        "is unusual in this one's log."
    )
