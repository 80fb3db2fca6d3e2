"""When an imagined state has ended: never, by known bounds on the state, or by the ensemble's learned logit."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Termination(eqx.Module):
    """The rule of a data set, in prepared units (see `SetInfo.termination` and `SetInfo.healthy`)."""

    rule: str = eqx.field(static=True)
    """`never`, `bounds` or `learned`."""
    index: Int[Array, " bound"]
    low: Float[Array, " bound"]
    high: Float[Array, " bound"]

    @property
    def learned(self) -> bool:
        """Whether the ensemble has to learn the termination logit."""
        return self.rule == "learned"

    def __call__(
        self, next_obs: Float[Array, "*n obs"], logit: Float[Array, "*n"], chance: Float[Array, "*n"]
    ) -> Bool[Array, "*n"]:
        """Whether each imagined next state is the last one; the learned rule ends where `chance`, uniform in
        [0, 1), is below its probability."""
        if self.rule == "never":
            return jnp.zeros(logit.shape, bool)
        if self.rule == "bounds":
            watched = next_obs[..., self.index]
            lift = (1,) * logit.ndim + (-1,)
            inside = (watched > self.low.reshape(lift)) & (watched < self.high.reshape(lift))
            return ~jnp.all(inside, axis=-1)
        return chance < jax.nn.sigmoid(logit)
