"""A probabilistic ensemble of dynamics: T(s', r | s, a) as diagonal Gaussians over (s' - s, r).

Follows PETS (Chua et al. 2018) and MBPO/MOPO practice: softly bounded log-variance, one bootstrap sample per member,
elites by hold-out error. Every array is in *prepared* units (observations standardised, actions in [-1, 1], rewards
scaled; see `merpo.data.Preparation`), and targets are standardised once more by `TargetScale`, since the change over
a step is much smaller than the state. A third head, one logit, learns termination where the data contain any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from merpo.data.types import Transitions
from merpo.errors import ConfigError, check_count, check_group, check_widths
from merpo.networks import MLP
from merpo.networks.tanh_gaussian import LOG_2PI

POOL_CHUNK = 100
"""Pooled gradient steps per compiled call."""


@dataclass(frozen=True)
class DynamicsConfig:
    """Settings of the ensemble, its fit, and the proximal meta-model."""

    hidden: tuple[int, ...] = (128, 128, 128)
    """Widths of the hidden layers of each member."""
    reward_given_next: bool = False
    """Whether the reward has a network of its own that sees s' too, p(s'|s,a) p(r|s,a,s'), instead of p(s',r|s,a) with
    independent errors. Where tasks differ in dynamics and share the reward, that network is right in every task."""
    cap_rewards: bool = False
    """Whether imagined rewards have a cap: the best that the training tasks, or the task itself, have logged, and less
    the further a state lies beyond the logged ones (`Logged.cap`). Where logs show only that the reward grows on the
    way, a network's guess grows on beyond them, and a policy follows it."""
    members: int = 7
    """Networks in the ensemble."""
    elites: int = 5
    """Members used for imagination: those with the least hold-out error."""
    learning_rate: float = 1e-3
    """Adam step size of every gradient step on a task's model."""
    lr_final: float = 1.0
    """The step size falls linearly to this share: inner steps over the outer iterations, a task's own over its fit."""
    batch: int = 256
    """Rows per member and step."""
    holdout: float = 0.2
    """Share of each task's episodes held out (their rows at most `holdout_rows`)."""
    holdout_rows: int = 1000
    """Largest number of hold-out rows used per task."""
    eta: float = 1e-3
    """Proximal weight: eta ||phi_n - phi_m||^2."""
    pool_steps: int = 0
    """Gradient steps on all training tasks' rows together before the outer iterations: where phi_m starts."""
    pool_batch: int = 128
    """Rows per member and such step."""
    meta_iterations: int = 200
    """Outer iterations of the meta-model."""
    inner_steps: int = 10
    """Gradient steps on each phi_n, from phi_m, per outer iteration."""
    meta_rate: float = 0.5
    """Outer step times 2 eta: the share of the way phi_m moves to the mean phi_n; decays linearly to a tenth."""
    adapt_steps: int = 600
    """Largest number of gradient steps on one task from phi_m (the best on the hold-out is kept)."""
    scratch_steps: int = 0
    """Gradient steps of a second model of a new task, from random weights and without the proximal term, which is
    kept where the one from phi_m is wrong on the hold-out (`fit.GOOD`) and this errs less: for tasks that are unlike
    those of meta-training. 0: only the model from phi_m."""
    check_every: int = 50
    """Steps between two hold-out evaluations while adapting."""
    group: int | None = None
    """Tasks batched by `vmap`; groups follow one another. As `MerPOConfig.group`."""

    def __post_init__(self) -> None:
        if not 1 <= self.elites <= self.members:
            raise ConfigError(f"elites={self.elites}: expected 1..members={self.members}. Lower it or add members.")
        if not 0.0 < self.holdout < 1.0:
            raise ConfigError(f"holdout={self.holdout}: expected a share strictly between 0 and 1, e.g. 0.2.")
        if not 0.0 < self.lr_final <= 1.0:
            raise ConfigError(f"lr_final={self.lr_final}: expected a share in (0, 1], where 1 stands for no decay.")
        if not 0.0 < self.meta_rate <= 1.0:
            raise ConfigError(f"meta_rate={self.meta_rate}: expected a share in (0, 1].")
        if not 0.0 <= self.eta < float("inf"):
            raise ConfigError(f"eta={self.eta}: expected a finite weight >= 0.")
        if not 0.0 <= self.learning_rate < 1.0:
            raise ConfigError(f"learning_rate={self.learning_rate}: expected a step size in [0, 1), e.g. 1e-3.")
        check_count("pool_steps", self.pool_steps, least=0)
        if self.pool_steps % POOL_CHUNK:
            raise ConfigError(f"pool_steps={self.pool_steps}: expected a multiple of {POOL_CHUNK}, or 0 for none.")
        for name in (
            "members",
            "batch",
            "inner_steps",
            "adapt_steps",
            "check_every",
            "holdout_rows",
            "pool_batch",
        ):
            check_count(name, getattr(self, name))
        check_group(self.group)
        check_count("meta_iterations", self.meta_iterations, least=0)
        check_widths("hidden", self.hidden)
        check_count("scratch_steps", self.scratch_steps, least=0)
        for name in ("adapt_steps", "scratch_steps"):
            if (steps := getattr(self, name)) % self.check_every:
                raise ConfigError(f"{name}={steps}: expected a multiple of check_every={self.check_every}.")


