"""Policies as they are handed over: NumPy observations in, NumPy actions in the system's units out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.rivals import contextual
from merpo.algorithms.rivals.policies import PolicyNet, describe, skeleton
from merpo.data import LogSummary, Preparation, SetInfo
from merpo.errors import ConfigError, DataError, UnknownNameError
from merpo.guarantee.certificate import Certificate
from merpo.runs import load_checkpoint, save_checkpoint, to_json
from merpo.stored import POLICY_KIND, read_head


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
    """Whether this is the clone of the logged behaviour, in place of a policy that was refused a certificate, or that
    the model it was learned in takes for worse."""
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
    cloned: tuple[tuple[bool, ...], ...] | None = None
    """By seed and task, where the clone of the behaviour took the adapted policy's place because it would surely do
    better (`merpo.algorithms.guard`); None: they were not compared."""

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
        refused = certificate is not None and not certificate.certified and not self.insisted
        stands_in = refused or (self.cloned is not None and self.cloned[s][t])
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
            "cloned": self.cloned and [list(row) for row in self.cloned],
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
            certificates=head.certificates, insisted=head.insisted, logs=head.logs, cloned=head.cloned,
        )  # fmt: skip
