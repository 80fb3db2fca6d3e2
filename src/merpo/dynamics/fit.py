"""Fitting ensembles: steps on one task, the proximal meta-model over many, adaptation to a new task.

    min_phi_m  mean_n  min_phi_n { E_{D_n}[-log T_phi_n] + eta ||phi_n - phi_m||^2 }

Inner: a few Adam steps on phi_n started from phi_m. Outer, by the envelope theorem (first order, no Hessians):
phi_m <- phi_m - step 2 eta mean_n (phi_m - phi_n), i.e. phi_m moves a share `meta_rate` towards the mean phi_n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from merpo import draws
from merpo.compilation import compiled
from merpo.data.types import Stacked, TaskData, Transitions, padded_rows
from merpo.devices import batched, held, map_jobs
from merpo.dynamics.ensemble import (
    DynamicsConfig,
    Ensemble,
    Logged,
    TargetScale,
    better_parts,
    elite_indices,
    holdout_error,
    member_losses,
    part_errors,
    proximal_term,
)


class Rows(eqx.Module):
    """Which rows of each task are trained on and which are held out; leading [task] axis on every leaf."""

    boot: Int[Array, "*task member row"]
    """Bootstrap sample of training rows per member."""
    train: Int[Array, "*task row"]
    """Every training row once."""
    count: Int[Array, "*task"]
    """Number of training (and bootstrap) rows that are real (the rest is padding)."""
    held: Int[Array, "*task held"]
    """Hold-out rows."""
    held_valid: Bool[Array, "*task held"]
    """Which of them are real."""


class Reach(eqx.Module):
    """Bounds of what is imagined for a task, as in `TargetScale`."""

    obs_low: Float[Array, "*task obs"]
    obs_high: Float[Array, "*task obs"]
    logged: Logged | None = None


class FittedModel(eqx.Module):
    """One task's ensemble, its elites, and their hold-out error."""

    model: Ensemble
    elites: Int[Array, "*task elite"]
    error: Float[Array, "*task member"]
    reach: Reach | None = None
    """Bounds of what is imagined; None: those of the training tasks."""

    def elite_members(self) -> Ensemble:
        """The elites alone, for one task (no leading axis)."""
        return jax.tree.map(lambda x: x[self.elites], self.model)

    def within(self, scale: TargetScale) -> TargetScale:
        """The same units, with this task's bounds."""
        if self.reach is None:
            return scale
        return replace(scale, **vars(self.reach))


GOOD = 0.01
"""Hold-out error, in variances of what is predicted, up to which a model from phi_m is kept whatever another has: it
knows beyond the log what other tasks have shown, and the log's hold-out does not ask for that."""


def elite_error(fitted: FittedModel) -> Float[Array, " task"]:
    """Hold-out error of every task's elites."""
    return jnp.mean(jnp.take_along_axis(fitted.error, fitted.elites, axis=-1), axis=-1)


def less_wrong(one: FittedModel, other: FittedModel) -> tuple[FittedModel, Bool[Array, " task"]]:
    """Of every task the first model, or `other` where the first is not `GOOD` and errs more; and whether it is."""
    error = elite_error(one)
    worse = (error > GOOD) & (elite_error(other) < error)

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(worse.reshape(-1, *(1,) * (a.ndim - 1)), b, a)

    return jax.tree.map(pick, one, other), worse


def reach_of(data: Transitions, size: Int[Array, ""], scale: TargetScale) -> Reach:
    """The training tasks' bounds, and beyond them where the task's own logged range goes: that of the states widened by
    half its width.

    A new task may be logged where no training task was. The rows from `size` on are padding, which nobody logged.
    """
    own = Logged.of(data, jnp.arange(data.reward.shape[0]) < size)
    low, high = own.widened()
    logged = None if scale.logged is None else scale.logged.union(own)
    return Reach(jnp.minimum(scale.obs_low, low), jnp.maximum(scale.obs_high, high), logged)


