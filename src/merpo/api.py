"""The front door: `load`, `MerPO(...).fit(...)`, `adapt`, and policies that take and give NumPy arrays.

data   = merpo.load("point-robot-goal/medium")
meta   = merpo.MerPO(seed=0).fit(data.train)
policy = meta.adapt(data.test[0])
action = policy(observation)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from merpo import precision
from merpo.algorithms import pipeline, rac
from merpo.algorithms.context import Context
from merpo.algorithms.merpo import MerPOConfig
from merpo.algorithms.pipeline import Learned, Report
from merpo.algorithms.presets import default_config
from merpo.algorithms.rivals import adapt as rivals
from merpo.algorithms.rivals.combo import scratch_models
from merpo.data import LogSummary, Preparation, SetInfo, TaskData, TaskSet, storage
from merpo.dynamics.ensemble import Ensemble, TargetScale
from merpo.errors import ConfigError, UnknownNameError
from merpo.inputs import checked_seeds, checked_tasks, training_tasks
from merpo.policies import Policy, PolicySet, PolicyTree
from merpo.runs import (
    Checkpoints,
    diff,
    fingerprint,
    from_json,
    keeping,
    load_checkpoint,
    merged,
    nested,
    save_checkpoint,
    to_json,
    work_of,
)
from merpo.stored import META_KIND, read_head

Checkpoint = Checkpoints | str | os.PathLike[str] | None
"""Where the state of long work is kept: a folder, or `Checkpoints` to say how often too."""
ADAPTING = ("adapt_updates", "bc_updates", "group", "warm_critic", "rac")
"""Settings that an adaptation can change after training, `rac` but for those `SETTLED`."""
SETTLED = ("rac.actor_hidden", "rac.critic_hidden", "rac.critic_layer_norm")
METHODS = ("meta-policy", "bc", *rivals.SINGLE_TASK, "rac", "merpo")
"""What `Meta.adapt_many` offers, in the order of tables."""


def load(
    name: str,
    *,
    episodes: int = 50,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
) -> TaskSet:
    """A stored data set by name; a `family/quality` that is not stored yet is generated (seeded) and stored.

    Generating needs the `tasks` extra. Raises StorageError for an unknown name, DataError for damaged data.
    """
    family, _, quality = name.partition("/")
    generated = f"{family}/{quality}-e{episodes}-s{seed}"
    known = {entry.name for entry in storage.list_sets(root)}
    for candidate in (name, generated):
        if candidate in known:
            return storage.load(candidate, root)
    try:
        from merpo.tasks import QUALITIES, env_specs, families, generate
    except ImportError:
        return storage.load(name, root)
    if family in families() and quality in QUALITIES:
        made = generate(family, quality, episodes, seed)
        storage.save(made, generated, root, env_spec=env_specs(made))
        return storage.load(generated, root)
    if quality and family in families():
        raise UnknownNameError(f"name={name!r}: unknown quality {quality!r}; expected one of {', '.join(QUALITIES)}.")
    return storage.load(name, root)  # raises, naming what there is


@dataclass(frozen=True)
class Meta:
    """A meta-model and meta-policy, ready to be adapted to new tasks."""

    learned: Learned
    info: SetInfo
    """Of the training data; `gamma` is the discount that was learned with."""
    config: MerPOConfig
    seeds: tuple[int, ...]
    curves: dict[str, Any] | None = None
    """Learning curves of meta-training [round, seed, task] by metric name."""

    def adapt(
        self,
        task: TaskData,
        *,
        certify: bool = True,
        insist: bool = False,
        alphas: Sequence[float] = (),
        lams: Sequence[float] = (),
        updates: Sequence[int] = (),
        report: Report = pipeline.silent,
    ) -> Policy:
        """A policy for a new task from its log (the first seed's, where several were trained).

        Half of the episodes are kept from learning to say whether the policy is better than what logged them
        (`policy.certificate`); if that is not sure, the clone of the logged behaviour is returned in its place, unless
        `insist`. `alphas`, `lams` and `updates` (of the adaptation) are settings to choose from, by off-policy
        evaluation on the learning half. `certify=False` learns from the whole log and promises nothing.
        """
        one = self.only(self.seeds[0])
        if certify:
            from merpo.certified import Choices, adapt_certified

            choices = Choices(tuple(alphas), tuple(lams), tuple(updates))
            listed = one._checked([task])
            return adapt_certified(one, listed, insist=insist, choices=choices, report=report).policy(0)
        if alphas or lams or updates:
            raise ConfigError("certify=False with alphas, lams or updates: settings are chosen where one certifies.")
        return one.adapt_many([task], report=report).policy(0)

    def adapt_models(
        self,
        tasks: TaskSet | Sequence[TaskData],
        *,
        checkpoint: Checkpoint = None,
        report: Report = pipeline.silent,
    ) -> pipeline.NewTasks:
        """The meta-model adapted to several tasks, to share among methods: pass it to `adapt_many` as `models`."""
        listed = self._checked(tasks)
        with self._precision(), keeping(checkpoint, lambda: self._work(listed)) as keeper:
            return pipeline.fit_new(self.learned, listed, self.info, self.config, self.seeds, report, keeper)

    def adapt_many(
        self,
        tasks: TaskSet | Sequence[TaskData],
        method: str = "merpo",
        *,
        models: pipeline.NewTasks | None = None,
        settings: rivals.Settings | None = None,
        checkpoint: Checkpoint = None,
        report: Report = pipeline.silent,
    ) -> PolicySet:
        """Policies for several new tasks and every seed, in one compiled loop.

        `method`: `merpo`; `rac`, without the meta-policy; `bc`, the behaviour term alone; `meta-policy`, unadapted; or
        a rival that has the new log alone: `combo` (`combo+meta-model` has the adapted model too), `td3+bc`, `iql`.
        `models`: of the same tasks, from `adapt_models`; adapted here when not given.
        `settings`: of `td3+bc` or `iql`; by default the paper's with the budget of MerPO's adaptation.
        `checkpoint`: as in `MerPO.fit`; one folder can serve all methods of an adaptation. Rivals keep no state.
        """
        with self._precision():
            return self._adapted(self._checked(tasks), method, models, settings, checkpoint, report)

    def _precision(self) -> AbstractContextManager[None]:
        return precision.use(self.config.matmul_precision)

    def _adapted(
        self,
        listed: list[TaskData],
        method: str,
        models: pipeline.NewTasks | None,
        settings: rivals.Settings | None,
        checkpoint: Checkpoint,
        report: Report,
    ) -> PolicySet:
        names = tuple(t.name for t in listed)
        curves, errors = None, None

        def new() -> pipeline.NewTasks:
            return models or self.adapt_models(listed, checkpoint=checkpoint, report=report)

        if method in ("merpo", "rac"):
            models = new()
            with keeping(checkpoint, lambda: self._work(listed)) as keeper:
                found = pipeline.adapt(self.learned, models, self.info, self.config, self.seeds, method, report, keeper)
            actor, curves, errors = found.actor, found.metrics, found.model_error
        elif method == "bc":
            actor = pipeline.clone_tasks(listed, self.learned.preparation, self.info, self.config, self.seeds)
        elif method == "meta-policy":
            actor = pipeline.meta_policies(self.learned, new(), self.seeds)
        elif method in rivals.SINGLE_TASK:
            actor, curves, errors = rivals.adapt(
                method, self.learned, listed, new, self.info, self.config, self.seeds, settings, report
            )
        else:
            raise ConfigError(f"method={method!r}: expected any of {', '.join(METHODS)}.")
        tree = PolicyTree(actor, self.learned.preparation)
        logs = tuple(LogSummary.of(t, self.info) for t in listed)
        return PolicySet(method, tree, self.info, names, self.seeds, self.config, curves, errors, logs=logs)

    def scratch_models(
        self, tasks: TaskSet | Sequence[TaskData], *, report: Report = pipeline.silent
    ) -> pipeline.NewTasks:
        """Models of the tasks from their own logs alone, as `combo` has them; for `adapt_many` as `models`."""
        listed = self._checked(tasks)
        with self._precision():
            return scratch_models(self.learned, listed, self.info, self.config, self.seeds, report)

    def adapting(self, settings: Mapping[str, Any]) -> Meta:
        """The same, to be adapted with other settings: `{"rac.alpha": 0.2, "adapt_updates": 4000}`, named as in
        `MerPOConfig`. ConfigError for one that does not fit, or that was settled in training.
        """
        config = from_json(MerPOConfig, merged(to_json(self.config), nested(settings)))
        changed = [line.partition(":")[0] for line in diff(self.config, config)]
        if settled := [n for n in changed if n in SETTLED or n.partition(".")[0] not in ADAPTING]:
            raise ConfigError(
                f"{settled[0]}: settled in training. Adaptation can change {', '.join(ADAPTING[:-1])}, and all of"
                f" {ADAPTING[-1]} but {', '.join(SETTLED)}. Train with it instead (merpo train --config)."
            )
        return replace(self, config=config)

    def save(self, path: str | os.PathLike[str]) -> None:
        """One safetensors file with the configuration inside; loading it never executes code."""
        meta = {"kind": META_KIND, "info": to_json(self.info), "seeds": list(self.seeds)}
        save_checkpoint(Path(path), self.learned, meta, self.config)

    @staticmethod
    def load(path: str | os.PathLike[str], config: MerPOConfig | None = None) -> Meta:
        """What `save` wrote; with `config`, ConfigError if the file belongs to another configuration."""
        head = read_head(path, META_KIND)
        stored, info, seeds = head.config, head.info, head.seeds
        like = eqx.filter_eval_shape(lambda: unlearned(info, stored, seeds))
        learned, _ = load_checkpoint(Path(path), like, config or stored)
        return Meta(learned, info, stored, seeds)

    def only(self, seed: int) -> Meta:
        """The same for one of its seeds."""
        if seed not in self.seeds:
            raise UnknownNameError(f"seed={seed}: expected one of {self.seeds}, which were trained.")
        i, old = self.seeds.index(seed), self.learned
        of_seeds = (old.meta_model, old.meta_actor, old.meta_critic, old.context)
        model, actor, critic, context = jax.tree.map(lambda x: x[i : i + 1], of_seeds)
        learned = Learned(model, actor, critic, context, old.scale, old.preparation)
        return replace(self, learned=learned, seeds=(seed,))

    def _work(self, tasks: Sequence[TaskData]) -> dict[str, Any]:
        work = work_of("adapt", tasks, self.info, self.config, self.seeds)
        return work | {"learned": fingerprint(self.learned)}

    def _checked(self, tasks: TaskSet | Sequence[TaskData]) -> list[TaskData]:
        return checked_tasks(tasks, self.info)


def unlearned(info: SetInfo, config: MerPOConfig, seeds: Sequence[int]) -> Learned:
    """What meta-training would leave, its networks as they begin and its units empty: shapes to load into."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    models = jax.vmap(lambda k: Ensemble.init(k, info.obs_dim, info.act_dim, config.dynamics))(keys)
    actor, critic = jax.vmap(lambda k: rac.networks(k, info.obs_dim, info.act_dim, config.rac, config.context))(keys)
    context = jax.vmap(lambda _: Context.like(info.obs_dim, info.act_dim, config.context))(jnp.arange(len(seeds)))
    out, obs = jnp.zeros(info.obs_dim + 1, jnp.float32), jnp.zeros(info.obs_dim, jnp.float32)
    scale = TargetScale(out, out, obs, obs)
    return Learned(models, actor, critic, context, scale, Preparation.like(info.obs_dim, info.act_dim))


class MerPO:
    """Model-based offline meta-RL with regularised policy optimisation: learns from many tasks' logs.

    `config` defaults to `default_config` for the data at hand; `seed` (or `seeds`, which are trained side by side
    in the same compiled calls) makes the result reproducible bit for bit on one machine and version.
    """

    def __init__(
        self,
        config: MerPOConfig | None = None,
        *,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        on_constant: str = "error",
    ):
        self.config = config
        self.seeds = checked_seeds(seed, seeds)
        self.on_constant = on_constant

    def fit(self, tasks: TaskSet, *, checkpoint: Checkpoint = None, report: Report = pipeline.silent) -> Meta:
        """Learn from the training tasks (`data.train`).

        With `checkpoint`, a folder, the state is kept there about once a minute; after a kill the same call goes on
        from it, to the same bits as without the kill. Delete the folder when the result is saved.
        Raises DataError for data that cannot be learned from, DivergenceError where learning diverges, ConfigError
        for a folder with the state of other data, settings or seeds.
        """
        config = self.config or default_config(tasks.info, tasks.train.tasks)
        used = training_tasks(tasks, config.rac.gamma, self.on_constant)
        preparation = Preparation.fit(used)
        work = partial(work_of, "fit", used.tasks, used.info, config, self.seeds)
        with precision.use(config.matmul_precision), keeping(checkpoint, work) as keeper:
            learned, curves = pipeline.fit(used.tasks, used.info, preparation, config, self.seeds, report, keeper)
        return Meta(learned, used.info, config, self.seeds, curves)
