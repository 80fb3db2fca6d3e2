"""Context learners behind the same door as MerPO: `Focal(seed=0).fit(data.train).adapt(data.test[0])`.

They train on the training tasks; a new task's whole log is their context (protocol `offline`), and adapting takes no
gradient step. Single-task rivals need no training: `Meta.adapt_many(tasks, "combo" | "td3+bc" | "iql")`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from merpo.algorithms.presets import default_config
from merpo.algorithms.rivals import contextual
from merpo.algorithms.rivals.contextual import (
    CONTEXT,
    CbcqConfig,
    CsroConfig,
    FocalConfig,
    MbmlConfig,
    PearlConfig,
    Settings,
    UnicornConfig,
    budgeted,
)
from merpo.algorithms.rivals.encoders import Conditioned
from merpo.algorithms.rivals.iql import IQLConfig
from merpo.algorithms.rivals.td3bc import TD3BCConfig
from merpo.algorithms.rounds import Report, silent
from merpo.data import LogSummary, Preparation, SetInfo, TaskData, TaskSet
from merpo.errors import ConfigError, UnknownNameError
from merpo.inputs import checked_seeds, checked_tasks, training_tasks
from merpo.policies import Policy, PolicySet, PolicyTree
from merpo.runs import load_checkpoint, save_checkpoint, to_json
from merpo.stored import LEARNER_KIND, read_head

METHODS = tuple(CONTEXT)
"""Context learners, in the order of tables."""


class LearnedTree(eqx.Module):
    """The arrays of a `ContextMeta`."""

    learned: Conditioned
    """[seed]"""
    preparation: Preparation


@dataclass(frozen=True)
class ContextMeta:
    """What a context learner has learned, ready to be given new tasks' logs."""

    method: str
    tree: LearnedTree
    info: SetInfo
    """Of the training data; `gamma` is the discount that was learned with."""
    config: Settings
    seeds: tuple[int, ...]
    curves: dict[str, Any] | None = None
    """Learning curves [round, seed, 1] by metric name."""

    def adapt(self, task: TaskData) -> Policy:
        """A policy for a new task from its log (the first seed's, where several were trained)."""
        return self.adapt_many([task]).policy(0)

    def adapt_many(self, tasks: TaskSet | Sequence[TaskData]) -> PolicySet:
        """Policies for several new tasks and every seed."""
        listed = checked_tasks(tasks, self.info)
        actor = contextual.adapt(self.tree.learned, listed, self.info, self.tree.preparation)
        names = tuple(t.name for t in listed)
        tree = PolicyTree(actor, self.tree.preparation)
        logs = tuple(LogSummary.of(t, self.info) for t in listed)
        return PolicySet(self.method, tree, self.info, names, self.seeds, self.config, logs=logs)

    def only(self, seed: int) -> ContextMeta:
        """The same for one of its seeds."""
        if seed not in self.seeds:
            raise UnknownNameError(f"seed={seed}: expected one of {self.seeds}, which were trained.")
        i = self.seeds.index(seed)
        learned = jax.tree.map(lambda x: x[i : i + 1], self.tree.learned)
        return replace(self, tree=LearnedTree(learned, self.tree.preparation), seeds=(seed,))

    @staticmethod
    def together(metas: Sequence[ContextMeta]) -> ContextMeta:
        """The inverse of `only`: one for all seeds of several that were trained on the same data."""
        learned = jax.tree.map(lambda *x: jnp.concatenate(x), *(m.tree.learned for m in metas))
        tree = LearnedTree(learned, metas[0].tree.preparation)
        return replace(metas[0], tree=tree, seeds=sum((m.seeds for m in metas), ()), curves=None)

    def save(self, path: str | os.PathLike[str]) -> None:
        """One safetensors file with the settings inside; loading it never executes code."""
        meta = {"kind": LEARNER_KIND, "method": self.method, "info": to_json(self.info), "seeds": list(self.seeds)}
        save_checkpoint(Path(path), self.tree, meta, self.config)

    @staticmethod
    def load(path: str | os.PathLike[str], config: Settings | None = None) -> ContextMeta:
        """What `save` wrote; with `config`, ConfigError if the file belongs to other settings."""
        head = read_head(path, LEARNER_KIND)
        stored, info, algorithm = head.config, head.info, CONTEXT[head.method][0]

        def make() -> LearnedTree:
            keys = jax.random.split(jax.random.key(0), len(head.seeds))
            states = jax.vmap(lambda k: algorithm.init(k, info.obs_dim, info.act_dim, stored))(keys)
            return LearnedTree(algorithm.learned(states), Preparation.like(info.obs_dim, info.act_dim))

        tree, _ = load_checkpoint(Path(path), eqx.filter_eval_shape(make), config or stored)
        return ContextMeta(head.method, tree, info, stored, head.seeds)


