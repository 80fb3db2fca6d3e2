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
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from merpo import precision
from merpo.algorithms import pipeline, rac
from merpo.algorithms.context import Context
from merpo.algorithms.merpo import MerPOConfig
from merpo.algorithms.pipeline import Learned, Report
from merpo.algorithms.presets import default_config
from merpo.algorithms.rivals import adapt as rivals
from merpo.algorithms.rivals import contextual
from merpo.algorithms.rivals.policies import PolicyNet, describe, skeleton
from merpo.data import LogSummary, Preparation, SetInfo, TaskData, TaskSet, storage
from merpo.dynamics.ensemble import Ensemble, TargetScale
from merpo.errors import ConfigError, DataError, UnknownNameError
from merpo.guarantee.certificate import Certificate
from merpo.inputs import checked_seeds, checked_tasks, training_tasks
from merpo.runs import Checkpoints, fingerprint, keeping, load_checkpoint, save_checkpoint, to_json, work_of
from merpo.stored import META_KIND, POLICY_KIND, read_head

Checkpoint = Checkpoints | str | os.PathLike[str] | None
"""Where the state of long work is kept: a folder, or `Checkpoints` to say how often too."""
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


def policy_apply(params: tuple[PolicyNet, Preparation], obs: Array, step: Array) -> Array:
    """Deterministic actions in [-1, 1] of one policy per task: obs [task, episode, obs]. Jittable."""
    del step
    actor, preparation = params
    scaled = (obs - preparation.obs_mean[None, None]) / preparation.obs_std[None, None]
    return jax.vmap(lambda a, o: a(o).mode())(actor, scaled)


@partial(jax.jit)
def _mode(actor: PolicyNet, obs: Float[Array, "*n obs"]) -> Float[Array, "*n act"]:
    return actor(obs).mode()


@partial(jax.jit)
def _draw(actor: PolicyNet, obs: Float[Array, "*n obs"], key: PRNGKeyArray) -> Float[Array, "*n act"]:
    return jnp.tanh(actor(obs).sample_pre(key))


@dataclass(frozen=True)
class Policy:
    """One policy in the user's units: NumPy observation in, NumPy action out."""

    actor: PolicyNet
    preparation: Preparation
    info: SetInfo
    name: str = "policy"
    certificate: Certificate | None = None
    """Whether it is better than what logged its data, where that was asked for."""
    stands_in: bool = False
    """Whether this is the clone of the logged behaviour, in place of a policy that was refused a certificate."""
    seed: int | None = None
    config: MerPOConfig | contextual.Settings | None = None
    log: LogSummary | None = None
    """The log that it was learned from, in figures."""

    def __call__(
        self, observation: Float[np.ndarray, "*n obs"], *, deterministic: bool = True, seed: int | None = None
    ) -> Float[np.ndarray, "*n act"]:
        """The action for one observation [obs] or a batch [..., obs]; `deterministic=False` draws with `seed`."""
        obs = np.asarray(observation, np.float32)
        if obs.shape[-1:] != (self.info.obs_dim,):
            raise DataError(
                f"observation has shape {obs.shape}: expected [..., {self.info.obs_dim}] as in the training data."
            )
        if not np.isfinite(obs).all():
            raise DataError("observation holds NaN or infinite values: expected finite numbers. Check the sensor.")
        ready = jnp.asarray(self.preparation.obs(obs))
        if deterministic:
            action = _mode(self.actor, ready)
        else:
            if seed is None:
                raise ConfigError("seed=None: a stochastic action needs a seed. Pass seed=..., one per call.")
            action = _draw(self.actor, ready, jax.random.key(seed))
        return np.asarray(self.preparation.restore_action(np.asarray(action)), np.float32)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        insist: bool = False,
        about: Mapping[str, Any] | None = None,
    ) -> tuple[Path, Path, Path]:
        """An ONNX or StableHLO file (by the ending of `path`) of the deterministic policy, with its policy card.

        Raw observations in, actions in the system's units out, float32, any batch size; see `merpo.deploy.export`.
        ConfigError for a policy that was refused a certificate and is not the clone, unless `insist`.
        """
        from merpo.deploy import export

        return export(self, path, format, insist=insist, about=about)


