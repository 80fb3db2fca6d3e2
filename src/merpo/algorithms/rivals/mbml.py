"""MBML (Li, Vuong, Liu, Liu, Ciosek, Ross, Christensen, Su 2020): multi-task batch RL with metric learning.

    1. per training task: BCQ (the teacher) and an ensemble of rewards and transitions
    2. L_triplet = mean_i [ d(q(c_{j->i}), q(c_i)) - d(q(c_{j->i}), q(c_j)) + margin ]_+ ,   j != i
       c_{j->i}: rows (s, a) of task j with what task i's ensemble predicts of them
    3. one BCQ on (s, z) is distilled from the teachers, z ~ q(z | c_i):
       E[(Q(s, a, z) - Q_i(s, a))^2 + ||D(s, x, z) - D_i(s, x)||^2 + ||xi(s, a, z) - xi_i(s, a)||^2]

The triplets are hard: c_{j->i} and c_j share states and actions, so that only rewards and dynamics can tell them apart.
d is the distance of the posteriors' means. The encoder learns from 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from merpo.algorithms.rivals import bcq, encoders
from merpo.algorithms.rivals.bcq import BCQConfig
from merpo.algorithms.rivals.encoders import Conditioned, ContextConfig, GaussianEncoder, MetaBatch, conditioned
from merpo.algorithms.rivals.running import Algorithm, draw_rows, every_job, run
from merpo.algorithms.rivals.settings import check_counts, check_weights
from merpo.algorithms.rivals.td import Trained
from merpo.algorithms.rounds import Report, silent
from merpo.algorithms.stages import FROM_SCRATCH, Batch, fresh_models
from merpo.data.types import SetInfo, Stacked, TaskData, Transitions, stack
from merpo.devices import batched
from merpo.dynamics.ensemble import DynamicsConfig, TargetScale, fit_scale
from merpo.dynamics.fit import FittedModel, split_rows
from merpo.errors import check_group


@dataclass(frozen=True)
class TeacherConfig:
    """Settings of the teachers, one BCQ per training task."""

    agent: BCQConfig = field(default_factory=BCQConfig)
    """Networks and step sizes; the distilled policy's too."""
    batch: int = 256
    """Rows per update."""
    updates: int = 100_000
    """Updates of each teacher."""

    def __post_init__(self) -> None:
        check_counts(self, "batch", "updates")


@dataclass(frozen=True)
class MbmlConfig:
    """Settings of MBML."""

    context: ContextConfig = field(default_factory=ContextConfig)
    """Encoder and meta-batch."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Stage 1."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """The ensembles that relabel; the proximal term is left out."""
    margin: float = 2.0
    """Margin of the triplets."""
    triplet_weight: float = 1.0
    """Weight of the triplet loss beside the distillation."""
    updates: int = 100_000
    """Updates of stages 2 and 3, which go together."""
    group: int | None = None
    """Jobs batched by `vmap`; groups follow one another."""

    def __post_init__(self) -> None:
        check_counts(self, "updates")
        check_group(self.group)
        check_weights(self, "margin", "triplet_weight")


class Lessons(eqx.Module):
    """What stage 1 leaves behind; teachers and models have [seed, task] leaves."""

    stacked: Stacked
    teachers: bcq.Agent
    models: FittedModel
    scale: TargetScale


class LessonBatch(eqx.Module):
    """A meta-batch with its teachers and hard triplets."""

    tasks: MetaBatch
    teachers: bcq.Agent
    """[task]"""
    other: Float[Array, "task context feature"]
    """c_j, of another task each."""
    relabelled: Float[Array, "task context feature"]
    """c_{j->i}: the same rows as in `other`."""


class State(eqx.Module):
    """All state of one seed's stages 2 and 3."""

    encoder: Trained
    agent: bcq.Agent


def teacher_init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: TeacherConfig) -> bcq.Agent:
    """BCQ's."""
    return bcq.init(key, obs_dim, act_dim, config.agent)


