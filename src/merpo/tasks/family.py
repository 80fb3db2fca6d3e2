"""What a task family is: constants, a batched simulator, and rollouts of a policy over tasks x episodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import metadata
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from merpo.data.types import Bounds, SetInfo
from merpo.errors import ConfigError

Act = Callable[[Float[np.ndarray, "task episode obs"], int], Any]
"""`act(obs, step)`: float32 observations [task, episode, obs] to actions [task, episode, act] in [-1, 1]."""

Parameters = Mapping[str, float | list[float]]
"""True parameters of a task as plain floats and lists: its environment's keyword arguments."""

QUALITIES = ("random", "medium", "expert", "mixed")
"""The behaviour qualities that every family can be collected with."""


@runtime_checkable
class Simulator(Protocol):
    """Batched physics. A state is float64, so that no precision is lost between steps."""

    def initial(self, seed: int, task: int, episode: int) -> Float[np.ndarray, " state"]:
        """The initial state; depends on these three numbers alone."""
        ...

    def observe(self, state: Float[np.ndarray, "*n state"]) -> Float[np.ndarray, "*n obs"]:
        """The observation, float32."""
        ...

    def step(
        self,
        task_ids: Int[np.ndarray, " n"],
        state: Float[np.ndarray, "n state"],
        action: Float[np.ndarray, "n act"],
    ) -> tuple[
        Float[np.ndarray, "n state"],
        Float[np.ndarray, " n"],
        Bool[np.ndarray, " n"],
        Float[np.ndarray, "n extra"],
    ]:
        """Next state, reward, terminated, and extra numbers that `reward` needs beside the observation."""
        ...

    def info(
        self, task: int, state: Float[np.ndarray, " state"], extra: Float[np.ndarray, " extra"]
    ) -> dict[str, float]:
        """What an environment tells beside the observation; `extra` is that of the step, zeros at a reset."""
        ...

    def reconstruct(
        self, obs: Float[np.ndarray, "n obs"]
    ) -> tuple[Float[np.ndarray, "n state"], Bool[np.ndarray, " n"]]:
        """States with these observations, what is not observed being 0, and which of them are true to it."""
        ...

    @property
    def velocity_columns(self) -> slice:
        """The observation's velocities; positions and angles come before them."""
        ...


@dataclass(frozen=True)
class Rollout:
    """Episodes of one policy on several tasks; rows past `length` are zeros."""

    obs: Float[np.ndarray, "task episode step obs"]
    action: Float[np.ndarray, "task episode step act"]
    reward: Float[np.ndarray, "task episode step"]
    next_obs: Float[np.ndarray, "task episode step obs"]
    terminated: Bool[np.ndarray, "task episode step"]
    truncated: Bool[np.ndarray, "task episode step"]
    length: Int[np.ndarray, "task episode"]

    @property
    def returns(self) -> Float[np.ndarray, "task episode"]:
        """Undiscounted return of every episode."""
        return np.asarray(np.sum(self.reward, axis=-1, dtype=np.float64))


class JaxPolicy(eqx.Module):
    """A policy that can be compiled into the rollout: `apply(params, obs, step)`, obs [task, episode, obs].

    Keep `apply` one and the same function object between calls (a module-level function, not a fresh lambda):
    the compiled rollout is cached under it, while `params` may change freely.
    """

    apply: Callable[[Any, Array, Array], Array] = eqx.field(static=True)
    params: Any

    def __call__(self, obs: Float[Array | np.ndarray, "task episode obs"], step: int) -> Array:
        """The same policy one step at a time, for simulators that cannot be compiled."""
        return _apply(self.apply, self.params, jnp.asarray(obs), jnp.int32(step))


@partial(jax.jit, static_argnums=0)
def _apply(apply: Callable[[Any, Array, Array], Array], params: Any, obs: Array, step: Array) -> Array:
    return apply(params, obs, step)


