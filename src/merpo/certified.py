"""Adaptation with a certificate: learn on one part of a new task's log, certify on the other, fall back if refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from merpo.data import LogSummary
from merpo.errors import ConfigError
from merpo.evaluation.offpolicy import Target
from merpo.guarantee.certificate import Certificate, CertificateConfig, certify, choose, split_log

if TYPE_CHECKING:
    from merpo.api import Meta, PolicySet
    from merpo.data import TaskData


def adapt_certified(
    meta: Meta,
    tasks: Sequence[TaskData],
    method: str = "merpo",
    *,
    insist: bool = False,
    alphas: Sequence[float] = (),
    config: CertificateConfig | None = None,
    report: Any = None,
) -> PolicySet:
    """Policies for new tasks with one certificate each, `certificates[seed][task]`.

    Every log is split by episode; the policy and the features that judge it come from one part, the bound from the
    other. A policy that is not certified is replaced by the clone of the logged behaviour (learned from the whole
    log), unless `insist`. With `alphas`, each of these is tried besides the configuration's own, and task by task the
    one is taken that off-policy evaluation on the learning part prefers. DataError for a log of one episode.
    """
    from merpo.algorithms.pipeline import silent

    if method not in ("merpo", "rac"):
        raise ConfigError(f"method={method!r}: expected 'merpo' or 'rac', the methods that improve on the behaviour.")
    config = config or CertificateConfig()
    parts = [split_log(t, config) for t in tasks]
    learned = [a for a, _ in parts]
    found = _chosen(meta, learned, method, alphas, config, report or silent)
    unadapted = meta.adapt_many(learned, "meta-policy")
    spread = float((1.0 - meta.info.gamma) / np.asarray(meta.learned.preparation.reward_scale))
    made = tuple(
        tuple(
            certify(
                held, Target(found.policy(i, seed)), meta.info.horizon, part, Target(unadapted.policy(i, seed)), spread,
                config,
            )
            for i, (part, held) in enumerate(parts)
        )
        for seed in meta.seeds
    )  # fmt: skip
    if not insist and not all(c.certified for row in made for c in row):
        found = _fall_back(found, meta.adapt_many(tasks, "bc"), made)
    logs = tuple(LogSummary.of(t, meta.info) for t in tasks)
    return replace(found, certificates=made, insisted=insist, logs=logs)


def _chosen(
    meta: Meta,
    learned: Sequence[TaskData],
    method: str,
    alphas: Sequence[float],
    config: CertificateConfig,
    report: Any,
) -> PolicySet:
    """The adapted policies, of several alphas task by task the preferred one."""
    models = meta.adapt_models(learned, report=report)
    settings = [meta.config] + [replace(meta.config, rac=replace(meta.config.rac, alpha=float(a))) for a in alphas]
    sets = [replace(meta, config=c).adapt_many(learned, method, models=models, report=report) for c in settings]
    if len(sets) == 1:
        return sets[0]
    picked = np.asarray(
        [
            [
                choose(part, [Target(s.policy(i, seed)) for s in sets], meta.info.horizon, config)
                for i, part in enumerate(learned)
            ]
            for seed in meta.seeds
        ]
    )
    rows, tasks = np.indices(picked.shape)
    actor = jax.tree.map(lambda *x: jnp.stack(x)[picked, rows, tasks], *(s.tree.actor for s in sets))
    return replace(sets[0], tree=replace(sets[0].tree, actor=actor), curves=None)


def _fall_back(found: PolicySet, clones: PolicySet, made: tuple[tuple[Certificate, ...], ...]) -> PolicySet:
    granted = jnp.asarray([[c.certified for c in row] for row in made])

    def choose(adapted: jax.Array, clone: jax.Array) -> jax.Array:
        return jnp.where(granted.reshape(*granted.shape, *(1,) * (adapted.ndim - 2)), adapted, clone)

    actor = jax.tree.map(choose, found.tree.actor, clones.tree.actor)
    return replace(found, tree=replace(found.tree, actor=actor))