def teacher_update(
    agent: bcq.Agent, batch: Transitions, key: PRNGKeyArray, gamma: float, config: TeacherConfig
) -> tuple[bcq.Agent, dict[str, Array]]:
    """BCQ's."""
    return bcq.update(agent, batch, key, gamma, config.agent)


def whole_agent(agent: bcq.Agent) -> bcq.Agent:
    """All of a teacher is kept."""
    return agent


TEACHER = Algorithm("bcq", teacher_init, draw_rows, teacher_update, whole_agent)


def teach(
    ready: Sequence[TaskData], info: SetInfo, config: MbmlConfig, seeds: Sequence[int], report: Report = silent
) -> Lessons:
    """Stage 1, from prepared tasks."""
    stacked, n = stack(ready), len(ready)
    teachers, _ = run(
        TEACHER, stacked, every_job(seeds, n), info.obs_dim, info.act_dim, info.gamma, config.teacher,
        batched(config.group, config.context.hidden),
        "meta-training (mbml's teachers)", report,
    )  # fmt: skip
    scale = fit_scale(
        jax.tree.map(lambda *x: jnp.concatenate([jnp.asarray(v) for v in x]), *(t.transitions for t in ready))
    )
    batch = Batch(stacked, split_rows(ready, config.dynamics, 0))
    steps = config.dynamics.adapt_steps
    models, _ = fresh_models(batch, scale, info, config.dynamics, FROM_SCRATCH * steps, False, seeds)
    teachers, models = jax.tree.map(lambda x: x.reshape(len(seeds), n, *x.shape[1:]), (teachers, models))
    return Lessons(stacked, teachers, models, scale)


def relabelled_rows(model: FittedModel, scale: TargetScale, t: Transitions) -> Transitions:
    """Rows with the reward and next state that the elites of another task's ensemble predict, on average."""
    elites = model.elite_members()
    x = jnp.concatenate([t.obs, t.action], axis=-1)
    mean, _, _ = elites(jnp.broadcast_to(x, (model.elites.shape[0], *x.shape)))
    found = jnp.mean(mean, axis=0) * scale.std[None] + scale.mean[None]
    return eqx.tree_at(lambda t: (t.reward, t.next_obs), t, (found[:, -1], t.obs + found[:, :-1]))


def draw(lessons: Lessons, seed: Int[Array, ""], key: PRNGKeyArray, config: MbmlConfig, gamma: float) -> LessonBatch:
    """A meta-batch, another task j for each of its tasks i, and rows of j as they are and as i would have them.

    `seed` is a position on the lessons' seed axis.
    """
    k_tasks, k_other, k_rows = jax.random.split(key, 3)
    stacked, n = lessons.stacked, lessons.stacked.size.shape[0]
    tasks = encoders.draw(stacked, seed, k_tasks, config, gamma)
    further = jax.random.randint(k_other, tasks.task.shape, 1, max(n, 2))
    j = (tasks.task + further) % n
    row = jax.random.randint(k_rows, (j.shape[0], config.context.rows), 0, stacked.size[j][:, None])
    rows = jax.tree.map(lambda x: x[j[:, None], row], stacked.transitions)
    teachers, models = jax.tree.map(lambda x: x[seed, tasks.task], (lessons.teachers, lessons.models))
    relabelled = jax.vmap(lambda m, t: relabelled_rows(m, lessons.scale, t))(models, rows)
    return LessonBatch(tasks, teachers, encoders.features(rows, gamma), encoders.features(relabelled, gamma))


def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: MbmlConfig) -> State:
    """From random networks."""
    k_encoder, k_agent = jax.random.split(key)
    encoder = GaussianEncoder.init(k_encoder, encoders.feature_count(obs_dim, act_dim), config.context)
    agent = bcq.init(k_agent, obs_dim + config.context.latent, act_dim, config.teacher.agent)
    return State(Trained.start(encoder), agent)