def split_rows(tasks: Sequence[TaskData], config: DynamicsConfig, seed: int) -> Rows:
    """Seeded hold-out by episode (a single-episode log: its last part), and a bootstrap sample per member."""
    boots, trains, helds = [], [], []
    for n, task in enumerate(tasks):
        rng = np.random.default_rng([seed, n, 7])
        size, episodes = len(task), task.episodes
        if episodes >= 2:
            order = rng.permutation(episodes)
            k = min(max(1, round(config.holdout * episodes)), episodes - 1)
            mask = np.zeros(size, bool)
            for e in order[:k]:
                mask[task.episode_start[e] : task.episode_start[e + 1]] = True
        else:
            mask = np.arange(size) >= max(1, int(np.ceil((1 - config.holdout) * size)))
        train, held = np.flatnonzero(~mask), np.flatnonzero(mask)
        if len(held) == 0:  # a log of one single row: it is both
            held = train
        if len(held) > config.holdout_rows:
            held = np.sort(rng.choice(held, config.holdout_rows, replace=False))
        boots.append(train[rng.integers(0, len(train), (config.members, len(train)))])
        trains.append(train)
        helds.append(held)
    longest, widest = (padded_rows(max(len(x) for x in rows)) for rows in (trains, helds))
    boot = np.stack([np.pad(b, ((0, 0), (0, longest - b.shape[1]))) for b in boots])
    train_rows = np.stack([np.pad(t, (0, longest - len(t))) for t in trains])
    held_rows = np.stack([np.pad(h, (0, widest - len(h))) for h in helds])
    valid = np.stack([np.arange(widest) < len(h) for h in helds])
    return Rows(
        jnp.asarray(boot, jnp.int32),
        jnp.asarray(train_rows, jnp.int32),
        jnp.asarray([len(t) for t in trains], jnp.int32),
        jnp.asarray(held_rows, jnp.int32),
        jnp.asarray(valid),
    )


def take(t: Transitions, index: Int[Array, "*n"]) -> Transitions:
    """Rows `index` of one task's transitions."""
    return jax.tree.map(lambda x: x[index], t)


def optimiser(config: DynamicsConfig) -> optax.GradientTransformation:
    """Adam with a global gradient clip: a fresh member's first NLL gradients can be huge."""
    return optax.chain(optax.clip_by_global_norm(100.0), optax.adam(config.learning_rate))


