"""Model-based off-policy evaluation with the ensemble that a policy was learned in: its return in imagination."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.dynamics.ensemble import TargetScale
from merpo.dynamics.fit import FittedModel
from merpo.dynamics.imagination import imagined_returns
from merpo.dynamics.termination import Termination


@partial(jax.jit, static_argnames=("horizon", "discount"))
def imagined_return(
    actor: Any,
    fitted: FittedModel,
    scale: TargetScale,
    termination: Termination,
    start: Float[Array, "row obs"],
    key: PRNGKeyArray,
    *,
    horizon: int,
    discount: float = 1.0,
) -> Float[Array, ""]:
    """Mean return of the policy's deterministic action over rollouts from the rows of `start`, all in prepared units.

    Each row keeps to one elite: their number must be a multiple of that of the elites. The action is
    `actor(obs).mode()`.
    """
    return jnp.mean(imagined_returns(actor, fitted, scale, termination, start, key, horizon, discount))