class Logged(eqx.Module):
    """Between what bounds states and rewards were logged, in prepared units."""

    low: Float[Array, "*task obs"]
    high: Float[Array, "*task obs"]
    worst: Float[Array, "*task"]
    best: Float[Array, "*task"]

    @staticmethod
    def of(data: Transitions, real: Bool[Array, " row"] | bool = True) -> Logged:
        """The bounds of one stack of rows; those that are not real do not count."""
        states, there = jnp.stack([data.obs, data.next_obs]), jnp.broadcast_to(real, data.reward.shape)
        low = jnp.min(states, axis=(0, 1), where=there[None, :, None], initial=jnp.inf)
        high = jnp.max(states, axis=(0, 1), where=there[None, :, None], initial=-jnp.inf)
        worst = jnp.min(data.reward, where=there, initial=jnp.inf)
        return Logged(low, high, worst, jnp.max(data.reward, where=there, initial=-jnp.inf))

    def widened(self) -> tuple[Float[Array, " obs"], Float[Array, " obs"]]:
        """Bounds of the states, moved out by half their distance."""
        margin = 0.5 * (self.high - self.low)
        return self.low - margin, self.high + margin

    def union(self, other: Logged) -> Logged:
        """The bounds of both."""
        low, worst = jnp.minimum(self.low, other.low), jnp.minimum(self.worst, other.worst)
        return Logged(low, jnp.maximum(self.high, other.high), worst, jnp.maximum(self.best, other.best))

    def cap(self, obs: Float[Array, "*n obs"]) -> Float[Array, "*n"]:
        """The best logged reward; beyond the logged states less: for each width of theirs by the whole logged range of
        rewards, in the column where a state lies furthest out. So far may it have fallen across the log.

        A width is at least one deviation: a column that never changed says nothing of distances.
        """
        lift = (1,) * (obs.ndim - 1) + (-1,)
        low, high = self.low.reshape(lift), self.high.reshape(lift)
        beyond = jnp.maximum(low - obs, obs - high) / jnp.maximum(high - low, 1.0)
        return self.best - (self.best - self.worst) * jnp.maximum(jnp.max(beyond, axis=-1), 0.0)


class TargetScale(eqx.Module):
    """Mean and deviation of (s' - s, r) over the training tasks; common to all tasks so that phi_m has one meaning."""

    mean: Float[Array, " out"]
    std: Float[Array, " out"]
    obs_low: Float[Array, " obs"]
    """Imagined states are kept within `[obs_low, obs_high]`: the logged range widened by half its width."""
    obs_high: Float[Array, " obs"]
    logged: Logged | None = None
    """What caps imagined rewards; None: nothing does."""