class PolicyTree(eqx.Module):
    """The arrays of a `PolicySet`."""

    actor: PolicyNet
    """[seed, task]"""
    preparation: Preparation


@dataclass(frozen=True)
class PolicySet:
    """Policies of one method for several tasks and seeds."""

    method: str
    tree: PolicyTree
    info: SetInfo
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    config: MerPOConfig | contextual.Settings
    curves: dict[str, Any] | None = None
    """Learning curves [round, seed, task] by metric name, where the method has any."""
    model_error: Float[np.ndarray, "seed task checks"] | None = None
    """Hold-out error of the adapting model after 0, check_every, ... gradient steps."""
    certificates: tuple[tuple[Certificate, ...], ...] | None = None
    """One per seed and task, where certificates were asked for."""
    insisted: bool = False
    """Whether policies that were refused a certificate were kept; else clones stand in their place."""
    logs: tuple[LogSummary, ...] | None = None
    """The log of each task, in figures."""

    def policy(self, task: int | str, seed: int | None = None) -> Policy:
        """One of them, by the task's name or position and by seed (default: the first)."""
        if isinstance(task, str) and task not in self.tasks:
            raise UnknownNameError(f"task={task!r}: expected one of {', '.join(self.tasks)}.")
        if seed is not None and seed not in self.seeds:
            raise UnknownNameError(f"seed={seed}: expected one of {self.seeds}, which were trained.")
        t = self.tasks.index(task) if isinstance(task, str) else task
        if not -len(self.tasks) <= t < len(self.tasks):
            raise UnknownNameError(f"task={t}: expected an index below {len(self.tasks)}.")
        s = 0 if seed is None else self.seeds.index(seed)
        actor = jax.tree.map(lambda x: x[s, t], self.tree.actor)
        certificate = None if self.certificates is None else self.certificates[s][t]
        stands_in = certificate is not None and not certificate.certified and not self.insisted
        return Policy(
            actor, self.tree.preparation, self.info, f"{self.method}/{self.tasks[t]}", certificate, stands_in,
            self.seeds[s], self.config, None if self.logs is None else self.logs[t],
        )  # fmt: skip

    def act(self, seed: int) -> Any:
        """All tasks' policies of one seed as a compiled `merpo.tasks.JaxPolicy`, for simulated evaluation."""
        from merpo.tasks import JaxPolicy

        actor = jax.tree.map(lambda x: x[self.seeds.index(seed)], self.tree.actor)
        return JaxPolicy(policy_apply, (actor, jax.tree.map(jnp.asarray, self.tree.preparation)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """One safetensors file; loading it never executes code."""
        meta = {
            "kind": POLICY_KIND,
            "method": self.method,
            "info": to_json(self.info),
            "tasks": list(self.tasks),
            "seeds": list(self.seeds),
            "network": describe(self.tree.actor),
            "certificates": self.certificates and [[c.to_json() for c in row] for row in self.certificates],
            "insisted": self.insisted,
            "logs": self.logs and [log.to_json() for log in self.logs],
        }
        save_checkpoint(Path(path), self.tree, meta, self.config)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> PolicySet:
        """What `save` wrote. StorageError for a damaged or foreign file."""
        head = read_head(path, POLICY_KIND)
        config, info, shape = head.config, head.info, (len(head.seeds), len(head.tasks))

        def make() -> PolicyTree:
            actor = skeleton(head.network, info.obs_dim, info.act_dim)
            actor = jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *x.shape)), actor)
            return PolicyTree(actor, Preparation.like(info.obs_dim, info.act_dim))

        tree, _ = load_checkpoint(Path(path), eqx.filter_eval_shape(make), config)
        return PolicySet(
            head.method, tree, info, head.tasks, head.seeds, config,
            certificates=head.certificates, insisted=head.insisted, logs=head.logs,
        )  # fmt: skip


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
        config = self.config or default_config(tasks.info)
        used = training_tasks(tasks, config.rac.gamma, self.on_constant)
        preparation = Preparation.fit(used)
        work = partial(work_of, "fit", used.tasks, used.info, config, self.seeds)
        with precision.use(config.matmul_precision), keeping(checkpoint, work) as keeper:
            learned, curves = pipeline.fit(used.tasks, used.info, preparation, config, self.seeds, report, keeper)
        return Meta(learned, used.info, config, self.seeds, curves)
