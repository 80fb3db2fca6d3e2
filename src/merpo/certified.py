"""Adaptation with a certificate: learn on one part of a new task's log, certify on the other, fall back if refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from merpo.algorithms.threads import host_cores, side_by_side
from merpo.data import LogSummary
from merpo.errors import ConfigError
from merpo.evaluation.offpolicy import Target
from merpo.guarantee.certificate import Certificate, CertificateConfig, certify, choose, split_log

if TYPE_CHECKING:
    from merpo.algorithms.merpo_config import MerPOConfig
    from merpo.api import Meta
    from merpo.data import TaskData
    from merpo.policies import PolicySet

AT_ONCE = min(host_cores(), 8)
"""Certificates made at the same time: on a locomotion-sized log each holds some 150 MB meanwhile."""


@dataclass(frozen=True)
class Choices:
    """Settings to choose from for every task, by off-policy evaluation on the learning part; empty: as configured."""

    alpha: tuple[float, ...] = ()
    """Balance of the two anchors; one that is chosen does not adapt."""
    lam: tuple[float, ...] = ()
    """Weight of both."""
    updates: tuple[int, ...] = ()
    """Where to stop: numbers of updates of the adaptation."""

    def settings(self, config: MerPOConfig) -> list[tuple[dict[str, float], MerPOConfig]]:
        """Every combination, by name and as a configuration. ConfigError for a value that cannot be."""
        mode = "fixed" if self.alpha else config.rac.alpha_mode
        grid = product(
            self.alpha or (config.rac.alpha,), self.lam or (config.rac.lam,), self.updates or (config.adapt_updates,)
        )
        return [
            (
                {"alpha": float(a), "lam": float(lam), "updates": n},
                replace(
                    config, rac=replace(config.rac, alpha=float(a), alpha_mode=mode, lam=float(lam)), adapt_updates=n
                ),
            )
            for a, lam, n in grid
        ]


def adapt_certified(
    meta: Meta,
    tasks: Sequence[TaskData],
    method: str = "merpo",
    *,
    insist: bool = False,
    choices: Choices | None = None,
    config: CertificateConfig | None = None,
    report: Any = None,
) -> PolicySet:
    """Policies for new tasks with one certificate each, `certificates[seed][task]`.

    Every log is split by episode; the policy, the choice among `choices` and the scales of the estimate come from one
    part, the bound from the other. A policy that is not certified is replaced by the clone of the logged behaviour
    (learned from the whole log), unless `insist`. A log of one episode certifies nothing.
    """
    from merpo.algorithms.pipeline import silent

    if method not in ("merpo", "rac"):
        raise ConfigError(f"method={method!r}: expected 'merpo' or 'rac', the methods that improve on the behaviour.")
    config = config or CertificateConfig()
    parts = [split_log(t, config) if t.episodes > 1 else (t, t) for t in tasks]
    learned = [a for a, _ in parts]
    found, settings = _chosen(meta, learned, method, choices or Choices(), config, report or silent)
    unadapted = meta.adapt_many(learned, "meta-policy")
    spread = float((1.0 - meta.info.gamma) / np.asarray(meta.learned.preparation.reward_scale))

    def judged(place: tuple[int, int]) -> Certificate:
        s, i = place
        mine, theirs = (Target(p.policy(i, meta.seeds[s])) for p in (found, unadapted))
        made = certify(parts[i][1], mine, meta.info.horizon, parts[i][0], theirs, spread, config)
        return replace(made, settings=settings[s][i])

    places = list(product(range(len(meta.seeds)), range(len(tasks))))
    each = iter(side_by_side(judged, places, AT_ONCE))
    made = tuple(tuple(next(each) for _ in tasks) for _ in meta.seeds)
    if not insist and not all(c.certified for row in made for c in row):
        found = _fall_back(found, meta.adapt_many(tasks, "bc"), made)
    logs = tuple(LogSummary.of(t, meta.info) for t in tasks)
    return replace(found, certificates=made, insisted=insist, logs=logs)


def _chosen(
    meta: Meta,
    learned: Sequence[TaskData],
    method: str,
    choices: Choices,
    config: CertificateConfig,
    report: Any,
) -> tuple[PolicySet, list[list[dict[str, float]]]]:
    """The adapted policies, of several settings task by task the preferred one, and those settings [seed][task]."""
    models = meta.adapt_models(learned, report=report)
    grid = choices.settings(meta.config)
    sets = [replace(meta, config=c).adapt_many(learned, method, models=models, report=report) for _, c in grid]
    if len(sets) == 1:
        return sets[0], [[{} for _ in learned] for _ in meta.seeds]

    def pick(place: tuple[int, int]) -> int:
        s, i = place
        return choose(learned[i], [Target(p.policy(i, meta.seeds[s])) for p in sets], meta.info.horizon, config)

    places = list(product(range(len(meta.seeds)), range(len(learned))))
    picked = np.asarray(side_by_side(pick, places, AT_ONCE)).reshape(len(meta.seeds), len(learned))
    rows, tasks = np.indices(picked.shape)
    actor = jax.tree.map(lambda *x: jnp.stack(x)[picked, rows, tasks], *(s.tree.actor for s in sets))
    known = [s.cloned for s in sets if s.cloned is not None]
    cloned = tuple(map(tuple, np.stack(known)[picked, rows, tasks].tolist())) if known else None
    chosen = replace(
        sets[0], tree=replace(sets[0].tree, actor=actor), config=meta.config, curves=None, cloned=cloned
    )  # of several learning curves none is the chosen policies'
    return chosen, [[grid[k][0] for k in row] for row in picked.tolist()]


def _fall_back(found: PolicySet, clones: PolicySet, made: tuple[tuple[Certificate, ...], ...]) -> PolicySet:
    granted = jnp.asarray([[c.certified for c in row] for row in made])

    def choose(adapted: jax.Array, clone: jax.Array) -> jax.Array:
        return jnp.where(granted.reshape(*granted.shape, *(1,) * (adapted.ndim - 2)), adapted, clone)

    actor = jax.tree.map(choose, found.tree.actor, clones.tree.actor)
    return replace(found, tree=replace(found.tree, actor=actor))