def fit_scale(transitions: Transitions, cap_rewards: bool = False) -> TargetScale:
    """Scale from all real rows ([row, ...]) of the training tasks."""
    target = jnp.concatenate([transitions.next_obs - transitions.obs, transitions.reward[:, None]], axis=-1)
    logged = Logged.of(transitions)
    mean, std = jnp.mean(target, axis=0), jnp.maximum(jnp.std(target, axis=0), 1e-4)
    return TargetScale(mean, std, *logged.widened(), logged if cap_rewards else None)


class Ensemble(eqx.Module):
    """The members' parameters (phi): every leaf has a leading [member] axis."""

    nets: MLP
    max_logvar: Float[Array, "member out"]
    min_logvar: Float[Array, "member out"]
    reward: MLP | None = None
    """With `reward_given_next`: (s, a, standardised s' - s) to mean and raw log-variance of the reward."""

    @staticmethod
    def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: DynamicsConfig) -> Ensemble:
        """Fresh members, each from its own key."""
        out = obs_dim + 1

        def make(k: PRNGKeyArray) -> MLP:
            return MLP(obs_dim + act_dim, 2 * out + 1, config.hidden, k, activation="silu")

        def make_reward(k: PRNGKeyArray) -> MLP:
            return MLP(2 * obs_dim + act_dim, 2, config.hidden, k, activation="silu")

        keys = jax.random.split(key, config.members)
        nets = eqx.filter_vmap(make)(keys)
        reward = None
        if config.reward_given_next:
            reward = eqx.filter_vmap(make_reward)(jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys))
        ones = jnp.ones((config.members, out), jnp.float32)
        return Ensemble(nets, 0.5 * ones, -10.0 * ones, reward)

    def __call__(
        self, x: Float[Array, "member row in"], change: Float[Array, "member row obs"] | None = None
    ) -> tuple[Float[Array, "member row out"], Float[Array, "member row out"], Float[Array, "member row"]]:
        """Mean and log-variance of the standardised target, and the termination logit; member m sees `x[m]`.

        `change` is the standardised s' - s that a reward network of its own is given; the predicted mean without it.
        """
        y = jax.vmap(lambda net, rows: net(rows))(self.nets, x)
        out = self.max_logvar.shape[-1]
        mean, raw, logit = y[..., :out], y[..., out : 2 * out], y[..., -1]
        if self.reward is not None:
            seen = mean[..., :-1] if change is None else change
            r = jax.vmap(lambda net, rows: net(rows))(self.reward, jnp.concatenate([x, seen], axis=-1))
            mean = jnp.concatenate([mean[..., :-1], r[..., :1]], axis=-1)
            raw = jnp.concatenate([raw[..., :-1], r[..., 1:]], axis=-1)
        top, bottom = self.max_logvar[:, None, :], self.min_logvar[:, None, :]
        logvar = top - jax.nn.softplus(top - raw)
        logvar = bottom + jax.nn.softplus(logvar - bottom)
        return mean, logvar, logit


def inputs_targets(
    t: Transitions, scale: TargetScale
) -> tuple[Float[Array, "*n in"], Float[Array, "*n out"], Float[Array, "*n"]]:
    """Network inputs (s, a), standardised targets (s' - s, r), and the termination label as 0/1."""
    x = jnp.concatenate([t.obs, t.action], axis=-1)
    y = jnp.concatenate([t.next_obs - t.obs, t.reward[..., None]], axis=-1)
    lift = (1,) * (y.ndim - 1) + (-1,)
    y = (y - scale.mean.reshape(lift)) / scale.std.reshape(lift)
    return x, y, t.terminated.astype(jnp.float32)


def gaussian_nll(
    mean: Float[Array, "*n out"], logvar: Float[Array, "*n out"], y: Float[Array, "*n out"]
) -> Float[Array, "*n"]:
    """-log N(y; mean, diag exp(logvar)), summed over outputs (the exact density, constants included)."""
    return 0.5 * jnp.sum((y - mean) ** 2 * jnp.exp(-logvar) + logvar + LOG_2PI, axis=-1)