def model_loss(
    model: Ensemble,
    anchor: Ensemble,
    batch: Transitions,
    scale: TargetScale,
    eta: float,
    learn_termination: bool,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The inner objective of one task: NLL + eta ||phi_n - phi_m||^2 (MerPO, section 3)."""
    loss, metrics = member_losses(model, batch, scale, learn_termination)
    if eta > 0.0:
        loss = loss + eta * proximal_term(model, anchor)
    return loss, metrics


Draw = Callable[[PRNGKeyArray], Transitions]
"""A batch of rows per member, [member, row, ...]; every member draws from its own bootstrap sample."""


def of_task(data: Transitions, rows: Rows, config: DynamicsConfig) -> Draw:
    """Batches of one task's rows."""

    def draw(key: PRNGKeyArray) -> Transitions:
        drawn = draws.place(draws.words(key, config.members, config.batch), rows.count)
        return take(data, jnp.take_along_axis(rows.boot, drawn, axis=1))

    return draw


def of_all_tasks(stacked: Stacked, rows: Rows, config: DynamicsConfig) -> Draw:
    """Batches of `pool_batch` rows from all tasks alike, whatever the size of their logs."""
    count = rows.count.shape[0]

    def draw(key: PRNGKeyArray) -> Transitions:
        which, where = draws.words(key, 2, config.members, config.pool_batch)
        task = draws.place(which, count)
        member = jnp.arange(config.members)[:, None]
        row = rows.boot[task, member, draws.place(where, rows.count[task])]
        return jax.tree.map(lambda x: x[task, row], stacked.transitions)

    return draw


def fit_steps(
    model: Ensemble,
    opt_state: optax.OptState,
    anchor: Ensemble,
    draw: Draw,
    scale: TargetScale,
    key: PRNGKeyArray,
    steps: int,
    config: DynamicsConfig,
    learn_termination: bool,
    share: Float[Array, ""] | float = 1.0,
) -> tuple[Ensemble, optax.OptState, Float[Array, ""]]:
    """`steps` Adam steps on the inner objective over what `draw` gives; `share` is that of the step size."""
    opt = optimiser(config)

    def step(carry, k):
        model, opt_state = carry
        grads, metrics = jax.grad(model_loss, has_aux=True)(
            model, anchor, draw(k), scale, config.eta, learn_termination
        )
        updates, opt_state = opt.update(grads, opt_state)
        return (jax.tree.map(lambda p, u: p + share * u, model, updates), opt_state), metrics["dynamics/nll"]

    (model, opt_state), nll = jax.lax.scan(step, (model, opt_state), jax.random.split(key, steps))
    return model, opt_state, jnp.mean(nll)


def meta_iteration(
    meta: Ensemble,
    stacked: Stacked,
    rows: Rows,
    scale: TargetScale,
    key: PRNGKeyArray,
    rate: Float[Array, ""],
    config: DynamicsConfig,
    learn_termination: bool,
    tasks_per_iteration: int,
    share: Float[Array, ""],
    mesh: Mesh | None = None,
) -> tuple[Ensemble, Float[Array, " picked"], Int[Array, " picked"]]:
    """One outer iteration on a random subset of tasks: inner steps from phi_m, then phi_m towards their mean.

    Returns phi_m, the NLL of every picked task's inner steps, and which tasks these were."""
    choose, inner = jax.random.split(key)
    n = rows.count.shape[0]
    picked = jax.random.permutation(choose, n)[:tasks_per_iteration]

    def one(shared, args):
        meta, stacked, rows, scale = shared
        i, k = args
        data = jax.tree.map(lambda x: x[i], stacked.transitions)
        own = jax.tree.map(lambda x: x[i], rows)
        phi, _, nll = fit_steps(
            meta, optimiser(config).init(meta), meta, of_task(data, own, config), scale, k, config.inner_steps, config,
            learn_termination, share,
        )  # fmt: skip
        return phi, nll

    packed = (picked, jax.random.split(inner, tasks_per_iteration))
    phis, nll = map_jobs(one, (meta, stacked, rows, scale), packed, batched(config.group, config.hidden), mesh)
    meta = jax.tree.map(lambda m, p: m - rate * (m - jnp.mean(p, axis=0)), meta, phis)
    return meta, nll, picked


def _share(done: Float[Array, ""], config: DynamicsConfig) -> Float[Array, ""]:
    return 1.0 - (1.0 - config.lr_final) * done


@compiled(static_argnames=("config", "learn_termination", "steps"))
def pool_chunk(
    model: Ensemble,
    opt_state: optax.OptState,
    stacked: Stacked,
    rows: Rows,
    scale: TargetScale,
    key: PRNGKeyArray,
    start: Int[Array, ""],
    *,
    config: DynamicsConfig,
    learn_termination: bool,
    steps: int,
) -> tuple[Ensemble, optax.OptState, Float[Array, ""]]:
    """`steps` gradient steps on all tasks' rows together, where phi_m starts; the first is number `start` of them.

    The outer iterations see a task at a time and average: what all tasks share, often the reward, they learn slowly.
    """
    plain = replace(config, eta=0.0)
    done = start.astype(jnp.float32) / max(config.pool_steps, 1)
    return fit_steps(
        model, opt_state, model, of_all_tasks(stacked, rows, config), scale, jax.random.fold_in(key, start), steps,
        plain, learn_termination, 1.0 - 0.95 * done,
    )  # fmt: skip


@compiled(static_argnames=("config", "learn_termination", "iterations", "tasks_per_iteration", "mesh"))
def meta_chunk(
    meta: Ensemble,
    stacked: Stacked,
    rows: Rows,
    scale: TargetScale,
    key: PRNGKeyArray,
    start: Int[Array, ""],
    *,
    config: DynamicsConfig,
    learn_termination: bool,
    iterations: int,
    tasks_per_iteration: int,
    mesh: Mesh | None = None,
) -> tuple[Ensemble, Float[Array, "iteration picked"], Int[Array, "iteration picked"]]:
    """`iterations` outer iterations in one compiled call, beginning with number `start` (for the rate's decay).

    Returns phi_m and, per iteration, the NLL of every picked task's inner steps and which tasks these were."""

    def body(meta, i):
        done = (start + i).astype(jnp.float32) / max(config.meta_iterations, 1)
        rate = config.meta_rate * jnp.maximum(1.0 - done, 0.1)
        meta, nll, picked = meta_iteration(
            meta, stacked, rows, scale, jax.random.fold_in(key, start + i), rate, config, learn_termination,
            tasks_per_iteration, _share(done, config), mesh,
        )  # fmt: skip
        return meta, (nll, picked)

    meta, (nll, picked) = jax.lax.scan(body, meta, jnp.arange(iterations))
    return held((meta, nll, picked), 0, mesh)


def adapt_one(
    start: Ensemble,
    anchor: Ensemble,
    data: Transitions,
    size: Int[Array, ""],
    rows: Rows,
    scale: TargetScale,
    key: PRNGKeyArray,
    config: DynamicsConfig,
    learn_termination: bool,
) -> tuple[FittedModel, Float[Array, " checks_plus_1"]]:
    """Fit one task from `start`, keeping for every member the parameters that were best on the hold-out.

    A reward network of its own is kept by its own error. A new task may have old dynamics, of which its log is too
    small to teach more, and a new reward: one error for both would be least before the reward has been learned.
    Returns the fitted model and the curve of the ensemble's mean hold-out error at steps 0, check_every, ...
    """
    held = take(data, rows.held)

    def body(carry, step):
        model, opt_state, best, least = carry
        k, done = step
        model, opt_state, _ = fit_steps(
            model, opt_state, anchor, of_task(data, rows, config), scale, k, config.check_every, config,
            learn_termination, _share(done, config),
        )  # fmt: skip
        errors = part_errors(model, held, rows.held_valid, scale)
        best = better_parts(model, best, errors[0] < least[0], errors[1] < least[1])
        least = jax.tree.map(jnp.minimum, least, errors)
        return (model, opt_state, best, least), jnp.mean(holdout_error(model, held, rows.held_valid, scale))

    first = holdout_error(start, held, rows.held_valid, scale)
    checks = config.adapt_steps // config.check_every
    carry = (start, optimiser(config).init(start), start, part_errors(start, held, rows.held_valid, scale))
    done = jnp.arange(checks, dtype=jnp.float32) / max(checks - 1, 1)
    (_, _, best, _), curve = jax.lax.scan(body, carry, (jax.random.split(key, checks), done))
    error = holdout_error(best, held, rows.held_valid, scale)
    fitted = FittedModel(best, elite_indices(error, config.elites), error, reach_of(data, size, scale))
    return fitted, jnp.concatenate([jnp.mean(first)[None], curve])


@compiled(static_argnames=("config", "learn_termination", "mesh"))
def adapt_models(
    meta: Ensemble,
    stacked: Stacked,
    rows: Rows,
    scale: TargetScale,
    key: PRNGKeyArray,
    *,
    config: DynamicsConfig,
    learn_termination: bool,
    mesh: Mesh | None = None,
) -> tuple[FittedModel, Float[Array, "task checks_plus_1"]]:
    """`adapt_one` from phi_m for every task of the stack."""

    def one(shared, args):
        meta, scale = shared
        data, size, own, k = args
        return adapt_one(meta, meta, data, size, own, scale, k, config, learn_termination)

    keys = jax.random.split(key, rows.count.shape[0])
    tasks = (stacked.transitions, stacked.size, rows, keys)
    return map_jobs(one, (meta, scale), tasks, batched(config.group, config.hidden), mesh)