@dataclass(frozen=True, eq=False)
class Family:
    """A task family: everything that evaluation, collection and behaviour training need to know of it."""

    name: str
    """E.g. `half-cheetah-fwd-back`."""
    version: int
    """Raised whenever any number of the definition changes."""
    env_id: str
    """Gymnasium id of the same tasks, e.g. `merpo/HalfCheetahFwdBack-v1`."""
    obs_dim: int
    """Length of an observation."""
    act_dim: int
    """Length of an action; every column in [-1, 1]."""
    horizon: int
    """Steps after which an episode is truncated."""
    gamma: float
    """Discount factor the family is judged with."""
    physics: str
    """`none` (closed form), `modern` (MuJoCo as installed) or `legacy` (as before MuJoCo 2.1.2)."""
    train_ids: tuple[int, ...]
    """Tasks to meta-learn from."""
    test_ids: tuple[int, ...]
    """Tasks to adapt to; equal to `train_ids` in the two-task families."""
    task_vectors: Float[np.ndarray, "task k"]
    """True parameters of every task as numbers: what a privileged policy sees beside the observation."""
    parameters: Callable[[int], dict[str, float | list[float]]]
    """True parameters of task i as plain floats and lists; also the environment's keyword arguments."""
    make_simulator: Callable[[Sequence[Parameters], str, int], Simulator]
    """`make_simulator(parameters of each task, physics, threads)`: the batched simulator of these tasks (imports
    MuJoCo where it is needed). Raises ConfigError for parameters that are none of this family's."""
    reward: Callable[[Array, Array, Array, Array], Array]
    """Pure JAX `reward(task_vector, action, next_obs, extra)`, for relabelling; any leading axes."""
    relabel: bool = False
    """Whether all tasks share their dynamics, so that a transition of one can be relabelled to another."""
    extra_dim: int = 0
    """How many extra numbers the simulator returns per step."""
    obs_scale: tuple[float, ...] = ()
    """Typical magnitude of each observation column: the fixed input scaling of behaviour policies."""
    reward_scale: float = 1.0
    """Factor on rewards in behaviour training, so that values are of order ten."""
    healthy: tuple[Bounds, ...] = ()
    """Conditions of staying alive, on the observation; empty where episodes never terminate."""
    observation: str = "standard"
    """`standard`, or `legacy` where the field's old code observed something else."""
    dynamics: Callable[[Array, Array, Array], Array] | None = None
    """Pure JAX `next_state(task_vector, state, action)` where it has a closed form (observation = state)."""

    ordering: Callable[[Parameters], float] | None = None
    """The number by which tasks are ordered where some are held out as lying outside the range of the others."""

    @property
    def num_tasks(self) -> int:
        """Number of distinct tasks."""
        return len(self.task_vectors)

    def outside(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(training, test) tasks such that the test tasks lie outside the range that training has seen: the tenth of
        all tasks with the smallest `ordering` and the tenth with the largest, at least one each.

        Raises ConfigError where the family has no ordering.
        """
        if self.ordering is None:
            raise ConfigError(
                f"outside: the tasks of {self.name!r} have no order, none lies outside the others' range."
            )
        place = [self.ordering(self.parameters(i)) for i in range(self.num_tasks)]
        ordered = sorted(range(self.num_tasks), key=place.__getitem__)
        share = -(-self.num_tasks // 10)
        return tuple(sorted(ordered[share:-share])), tuple(sorted(ordered[:share] + ordered[-share:]))

    def info(self, quality: str, seed: int) -> SetInfo:
        """The `SetInfo` of a data set of this family."""
        packages = ("numpy", "jax") if self.physics == "none" else ("numpy", "jax", "gymnasium", "mujoco")
        return SetInfo(
            family=self.name,
            version=self.version,
            quality=quality,
            obs_dim=self.obs_dim,
            act_dim=self.act_dim,
            gamma=self.gamma,
            horizon=self.horizon,
            action_low=(-1.0,) * self.act_dim,
            action_high=(1.0,) * self.act_dim,
            termination="bounds" if self.healthy else "never",
            healthy=self.healthy,
            physics=self.physics,
            seed=seed,
            versions=tuple((p, metadata.version(p)) for p in packages),
        )

    @cached_property
    def simulator(self) -> Simulator:
        """The simulator of all the family's tasks, made at first use."""
        return self.make_simulator([self.parameters(i) for i in range(self.num_tasks)], self.physics, cores())

    def rollout(self, act: Act | JaxPolicy, task_ids: Sequence[int], episodes: int, seed: int = 0) -> Rollout:
        """Run `episodes` episodes of a policy on each of `task_ids`, all in lock-step.

        `act(obs, step)` maps float32 observations [task, episode, obs] to actions [task, episode, act]; the
        axis `task` follows `task_ids`, so that a policy may use one set of parameters per task. Actions are
        clipped to [-1, 1] and recorded as applied. Initial states depend only on (seed, task id, episode
        index), so that every method is judged on the same starts. A `JaxPolicy` on a family with closed-form
        dynamics is one compiled call.

        Raises ConfigError for an unknown task id, `episodes` < 1, or actions of the wrong shape or not
        finite.
        """
        ids = np.asarray([int(i) for i in task_ids], np.int64)
        if ids.size == 0 or ids.min() < 0 or ids.max() >= self.num_tasks:
            raise ConfigError(
                f"task_ids={list(task_ids)!r}: expected at least one task id in [0, {self.num_tasks}) of"
                f" {self.name!r}. Choose from train_ids or test_ids."
            )
        if episodes < 1:
            raise ConfigError(f"episodes={episodes!r}: expected at least one episode. Raise it.")
        start = np.stack([[self.simulator.initial(seed, int(t), e) for e in range(episodes)] for t in ids])
        if isinstance(act, JaxPolicy) and self.dynamics is not None:
            return self._rollout_jax(act, ids, start)
        return self._rollout_loop(act, ids, start)

    def _rollout_loop(self, act: Act, ids: np.ndarray, state: np.ndarray) -> Rollout:
        lead = state.shape[:2]
        rows = np.repeat(ids, lead[1]).reshape(lead)
        shape = (*lead, self.horizon)
        obs = np.zeros((*shape, self.obs_dim), np.float32)
        next_obs, action = np.zeros_like(obs), np.zeros((*shape, self.act_dim), np.float32)
        reward = np.zeros(shape, np.float32)
        terminated, truncated = np.zeros(shape, bool), np.zeros(shape, bool)
        alive, length = np.ones(lead, bool), np.zeros(lead, np.int64)
        for t in range(self.horizon):
            seen = self.simulator.observe(state)
            a = checked_action(act(seen, t), (*lead, self.act_dim))
            # an episode that has ended stays where it is: its physics could run into infinities
            after, r, ended, _ = self.simulator.step(rows[alive], state[alive], a[alive])
            obs[alive, t], action[alive, t], reward[alive, t] = seen[alive], a[alive], r
            next_obs[alive, t] = self.simulator.observe(after)
            state[alive], terminated[alive, t] = after, ended
            length += alive
            alive = alive & ~terminated[:, :, t]
            if not alive.any():
                break
        truncated[:, :, -1] = alive
        return Rollout(obs, action, reward, next_obs, terminated, truncated, length)

    def _rollout_jax(self, policy: JaxPolicy, ids: np.ndarray, state: np.ndarray) -> Rollout:
        vectors = jnp.asarray(self.task_vectors[ids], jnp.float32)[:, None]
        obs, action, reward, next_obs = (
            np.asarray(x)
            for x in _scan_rollout(
                policy.apply,
                self.dynamics,
                self.reward,
                self.horizon,
                policy.params,
                vectors,
                state.astype(np.float32),
            )
        )
        checked_action(action, action.shape)
        terminated, truncated = np.zeros(reward.shape, bool), np.zeros(reward.shape, bool)
        truncated[..., -1] = True
        return Rollout(
            obs,
            action,
            reward,
            next_obs,
            terminated,
            truncated,
            np.full(state.shape[:2], self.horizon, np.int64),
        )


def cores() -> int:
    """Threads worth using here: the cores this process may run on, at most eight."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, 8)


def checked_action(action: Any, shape: tuple[int, ...]) -> Float[np.ndarray, "*shape"]:
    """The action as float32 clipped to [-1, 1]. Raises ConfigError if its shape is wrong or it is not"
    " finite."""
    array = np.asarray(action, np.float32)
    if array.shape != shape:
        raise ConfigError(
            f"act(obs, step) has shape {array.shape}: expected {shape} = (task, episode, act). Return one"
            " action per observation."
        )
    if not np.isfinite(array).all():
        raise ConfigError(
            "act(obs, step) holds NaN or infinite values: expected finite actions in [-1, 1]. Check the"
            " policy's parameters for a diverged training."
        )
    return np.clip(array, -1.0, 1.0)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _scan_rollout(
    apply: Callable[[Any, Array, Array], Array],
    dynamics: Callable[[Array, Array, Array], Array],
    reward: Callable[[Array, Array, Array, Array], Array],
    horizon: int,
    params: Any,
    vectors: Float[Array, "task 1 k"],
    state: Float[Array, "task episode state"],
) -> tuple[Array, Array, Array, Array]:
    extra = jnp.zeros((*state.shape[:2], 0), jnp.float32)

    def step(state: Array, t: Array) -> tuple[Array, tuple[Array, Array, Array, Array]]:
        action = jnp.clip(apply(params, state, t), -1.0, 1.0)
        after = dynamics(vectors, state, action)
        return after, (state, action, reward(vectors, action, after, extra), after)

    _, rows = jax.lax.scan(step, state, jnp.arange(horizon, dtype=jnp.int32))
    obs, action, r, next_obs = (jnp.moveaxis(x, 0, 2) for x in rows)
    return obs, action, r, next_obs
