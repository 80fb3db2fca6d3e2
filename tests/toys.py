"""Small networks and logs for the learning tests, drawn with NumPy.

JAX's random numbers are slow to compile (about a third of a second per call site), so whatever does not itself test
drawing is filled on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from merpo.data.types import SetInfo, TaskData, TaskSet, Transitions
from merpo.dynamics.ensemble import DynamicsConfig, Ensemble, TargetScale
from merpo.dynamics.termination import Termination
from merpo.networks import MLP, Actor, TwinCritic

Key = Any

NEVER = Termination("never", jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.float32), jnp.zeros(0, jnp.float32))
"""A system whose episodes do not end."""


def _standard_bias_correction(*args: Any, _original: Any = optax.tree.bias_correction, **settings: Any) -> Any:
    # Adam's `decay**count` mixes float and int32: optax's own, so strictness stops at its door and nowhere else.
    with jax.numpy_dtype_promotion("standard"):
        return _original(*args, **settings)


optax.tree.bias_correction = _standard_bias_correction


def filled(make: Callable[[Key], Any], seed: int, size: float = 0.5) -> Any:
    """What `make(key)` would build, its arrays drawn from U(-size, size) by NumPy instead."""
    shape = eqx.filter_eval_shape(make, jax.random.key(0))
    rng = np.random.default_rng(seed)

    def fill(x: Any) -> Any:
        if isinstance(x, jax.ShapeDtypeStruct):
            return jnp.asarray(rng.uniform(-size, size, x.shape), x.dtype)
        return x

    return jax.tree.map(fill, shape)


def mlp(seed: int, *args: Any, **settings: Any) -> MLP:
    return filled(lambda k: MLP(*args, k, **settings), seed)


def actor(seed: int, obs: int = 3, act: int = 2, hidden: tuple[int, ...] = (8,), size: float = 0.5) -> Actor:
    return filled(lambda k: Actor(obs, act, hidden, k), seed, size)


def gaussian_actor(mean, log_std):
    """An actor whose action distribution is the given one at the observation zero (biases alone)."""
    base = jax.tree.map(jnp.zeros_like, actor(0, 1, len(mean), hidden=()))
    mean, log_std = np.asarray(mean, np.float64), np.asarray(log_std, np.float64)
    bias = np.concatenate([5.0 * np.arctanh(mean / 5.0), np.arctanh((log_std + 5.0) / 3.0 - 1.0)])
    return eqx.tree_at(lambda a: a.net.layers[0].bias, base, jnp.asarray(bias, jnp.float32))


def critic(
    seed: int, obs: int = 3, act: int = 2, hidden: tuple[int, ...] = (8,), layer_norm: bool = False
) -> TwinCritic:
    return filled(lambda k: TwinCritic(obs, act, hidden, k, layer_norm=layer_norm), seed)


def ensemble(seed: int, obs: int, act: int, config: DynamicsConfig) -> Ensemble:
    """Members with the bounds that `Ensemble.init` gives (its log-variances soft-bounded by [-10, 0.5])."""
    model = filled(lambda k: Ensemble.init(k, obs, act, config), seed)
    ones = jnp.ones((config.members, obs + 1), jnp.float32)
    return eqx.tree_at(lambda m: (m.max_logvar, m.min_logvar), model, (0.5 * ones, -10.0 * ones))


def transitions(seed: int, lead: int | tuple[int, ...], obs: int = 3, act: int = 2, ended: float = 0.2) -> Transitions:
    """Unrelated rows with a share `ended` of terminations; JAX arrays with the leading axes `lead`."""
    rng = np.random.default_rng(seed)
    shape = (lead,) if isinstance(lead, int) else lead
    f32 = jnp.float32
    return Transitions(
        jnp.asarray(rng.normal(size=(*shape, obs)), f32),
        jnp.asarray(rng.uniform(-1, 1, (*shape, act)), f32),
        jnp.asarray(rng.normal(size=shape), f32),
        jnp.asarray(rng.normal(size=(*shape, obs)), f32),
        jnp.asarray(rng.random(shape) < ended),
        jnp.asarray(rng.random(shape) < 0.3),
    )


def unit_scale(obs: int, limit: float = 1e6) -> TargetScale:
    """Targets left as they are."""
    return TargetScale(
        jnp.zeros(obs + 1, jnp.float32), jnp.ones(obs + 1, jnp.float32),
        jnp.full(obs, -limit, jnp.float32), jnp.full(obs, limit, jnp.float32),
    )  # fmt: skip


def linear_task(
    name: str,
    episodes: int | list[int],
    seed: int,
    push: float = 0.3,
    split: str = "train",
    act: int = 1,
    terminated: bool = False,
) -> TaskData:
    """Episodes of s' = 0.8 s + push a + noise in the plane, reward -||s'||; lengths 6, or as listed."""
    rng = np.random.default_rng(seed)
    lengths = [6] * episodes if isinstance(episodes, int) else episodes
    parts = []
    for length in lengths:
        s = rng.normal(size=2)
        for t in range(length):
            a = rng.uniform(-1, 1, act)
            after = 0.8 * s + push * a.mean() + 0.02 * rng.normal(size=2)
            last = t == length - 1
            parts.append((s, a, -np.linalg.norm(after), after, terminated and last, last and not terminated))
            s = after
    columns = [np.asarray(c) for c in zip(*parts, strict=True)]
    arrays = Transitions(*(c.astype(np.float32) for c in columns[:4]), *(c.astype(bool) for c in columns[4:]))
    return TaskData(name, split, arrays, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def linear_info(act: int = 1, **changes: Any) -> SetInfo:
    settings = {"gamma": 0.9, "horizon": 6} | changes
    return SetInfo("linear", 1, "imported", 2, act, **settings)


def linear_set(tasks: int = 3, episodes: int = 4, **changes: Any) -> TaskSet:
    """Tasks of different dynamics and sizes (one more episode each)."""
    logs = tuple(linear_task(f"task-{i}", episodes + i, seed=i, push=0.2 * (i + 1)) for i in range(tasks))
    return TaskSet(linear_info(**changes), logs)
