"""What every model-free rival uses: a network with its optimiser, temporal differences, target networks.

Rows are in prepared units: `obs` may have a task's z behind it, and values are (1 - gamma) times those of rewards with
unit deviation.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from merpo.algorithms.rac import stepped
from merpo.data.types import Transitions
from merpo.networks import TwinCritic


class Trained(eqx.Module):
    """A network with the state of its optimiser, Adam."""

    net: Any
    opt: optax.OptState

    @staticmethod
    def start(net: Any) -> Trained:
        """Before the first step."""
        return Trained(net, optax.adam(1.0).init(net))

    def step(self, grads: Any, learning_rate: Float[Array, ""] | float) -> Trained:
        """After one step of Adam; its moments do not depend on the step size, which may be traced."""
        direction, opt = optax.adam(1.0).update(grads, self.opt)
        return Trained(stepped(self.net, direction, jnp.asarray(learning_rate, jnp.float32)), opt)


def bootstrap(batch: Transitions, next_value: Float[Array, " row"], gamma: float) -> Float[Array, " row"]:
    """r + gamma (1 - terminated) V(s'): a truncated episode does go on."""
    return batch.reward + gamma * jnp.where(batch.terminated, 0.0, next_value)


def td_loss(
    critic: TwinCritic, batch: Transitions, y: Float[Array, " row"]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """sum_i E[(Q_i(s, a) - y)^2] over both critics."""
    q = critic(batch.obs, batch.action)
    td = jnp.mean((q - y[None]) ** 2, axis=1)
    return jnp.sum(td), {"critic/td": jnp.mean(td), "critic/q_data": jnp.mean(q)}


def kl_to_normal(mean: Float[Array, "*n"], log_std: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """KL(N(mean, std^2) || N(0, 1)) of every number."""
    return 0.5 * (jnp.exp(2.0 * log_std) + mean * mean - 1.0) - log_std


def polyak(target: Any, net: Any, tau: Float[Array, ""] | float) -> Any:
    """The target network moved by the share tau towards the network."""
    return jax.tree.map(lambda t, n: t + tau * (n - t), target, net)
