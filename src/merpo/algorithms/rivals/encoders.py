"""What tells a context learner the task: encoders of logged transitions, and a policy that is given their z.

A context is a set of rows (s, a, r, s' - s): standardised observations, actions in [-1, 1], rewards over their
deviation. z does not depend on their order. At adaptation the context is the new task's whole log (protocol `offline`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from merpo.algorithms.rivals.settings import check_counts, check_steps, check_widths
from merpo.data.types import Stacked, Transitions
from merpo.networks import MLP


@dataclass(frozen=True)
class ContextConfig:
    """Settings of the context and of what an update draws."""

    latent: int = 5
    """Length of z."""
    hidden: tuple[int, ...] = (200, 200, 200)
    """Widths of the encoder's hidden layers."""
    learning_rate: float = 3e-4
    """Adam step size of the encoder and of what else is learned about the context."""
    rows: int = 64
    """Transitions of a context while learning."""
    tasks: int = 16
    """Meta-batch: tasks per update, drawn with replacement, so that some pairs are of one task."""
    batch: int = 256
    """Rows of each of these tasks that the agent learns from."""

    def __post_init__(self) -> None:
        check_widths(self, "hidden")
        check_steps(self, "learning_rate")
        check_counts(self, "latent", "rows", "tasks", "batch")


class MetaBatch(eqx.Module):
    """What one update of a context learner sees."""

    task: Int[Array, " task"]
    """Which training tasks they are; a number may occur twice."""
    rows: Transitions
    """[task, row]: what the agent learns from."""
    context: Float[Array, "task context feature"]
    """Other rows of the same tasks."""


def features(t: Transitions, gamma: float) -> Float[Array, "*n feature"]:
    """(s, a, r, s' - s), r in deviations of the reward (prepared rewards are (1 - gamma) times that)."""
    return jnp.concatenate([t.obs, t.action, t.reward[..., None] / (1.0 - gamma), t.next_obs - t.obs], axis=-1)


def feature_count(obs_dim: int, act_dim: int) -> int:
    """Length of one context row."""
    return 2 * obs_dim + act_dim + 1


def draw(data: Stacked, job: Int[Array, ""], key: PRNGKeyArray, config: Any, gamma: float) -> MetaBatch:
    """Tasks with replacement; of each, rows to learn from and a context. `config.context` says how many."""
    del job
    return _draw(data, key, config.context, gamma)


def _draw(stacked: Stacked, key: PRNGKeyArray, config: ContextConfig, gamma: float) -> MetaBatch:
    k_task, k_rows = jax.random.split(key)
    task = jax.random.randint(k_task, (config.tasks,), 0, stacked.size.shape[0])
    size = stacked.size[task][:, None]
    row = jax.random.randint(k_rows, (config.tasks, config.batch + config.rows), 0, size)
    drawn = jax.tree.map(lambda x: x[task[:, None], row], stacked.transitions)
    rows, context = (
        jax.tree.map(lambda x, c=c: x[:, c], drawn) for c in (slice(config.batch), slice(config.batch, None))
    )
    return MetaBatch(task, rows, features(context, gamma))


def conditioned(batch: MetaBatch, z: Float[Array, "task z"]) -> Transitions:
    """The rows of all tasks in one axis, each task's z behind its observations: (s, z) as a state."""

    def behind(obs: Float[Array, "task row obs"]) -> Float[Array, "all obs_z"]:
        wide = jnp.broadcast_to(z[:, None], (*obs.shape[:2], z.shape[-1]))
        return jnp.concatenate([obs, wide], axis=-1).reshape(-1, obs.shape[-1] + z.shape[-1])

    t = batch.rows
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), t)
    return Transitions(behind(t.obs), flat.action, flat.reward, behind(t.next_obs), flat.terminated, flat.truncated)


class MeanEncoder(eqx.Module):
    """FOCAL's: tanh of a network on every row, and their mean."""

    net: MLP

    @staticmethod
    def init(key: PRNGKeyArray, features: int, config: ContextConfig) -> MeanEncoder:
        """Random weights."""
        return MeanEncoder(MLP(features, config.latent, config.hidden, key))

    def each(self, context: Float[Array, "*n feature"]) -> Float[Array, "*n z"]:
        """Every row's own z, in (-1, 1)."""
        return jnp.tanh(self.net(context))

    def __call__(self, context: Float[Array, "*n context feature"]) -> Float[Array, "*n z"]:
        """z of the context."""
        return jnp.mean(self.each(context), axis=-2)

    def infer(self, context: Float[Array, "context feature"], valid: Bool[Array, " context"]) -> Float[Array, " z"]:
        """z of those rows of a padded log that are real."""
        weight = valid.astype(jnp.float32)[:, None]
        return jnp.sum(self.each(context) * weight, axis=0) / jnp.sum(weight)


class GaussianEncoder(eqx.Module):
    """PEARL's: every row a Gaussian factor of the posterior q(z | context) (Rakelly et al. 2019, equation 2)."""

    net: MLP

    @staticmethod
    def init(key: PRNGKeyArray, features: int, config: ContextConfig) -> GaussianEncoder:
        """Random weights."""
        return GaussianEncoder(MLP(features, 2 * config.latent, config.hidden, key))

    def factors(self, context: Float[Array, "*n feature"]) -> tuple[Float[Array, "*n z"], Float[Array, "*n z"]]:
        """Mean and precision of every row's factor."""
        mean, raw = jnp.split(self.net(context), 2, axis=-1)
        return mean, 1.0 / jnp.maximum(jax.nn.softplus(raw), 1e-7)

    def __call__(
        self, context: Float[Array, "*n context feature"]
    ) -> tuple[Float[Array, "*n z"], Float[Array, "*n z"]]:
        """Mean and variance of the product of all factors."""
        mean, precision = self.factors(context)
        total = jnp.sum(precision, axis=-2)
        return jnp.sum(mean * precision, axis=-2) / total, 1.0 / total

    def infer(self, context: Float[Array, "context feature"], valid: Bool[Array, " context"]) -> Float[Array, " z"]:
        """The posterior mean, from those rows of a padded log that are real."""
        mean, precision = self.factors(context)
        precision = precision * valid.astype(jnp.float32)[:, None]
        return jnp.sum(mean * precision, axis=0) / jnp.sum(precision, axis=0)


class Conditioned(eqx.Module):
    """What a context learner leaves behind: the encoder, and a policy of (s, z)."""

    encoder: Any
    """With `infer(context, valid) -> z`."""
    policy: Any
    """With `given(z)`: a module from observations to a `TanhGaussian`."""

    def __call__(self, context: Float[Array, "context feature"], valid: Bool[Array, " context"]) -> Any:
        """The policy for the task whose log this is."""
        return self.policy.given(self.encoder.infer(context, valid))