def member_losses(
    model: Ensemble, batch: Transitions, scale: TargetScale, learn_termination: bool
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Sum over members of their mean NLL on their own rows ([member, row, ...]) (MerPO, section 3)."""
    x, y, ended = inputs_targets(batch, scale)
    mean, logvar, logit = model(x, y[..., :-1])
    nll = jnp.mean(gaussian_nll(mean, logvar, y), axis=-1)
    bounds = 0.01 * jnp.sum(model.max_logvar - model.min_logvar, axis=-1)
    loss = nll + bounds
    if learn_termination:
        # Bernoulli NLL of the label, from the logit
        loss = loss + jnp.mean(jax.nn.softplus(logit) - ended * logit, axis=-1)
    return jnp.sum(loss), {"dynamics/nll": jnp.mean(nll)}


def proximal_term(model: Ensemble, anchor: Ensemble) -> Float[Array, ""]:
    """||phi_n - phi_m||^2 over all members and weights."""
    squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), model, anchor)
    return jax.tree.reduce(jnp.add, squares)


def holdout_error(
    model: Ensemble, rows: Transitions, valid: Bool[Array, " row"], scale: TargetScale
) -> Float[Array, " member"]:
    """Mean squared error of the standardised prediction per member over the valid hold-out rows."""
    x, y, _ = inputs_targets(rows, scale)
    members = model.max_logvar.shape[0]
    mean, _, _ = model(jnp.broadcast_to(x, (members, *x.shape)))
    return _mean_valid(jnp.mean((mean - y[None]) ** 2, axis=-1), valid)


def part_errors(
    model: Ensemble, rows: Transitions, valid: Bool[Array, " row"], scale: TargetScale
) -> tuple[Float[Array, " member"], Float[Array, " member"]]:
    """`holdout_error` of the next state, and of the reward given the next state, where the latter has a network of its
    own: what either is trained for. Without one both are `holdout_error`: the parts cannot be told apart."""
    if model.reward is None:
        error = holdout_error(model, rows, valid, scale)
        return error, error
    x, y, _ = inputs_targets(rows, scale)
    shape = (model.max_logvar.shape[0], *x.shape[:-1])
    mean, _, _ = model(
        jnp.broadcast_to(x, (*shape, x.shape[-1])), jnp.broadcast_to(y[..., :-1], (*shape, y.shape[-1] - 1))
    )
    missed = (mean - y[None]) ** 2
    return _mean_valid(jnp.mean(missed[..., :-1], axis=-1), valid), _mean_valid(missed[..., -1], valid)


def better_parts(
    new: Ensemble, old: Ensemble, moves: Bool[Array, " member"], reward: Bool[Array, " member"]
) -> Ensemble:
    """Member by member the new networks where their part is better, else the old ones."""

    def pick(better: Bool[Array, " member"], a: Any, b: Any) -> Any:
        return jax.tree.map(lambda x, y: jnp.where(better.reshape(-1, *(1,) * (x.ndim - 1)), x, y), a, b)

    def bounds(a: Float[Array, "member out"], b: Float[Array, "member out"]) -> Float[Array, "member out"]:
        return jnp.concatenate([pick(moves, a[:, :-1], b[:, :-1]), pick(reward, a[:, -1:], b[:, -1:])], axis=1)

    tops, bottoms = bounds(new.max_logvar, old.max_logvar), bounds(new.min_logvar, old.min_logvar)
    return Ensemble(pick(moves, new.nets, old.nets), tops, bottoms, pick(reward, new.reward, old.reward))


def _mean_valid(error: Float[Array, "member row"], valid: Bool[Array, " row"]) -> Float[Array, " member"]:
    weight = valid.astype(jnp.float32)[None]
    return jnp.sum(error * weight, axis=-1) / jnp.maximum(jnp.sum(weight), 1.0)


def elite_indices(error: Float[Array, " member"], elites: int) -> Int[Array, " elite"]:
    """The members with the least hold-out error."""
    return jnp.argsort(error)[:elites]
