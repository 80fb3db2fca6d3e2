"""Divergences of a policy from the two anchors, the behaviour policy and the meta-policy (Lin et al. 2022, section 4).

D(pi, pi_beta), from logged actions alone:

`clone`     -E_D[log pi(a|s)] = KL(pi_beta || pi) + H(pi_beta): needs no model of the behaviour.
`density`   KL(pi || pi_b), closed form, pi_b cloned beforehand (`merpo.algorithms.bc`).
`dual`      KL(pi || pi_beta) = sup_c E_pi[c] - E_{pi_beta}[exp c] + 1, c(s, a) learned beside the policy: the
            variational form of BRAC (Wu et al. 2019), whose best c is log(pi / pi_beta).

D(pi, pi_c) = KL(pi || pi_c), closed form.
"""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.networks import MLP, Actor, TanhGaussian

BOUND = 8.0
"""|c| stays below: log-ratios beyond it are not told apart, and exp(c) stays finite."""


class Ratio(eqx.Module):
    """c(s, a), an estimate of log(pi(a|s) / pi_beta(a|s)), softly bounded by `BOUND`."""

    net: MLP

    def __init__(self, obs_dim: int, act_dim: int, hidden: Sequence[int], key: PRNGKeyArray):
        self.net = MLP(obs_dim + act_dim, 1, hidden, key, activation="silu")

    def __call__(self, obs: Float[Array, "*n obs"], action: Float[Array, "*n act"]) -> Float[Array, "*n"]:
        """c at every row."""
        return BOUND * jnp.tanh(self.net(jnp.concatenate([obs, action], axis=-1))[..., 0] / BOUND)


class RatioState(eqx.Module):
    """c and its optimiser."""

    ratio: Ratio
    opt: optax.OptState


Behaviour = None | Actor | Ratio
"""What D(pi, pi_beta) is measured with: nothing but the log (`clone`), pi_b (`density`), c (`dual`)."""


def init_ratio(obs_dim: int, act_dim: int, hidden: Sequence[int], learning_rate: float) -> RatioState:
    """A fresh c. Its first weights are the same in every job: what it learns does not depend on them."""
    ratio = Ratio(obs_dim, act_dim, hidden, jax.random.key(0))
    return RatioState(ratio, optax.adam(learning_rate).init(ratio))


def clone_term(policy: TanhGaussian, action: Float[Array, "row act"]) -> Float[Array, ""]:
    """D(pi, pi_beta) up to a constant: -E_D[log pi(a|s)] = KL(pi_beta || pi) + H(pi_beta) (MerPO, section 4)."""
    return -jnp.mean(policy.log_prob(action))


def dual_kl(
    ratio: Ratio,
    obs: Float[Array, "row obs"],
    drawn: Float[Array, "row act"],
    logged: Float[Array, "row act"],
) -> Float[Array, ""]:
    """E_pi[c] - E_{pi_beta}[exp c] + 1: a lower bound of KL(pi || pi_beta), with equality at c = log(pi/pi_beta)."""
    return jnp.mean(ratio(obs, drawn)) - jnp.mean(jnp.exp(ratio(obs, logged))) + 1.0


def slope_penalty(
    ratio: Ratio,
    obs: Float[Array, "row obs"],
    drawn: Float[Array, "row act"],
    logged: Float[Array, "row act"],
    mix: Float[Array, " row"],
    slope: float,
) -> Float[Array, ""]:
    """E[max(||grad_a c|| - slope, 0)^2] at actions between drawn and logged ones: of the gradient, not of c itself."""
    between = drawn + mix[:, None] * (logged - drawn)
    grads = jax.grad(lambda a: jnp.sum(ratio(obs, a)))(between)
    norm = jnp.sqrt(jnp.sum(grads * grads, axis=-1) + 1e-8)
    return jnp.mean(jnp.maximum(norm - slope, 0.0) ** 2)


def ratio_step(
    state: RatioState,
    policy: TanhGaussian,
    obs: Float[Array, "row obs"],
    logged: Float[Array, "row act"],
    key: PRNGKeyArray,
    learning_rate: float,
    penalty: float,
    slope: float,
) -> RatioState:
    """One Adam step of c towards the variational optimum; `policy` is pi at `obs`, the logged states."""
    k_draw, k_mix = jax.random.split(key)
    drawn = jnp.tanh(policy.sample_pre(k_draw))
    mix = jax.random.uniform(k_mix, obs.shape[:1], obs.dtype)

    def loss(ratio: Ratio) -> Float[Array, ""]:
        steep = slope_penalty(ratio, obs, drawn, logged, mix, slope)
        return -dual_kl(ratio, obs, drawn, logged) + penalty * steep

    steps, opt = optax.adam(learning_rate).update(jax.grad(loss)(state.ratio), state.opt)
    return RatioState(optax.apply_updates(state.ratio, steps), opt)


def first_rows(policy: TanhGaussian, count: int) -> TanhGaussian:
    """The distributions at the first `count` observations."""
    return TanhGaussian(policy.mean[:count], policy.log_std[:count])


def behaviour_term(
    behaviour: Behaviour,
    policy: TanhGaussian,
    u: Float[Array, "row act"],
    obs: Float[Array, "row obs"],
    logged: Float[Array, "real act"],
) -> Float[Array, ""]:
    """D(pi, pi_beta); `u` is a pre-tanh sample of the policy. The first rows of `obs` are those of `logged`.

    `density` is taken on all states, as is KL(pi || pi_c); the other two, which need logged actions, on the real ones.
    """
    n = logged.shape[0]
    if behaviour is None:
        return clone_term(first_rows(policy, n), logged)
    if isinstance(behaviour, Actor):
        return jnp.mean(policy.kl(behaviour(obs)))
    return jnp.mean(behaviour(obs[:n], jnp.tanh(u[:n])))


def meta_term(
    behaviour: Behaviour, policy: TanhGaussian, other: TanhGaussian, real: int, one_scale: bool
) -> Float[Array, ""]:
    """D(pi, pi_c) = E[KL(pi || pi_c)]; with `one_scale`, of the kind of D(pi, pi_beta) and on the same states.

    Both terms are then the same divergence, in nats, from two policies, and alpha is their mixing weight:
    `clone`: KL(pi_c || pi) on real states: alone, the two are least at the mixture alpha pi_beta + (1 - alpha) pi_c
    (its moments, for a Gaussian); `density`: as it stands, least at pi_b^alpha pi_c^(1 - alpha); `dual`: the same on
    real states.
    """
    if not one_scale or isinstance(behaviour, Actor):
        return jnp.mean(policy.kl(other))
    mine, theirs = first_rows(policy, real), first_rows(other, real)
    return jnp.mean(theirs.kl(mine) if behaviour is None else mine.kl(theirs))
