"""The meta-policy and the meta-critic: what all tasks teach a new one (Lin et al. 2022, section 5).

    max_pi_c  mean_n { E[Q_n] + lambda alpha E_{D_n}[log pi_n] - lambda (1 - alpha) KL(pi_n || pi_c) }

With respect to pi_c only the last term counts: a weighted distillation of the tasks' policies, mass covering. The
meta-critic is the tasks' mean value function, in function space: the least-squares fit to all Q_n at once. (The mean of
the critics' *weights*, as in circulating code, has no such meaning once the networks have drifted apart.)
Both may see a context z of the task (`merpo.algorithms.context`), as the last inputs of their networks; without one
(length 0) this is the method as published.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from merpo.algorithms.rac import stepped
from merpo.networks import Actor, TanhGaussian, TwinCritic


class Metas(eqx.Module):
    """Meta-policy and meta-critic with their optimisers' states."""

    actor: Actor
    """pi_c(a | s, z)."""
    critic: TwinCritic
    """Q_c(s, a, z)."""
    actor_opt: optax.OptState
    critic_opt: optax.OptState


def init(actor: Actor, critic: TwinCritic, learning_rate: float) -> Metas:
    """Around the given networks, whose inputs are (s, z) and (s, a, z)."""
    opt = optax.adam(learning_rate)
    return Metas(actor, critic, opt.init(actor), opt.init(critic))


def with_context(x: Float[Array, "task row in"], z: Float[Array, "task z"]) -> Float[Array, "task row in_z"]:
    """Each task's z behind every one of its rows."""
    return jnp.concatenate([x, jnp.broadcast_to(z[:, None], (*x.shape[:2], z.shape[-1]))], axis=-1)


def meta_policy_loss(
    meta_actor: Actor,
    policies: TanhGaussian,
    obs: Float[Array, "task row obs"],
    z: Float[Array, "task z"],
    weight: Float[Array, " task"],
) -> Float[Array, ""]:
    """mean_n w_n KL(pi_n || pi_c) over each task's states, w_n = lambda_n (1 - alpha_n) scaled to mean 1 (section 5).

    Normalising changes no optimum; it keeps the step size of pi_c independent of lambda.
    """
    kl = jnp.mean(policies.kl(meta_actor(with_context(obs, z))), axis=-1)
    return jnp.mean(kl * weight / jnp.maximum(jnp.mean(weight), 1e-8))


def meta_critic_loss(
    meta_critic: TwinCritic,
    values: Float[Array, "two task row"],
    obs: Float[Array, "task row obs"],
    action: Float[Array, "task row act"],
    z: Float[Array, "task z"],
) -> Float[Array, ""]:
    """1/2 mean_n E[(Q_c(s, a, z_n) - Q_n(s, a))^2], the mean of both critics."""
    found = meta_critic(obs, with_context(action, z))
    return 0.5 * jnp.mean((found - values) ** 2)


def asked(states: int) -> int:
    """At how many of so many states of a task the critics are compared at an action that its policy draws."""
    half = -(-states // 4)
    return min(half, states - half)


def meta_steps(
    metas: Metas,
    actors: Actor,
    critics: TwinCritic,
    obs: Float[Array, "step task row obs"],
    action: Float[Array, "step task row act"],
    z: Float[Array, "task z"],
    weight: Float[Array, " task"],
    noise: Float[Array, "step task some act"],
    learning_rate: float,
    share: Float[Array, ""],
) -> tuple[Metas, dict[str, Float[Array, ""]]]:
    """One gradient step of both per leading entry of `obs`, for one seed.

    `actors` and `critics` are the tasks' own, [task] leaves. The critics, whose step costs more, are compared at half
    of the states: with logged actions, and with ones drawn from the tasks' policies, where a new task's learner will
    ask; `noise`, standard normal, is for these, `asked` of them per step and task. `share` is that of the step size.
    """
    opt = optax.adam(learning_rate)
    half = -(-obs.shape[2] // 4)
    drawn_at = slice(half, half + noise.shape[2])

    def body(metas: Metas, drawn: tuple[Any, ...]) -> tuple[Metas, tuple[Array, Array]]:
        states, logged, normal = drawn
        policies = jax.vmap(lambda actor, s: actor(s))(actors, states)
        policy_loss, grads = jax.value_and_grad(meta_policy_loss)(metas.actor, policies, states, z, weight)
        steps, actor_opt = opt.update(grads, metas.actor_opt)
        actor = stepped(metas.actor, steps, share)

        there = jnp.tanh(jax.tree.map(lambda x: x[:, drawn_at], policies).sample_pre(normal))
        acts = jnp.concatenate([logged[:, :half], there], axis=1)
        values = jnp.swapaxes(jax.vmap(lambda critic, s, a: critic(s, a))(critics, states[:, : 2 * half], acts), 0, 1)
        critic_loss, grads = jax.value_and_grad(meta_critic_loss)(metas.critic, values, states[:, : 2 * half], acts, z)
        steps, critic_opt = opt.update(grads, metas.critic_opt)
        critic = stepped(metas.critic, steps, share)
        return Metas(actor, critic, actor_opt, critic_opt), (policy_loss, critic_loss)

    metas, (policy_loss, critic_loss) = jax.lax.scan(body, metas, (obs, action, noise))
    return metas, {"meta/kl": jnp.mean(policy_loss), "meta/critic": jnp.mean(critic_loss)}
