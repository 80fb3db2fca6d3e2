"""How good a task's model is where it was not fitted: errors, calibration, and how far imagination drifts from the log.

Calibration by the probability integral transform: the ensemble's predictive distribution F is the equal mixture of its
elites' Gaussians; where it is right, F(y) is uniform, and its central c-interval holds a share c of the outcomes
(Gneiting, Balabdaoui, Raftery 2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.data.types import TaskData, Transitions
from merpo.dynamics.ensemble import TargetScale, inputs_targets
from merpo.dynamics.fit import FittedModel
from merpo.dynamics.imagination import predict
from merpo.errors import DataError

LEVELS = np.linspace(0.05, 0.95, 19)
"""Nominal probabilities of the central intervals whose coverage is measured."""


@dataclass(frozen=True)
class ModelCheck:
    """One seed's models on the held-out rows of several tasks; outputs are the columns of s' - s, then the reward."""

    unexplained: Float[np.ndarray, "task out"]
    """Mean squared error over the variance of the change: 0 is perfect, 1 no better than the mean."""
    coverage: Float[np.ndarray, "out level"]
    """Share of held-out outcomes inside the central interval of each of `LEVELS`, all tasks together."""
    rows: int
    """Held-out rows, all tasks together."""
    drift: Float[np.ndarray, "step three"]
    """Distance of imagined from logged states after 1, 2, ... steps of logged actions, root mean square over columns
    in deviations of the training data: its 10, 50 and 90 % quantiles over windows."""
    steps: int
    """Steps after which the two quantiles below were taken."""
    imagined: Float[np.ndarray, "quantile obs"]
    logged: Float[np.ndarray, "quantile obs"]
    """5, 25, 50, 75 and 95 % quantiles of the states after `steps` steps, standardised."""
    windows: int
    """Stretches of held-out log that were imagined."""


@jax.jit
def integral_transform(
    fitted: FittedModel, rows: Transitions, scale: TargetScale
) -> tuple[Float[Array, "row out"], Float[Array, "row out"]]:
    """F(y) of every outcome under the elites' mixture, and the squared error of its mean, in standardised targets.

    The reward of a network of its own is that at the predicted next state.
    """
    model = fitted.elite_members()
    x, y, _ = inputs_targets(rows, scale)
    mean, logvar, _ = model(jnp.broadcast_to(x, (fitted.elites.shape[0], *x.shape)))
    z = (y[None] - mean) * jnp.exp(-0.5 * logvar)
    return jnp.mean(jax.scipy.special.ndtr(z), axis=0), (jnp.mean(mean, axis=0) - y) ** 2


@jax.jit
def replay(
    fitted: FittedModel,
    scale: TargetScale,
    start: Float[Array, "row obs"],
    actions: Float[Array, "step row act"],
    key: PRNGKeyArray,
) -> Float[Array, "step row obs"]:
    """Imagined states under given actions; every row keeps to one elite (rows are dealt evenly among them)."""
    elites, scale = fitted.elites.shape[0], fitted.within(scale)
    model = fitted.elite_members()
    rows, obs_dim = start.shape

    def grouped(x: Array) -> Array:
        return x.reshape(elites, rows // elites, x.shape[-1])

    def step(obs: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
        action, k = given
        noise = jax.random.normal(k, (*obs.shape[:-1], obs_dim + 1))
        after, _, _ = predict(model, scale, obs, grouped(action), noise)
        return after, after

    _, states = jax.lax.scan(step, grouped(start), (actions, jax.random.split(key, actions.shape[0])))
    return states.reshape(-1, rows, obs_dim)


def check_models(
    models: Sequence[FittedModel],
    logs: Sequence[TaskData],
    held: Sequence[np.ndarray],
    scale: TargetScale,
    steps: int,
    windows: int = 60,
) -> ModelCheck:
    """Check each task's model (elites and members as fitted) on the held-out rows of its prepared log.

    `held[i]` are row numbers of `logs[i]`; `steps` is shortened to what held-out episodes allow. DataError where no
    held-out row is followed by another of its episode.
    """
    transforms, unexplained, imagined, logged = [], [], [], []
    span = min(steps, *(longest_stretch(log, rows) for log, rows in zip(logs, held, strict=True)))
    if span < 1:
        raise DataError("held: no held-out row of some task is followed by its next state. Give longer logs.")
    elites = models[0].elites.shape[0]
    for i, (fitted, log, rows) in enumerate(zip(models, logs, held, strict=True)):
        part = jax.tree.map(lambda x, rows=rows: jnp.asarray(np.asarray(x)[rows]), log.transitions)
        transform, squares = integral_transform(fitted, part, scale)
        transforms.append(np.asarray(transform))
        _, target, _ = inputs_targets(part, scale)
        unexplained.append(np.asarray(squares).mean(0) / np.maximum(np.asarray(target).var(0), 1e-12))
        begin = _starts(log, rows, span, elites * max(windows // elites, 1), i)
        t = log.transitions
        index = begin[None] + np.arange(span)[:, None]
        states = replay(
            fitted, scale, jnp.asarray(np.asarray(t.obs)[begin]), jnp.asarray(np.asarray(t.action)[index]),
            jax.random.fold_in(jax.random.key(0), i),
        )  # fmt: skip
        imagined.append(np.asarray(states))
        logged.append(np.asarray(t.next_obs)[index])
    dreams, truth = (np.concatenate(x, axis=1).astype(np.float64) for x in (imagined, logged))
    distance = np.sqrt(np.mean((dreams - truth) ** 2, axis=-1))
    u = np.concatenate(transforms)
    inside = np.abs(u[:, :, None] - 0.5) <= 0.5 * LEVELS
    five = [0.05, 0.25, 0.5, 0.75, 0.95]
    return ModelCheck(
        unexplained=np.stack(unexplained).astype(np.float64),
        coverage=inside.mean(0),
        rows=len(u),
        drift=np.quantile(distance, [0.1, 0.5, 0.9], axis=1).T,
        steps=span,
        imagined=np.quantile(dreams[-1], five, axis=0),
        logged=np.quantile(truth[-1], five, axis=0),
        windows=dreams.shape[1],
    )


def _followed(log: TaskData, rows: np.ndarray) -> np.ndarray:
    """How many rows, itself included, follow each of `rows` in its episode."""
    ends = np.asarray(log.episode_start)[1:]
    return ends[np.searchsorted(ends, rows, side="right")] - rows


def longest_stretch(log: TaskData, rows: np.ndarray) -> int:
    """The most steps that can be replayed from one of these rows without leaving its episode."""
    return int(_followed(log, rows).max(initial=0))


def _starts(log: TaskData, rows: np.ndarray, span: int, count: int, seed: int) -> np.ndarray:
    """`count` rows (drawn anew if there are fewer) with `span` steps of their episode ahead."""
    able = rows[_followed(log, rows) >= span]
    rng = np.random.default_rng([seed, 17])
    return rng.choice(able, count, replace=len(able) < count)