class ContextLearner:
    """A context-based offline meta-RL method: `method` is one of pearl, cbcq, mbml, focal, csro, unicorn.

    `config` defaults to the paper's settings with the budget that MerPO has on the same data; all `seeds` are trained
    side by side.
    """

    def __init__(
        self,
        method: str,
        config: Settings | None = None,
        *,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        on_constant: str = "error",
    ):
        if method not in CONTEXT:
            raise ConfigError(f"method={method!r}: expected any of {', '.join(CONTEXT)}.")
        kind = CONTEXT[method][1]
        if config is not None and type(config) is not kind:
            raise ConfigError(f"config: a {type(config).__name__}, expected the {kind.__name__} of method={method!r}.")
        self.method = method
        self.config = config
        self.seeds = checked_seeds(seed, seeds)
        self.on_constant = on_constant

    def fit(self, tasks: TaskSet, *, report: Report = silent) -> ContextMeta:
        """Learn from the training tasks (`data.train`). Raises DataError for data that cannot be learned from."""
        base = default_config(tasks.info, tasks.train.tasks)
        used = training_tasks(tasks, base.rac.gamma, self.on_constant)
        config = self.config or budgeted(self.method, base)
        preparation = Preparation.fit(used)
        learned, curves = contextual.fit(self.method, used.tasks, used.info, preparation, config, self.seeds, report)
        return ContextMeta(self.method, LearnedTree(learned, preparation), used.info, config, self.seeds, curves)


def Pearl(config: PearlConfig | None = None, **options: Any) -> ContextLearner:
    """Batch PEARL; options as of `ContextLearner`."""
    return ContextLearner("pearl", config, **options)


def Cbcq(config: CbcqConfig | None = None, **options: Any) -> ContextLearner:
    """Contextual BCQ; options as of `ContextLearner`."""
    return ContextLearner("cbcq", config, **options)


def Focal(config: FocalConfig | None = None, **options: Any) -> ContextLearner:
    """FOCAL; options as of `ContextLearner`."""
    return ContextLearner("focal", config, **options)


def Mbml(config: MbmlConfig | None = None, **options: Any) -> ContextLearner:
    """MBML; options as of `ContextLearner`."""
    return ContextLearner("mbml", config, **options)


def Csro(config: CsroConfig | None = None, **options: Any) -> ContextLearner:
    """CSRO; options as of `ContextLearner`."""
    return ContextLearner("csro", config, **options)


def Unicorn(config: UnicornConfig | None = None, **options: Any) -> ContextLearner:
    """UNICORN; options as of `ContextLearner`."""
    return ContextLearner("unicorn", config, **options)


__all__ = [
    "METHODS",
    "Cbcq",
    "CbcqConfig",
    "ContextLearner",
    "ContextMeta",
    "Csro",
    "CsroConfig",
    "Focal",
    "FocalConfig",
    "IQLConfig",
    "Mbml",
    "MbmlConfig",
    "Pearl",
    "PearlConfig",
    "TD3BCConfig",
    "Unicorn",
    "UnicornConfig",
]
