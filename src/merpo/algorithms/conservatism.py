"""Conservative policy evaluation: Bellman targets and the estimators of the push-down (COMBO, Yu et al. 2021, eq. 2).

    Q <- argmin_Q  beta ( push - E_D[Q] ) + 1/2 E_{d_f}[ (Q - B^pi Qbar)^2 ]

`policy`      push = E_{s~rho, a~pi}[Q(s, a)], one action per imagined state: the formula as it stands.
`logsumexp`   push = E_{s~rho}[ tau log int exp(Q(s, a)/tau) da ], CQL(H) on imagined states (Kumar et al. 2020): the
              integral by importance sampling from uniform actions, pi(.|s) and pi(.|s'), all of them evaluated at s.

The gradient of a log-sum-exp is the softmax-weighted mean of its terms' gradients; that of one term drawn from the
softmax has this expectation and costs one action's backward pass instead of thirty.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.data.types import Transitions
from merpo.networks import Actor, TwinCritic

DRAWS = 10
"""Actions drawn from each of the three proposals of the log-sum-exp."""


class Candidates(eqx.Module):
    """Actions at which a log-sum-exp over actions is taken, with the log-densities they were drawn from."""

    action: Float[Array, "draw row act"]
    log_density: Float[Array, "draw row"]


class Chosen(eqx.Module):
    """One candidate per critic and state, drawn from that critic's softmax."""

    action: Float[Array, "2 row act"]
    value: Float[Array, " 2"]
    """The log-sum-exp over all candidates, mean over the states: what is reported."""


Pushed = Float[Array, "model_row act"] | Candidates | Chosen
"""What the critics are pushed down at, on the imagined states."""


def bellman_target(
    target: TwinCritic, next_action: Float[Array, "row act"], batch: Transitions, gamma: float, targets: str = "min"
) -> Float[Array, " row"]:
    """B^pi Qbar = r + gamma (1 - terminated) V(s'), `next_action` ~ pi(.|s') (COMBO, eq. 2).

    V is `min`, min_i Qbar_i(s', a'), or `mixed`, 0.75 min + 0.25 max (BCQ, Fujimoto et al. 2019, eq. 13).
    """
    q = target(batch.next_obs, next_action)
    value = jnp.min(q, axis=0)
    if targets == "mixed":
        value = 0.75 * value + 0.25 * jnp.max(q, axis=0)
    return batch.reward + gamma * jnp.where(batch.terminated, 0.0, value)


def candidates(
    actor: Actor,
    obs: Float[Array, "row obs"],
    next_obs: Float[Array, "row obs"],
    act_dim: int,
    key: PRNGKeyArray,
) -> Candidates:
    """`DRAWS` actions per state from each of: uniform (log-density -|A| log 2), pi(.|s), pi(.|s')."""
    k_uniform, k_here, k_next = jax.random.split(key, 3)
    uniform = jax.random.uniform(k_uniform, (DRAWS, obs.shape[0], act_dim), obs.dtype, -1.0, 1.0)
    actions = [uniform]
    densities = [jnp.full(uniform.shape[:2], -act_dim * jnp.log(2.0), obs.dtype)]
    for states, k in ((obs, k_here), (next_obs, k_next)):
        policy = actor(states)  # once per state: the draws share it
        u = jax.vmap(policy.sample_pre)(jax.random.split(k, DRAWS))
        actions.append(jnp.tanh(u))
        densities.append(jax.vmap(policy.log_prob_pre)(u))
    return Candidates(jnp.concatenate(actions), jnp.concatenate(densities))


def _logits(
    critic: TwinCritic, obs: Float[Array, "row obs"], found: Candidates, temperature: float
) -> Float[Array, "2 draw row"]:
    """Q(s, a)/tau - log mu(a): every candidate evaluated at the state it stands for, whatever it was drawn from."""
    everywhere = jnp.broadcast_to(obs[None], (found.action.shape[0], *obs.shape))
    return critic(everywhere, found.action) / temperature - found.log_density[None]


def _soft_maximum(logits: Float[Array, "2 draw row"], temperature: float) -> Float[Array, " 2"]:
    total = jax.nn.logsumexp(logits, axis=1) - jnp.log(float(logits.shape[1]))
    return temperature * jnp.mean(total, axis=-1)


def soft_maximum(
    critic: TwinCritic, obs: Float[Array, "row obs"], found: Candidates, temperature: float
) -> Float[Array, " 2"]:
    """E_s[tau log mean_k exp(Q(s, a_k)/tau) / mu(a_k)], per critic: one log-sum-exp over all candidates of a state."""
    return _soft_maximum(_logits(critic, obs, found, temperature), temperature)


def choose(
    critic: TwinCritic, obs: Float[Array, "row obs"], found: Candidates, temperature: float, key: PRNGKeyArray
) -> Chosen:
    """Draw one candidate per critic and state from the softmax of its logits: an unbiased gradient of the whole."""
    logits = _logits(critic, obs, found, temperature)
    index = jax.random.categorical(key, logits, axis=1)
    rows = jnp.arange(obs.shape[0])
    return Chosen(found.action[index, rows[None]], _soft_maximum(logits, temperature))


def push_down(
    critic: TwinCritic, obs: Float[Array, "row obs"], pushed: Candidates | Chosen, temperature: float
) -> tuple[Float[Array, " 2"], Float[Array, " 2"]]:
    """The push-down term of each critic as it is differentiated, and as it is reported."""
    if isinstance(pushed, Chosen):
        # both critics at both choices, of which each critic's own is kept: one batched pass instead of a gather
        own = jnp.diagonal(critic(jnp.broadcast_to(obs[None], (2, *obs.shape)), pushed.action), axis1=0, axis2=1)
        return jnp.mean(own, axis=0), pushed.value
    value = soft_maximum(critic, obs, pushed, temperature)
    return value, value


def critic_loss(
    critic: TwinCritic,
    real: Transitions,
    model: Transitions,
    pushed: Pushed,
    y: Float[Array, " row"],
    beta: Float[Array, ""],
    fraction: float,
    temperature: float = 1.0,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """beta (push - E_D[Q]) + 1/2 E_{d_f}[(Q - y)^2], summed over both critics (COMBO, eq. 2).

    `y` lists the targets of the real rows, then of the imagined ones; `pushed` belongs to the imagined states, where an
    array of actions stands for the `policy` estimator. One pass evaluates all three groups.
    """
    n, m = real.reward.shape[0], model.reward.shape[0]
    obs, action = [real.obs, model.obs], [real.action, model.action]
    if not isinstance(pushed, Candidates | Chosen):
        obs, action = [*obs, model.obs], [*action, pushed]
    q = critic(jnp.concatenate(obs), jnp.concatenate(action))
    q_real, q_model, q_policy = q[:, :n], q[:, n : n + m], q[:, n + m :]
    td_real = jnp.mean((q_real - y[None, :n]) ** 2, axis=1)
    td_model = jnp.mean((q_model - y[None, n:]) ** 2, axis=1)
    td = 0.5 * (fraction * td_real + (1.0 - fraction) * td_model)
    if isinstance(pushed, Candidates | Chosen):
        push, shown = push_down(critic, model.obs, pushed, temperature)
    else:
        push = shown = jnp.mean(q_policy, axis=1)
    gap = push - jnp.mean(q_real, axis=1)
    metrics = {
        "critic/td": jnp.mean(td),
        "critic/gap": jnp.mean(shown - jnp.mean(q_real, axis=1)),
        "critic/q_data": jnp.mean(q_real),
        "critic/q_policy": jnp.mean(shown),
    }
    return jnp.sum(td + beta * gap), metrics