def triplet_loss(
    anchor: Float[Array, "task z"], same: Float[Array, "task z"], other: Float[Array, "task z"], margin: float
) -> Float[Array, ""]:
    """mean [ d(anchor, same) - d(anchor, other) + margin ]_+, d the Euclidean distance."""

    def distance(a: Array, b: Array) -> Array:
        return jnp.sqrt(jnp.sum((a - b) ** 2, axis=-1) + 1e-8)

    return jnp.mean(jnp.maximum(distance(anchor, same) - distance(anchor, other) + margin, 0.0))


def distillation_loss(
    nets: tuple[bcq.VAE, bcq.Perturbation, Any],
    teachers: bcq.Agent,
    batch: MetaBatch,
    z: Float[Array, "task z"],
    x: Float[Array, "task row latent"],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Squared differences of values, decoded actions and corrected actions to each task's own teacher."""
    vae, perturbation, critic = nets
    t, rows = batch.rows, conditioned(batch, z)
    obs, act = rows.obs.reshape(*t.obs.shape[:2], -1), t.action

    def taught(agent: bcq.Agent, obs: Array, action: Array, x: Array) -> tuple[Array, Array, Array]:
        return agent.critic.net(obs, action), agent.vae.net.decode(obs, x), agent.perturbation.net(obs, action)

    values, decoded, corrected = jax.vmap(taught)(teachers, t.obs, act, x)
    value = jnp.mean((jnp.swapaxes(critic(obs, act), 0, 1) - values) ** 2)
    action = jnp.mean((vae.decode(obs, x) - decoded) ** 2)
    correction = jnp.mean((perturbation(obs, act) - corrected) ** 2)
    return value + action + correction, {"mbml/value": value, "mbml/action": action, "mbml/correction": correction}


def loss(
    nets: tuple[GaussianEncoder, tuple[bcq.VAE, bcq.Perturbation, Any]],
    batch: LessonBatch,
    noise: Float[Array, "task z"],
    x: Float[Array, "task row latent"],
    config: MbmlConfig,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Distillation plus weighted triplets."""
    encoder, students = nets
    (mean, variance), (anchor, _), (other, _) = (
        encoder(c) for c in (batch.tasks.context, batch.relabelled, batch.other)
    )
    triplet = triplet_loss(anchor, mean, other, config.margin)
    distilled, metrics = distillation_loss(students, batch.teachers, batch.tasks, mean + jnp.sqrt(variance) * noise, x)
    return distilled + config.triplet_weight * triplet, metrics | {"context/loss": triplet}


def update(
    state: State, batch: LessonBatch, key: PRNGKeyArray, gamma: float, config: MbmlConfig
) -> tuple[State, dict[str, Array]]:
    """One update of encoder and students."""
    del gamma
    k_z, k_x = jax.random.split(key)
    agent, shape = state.agent, batch.tasks.rows.reward.shape
    noise = jax.random.normal(k_z, (shape[0], config.context.latent), jnp.float32)
    x = bcq.prior(k_x, (*shape, agent.act_latents.shape[-1]))
    nets = (state.encoder.net, (agent.vae.net, agent.perturbation.net, agent.critic.net))
    grads, metrics = jax.grad(loss, has_aux=True)(nets, batch, noise, x, config)
    rate = config.teacher.agent.learning_rate
    vae, perturbation, critic = (
        part.step(g, rate) for part, g in zip((agent.vae, agent.perturbation, agent.critic), grads[1], strict=True)
    )
    encoder = state.encoder.step(grads[0], config.context.learning_rate)
    agent = bcq.Agent(vae, perturbation, critic, agent.perturbation_target, agent.critic_target, agent.act_latents)
    return State(encoder, agent), metrics


def learned(state: State) -> Conditioned:
    """What adaptation needs."""
    return Conditioned(state.encoder.net, bcq.policy(state.agent))
