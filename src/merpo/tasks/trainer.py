"""Training of a family's privileged behaviour policy: checkpoints along the way are the data's qualities."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from merpo.errors import ConfigError
from merpo.networks import Actor
from merpo.tasks import sac
from merpo.tasks.family import Family
from merpo.tasks.policies import (
    Policy,
    distribution,
    load_header,
    load_tree,
    mode_act,
    save_policy,
    save_tree,
    write_json,
)

SETTINGS = {
    "walker-2d-params": sac.SACConfig(gamma=0.98, n_step=3, envs=100, slots=6000),
    "hopper-params": sac.SACConfig(gamma=0.98, n_step=3, envs=100, slots=6000),
    "ant-fwd-back": sac.SACConfig(gamma=0.98, n_step=3),
}
"""Families that are trained with other settings than the default."""

Progress = Callable[[dict[str, Any]], None]

EVAL_EPISODES = 8
"""Deterministic episodes per task at every evaluation; fewer where there are many tasks."""
EVAL_ROWS = 64
"""Episodes of all tasks together that an evaluation tries to keep to, with two per task at least."""
EVAL_SEED = 982_451
"""Seed of the evaluation's initial states, unlike that of any collected data set."""


class Collector:
    """Steps all environments in lock-step and cuts the experience into blocks of `env_steps` steps.

    A block's `task` counts within `tasks`, the ids dealt out to the environments in turn.
    """

    def __init__(self, family: Family, config: sac.SACConfig, seed: int, tasks: Sequence[int]):
        self.family, self.config, self.seed = family, config, seed
        self.simulator = family.simulator
        self.which = np.arange(config.envs, dtype=np.int32) % len(tasks)
        self.tasks = np.asarray(tasks)[self.which]
        self.vectors = family.task_vectors[self.tasks].astype(np.float32)
        self.scale = np.asarray(family.obs_scale, np.float32)
        self.rng = np.random.default_rng([seed, config.envs])
        self.episode = np.zeros(config.envs, np.int64)
        self.clock = np.zeros(config.envs, np.int64)
        self.steps = 0
        """Environment steps so far, all environments together."""
        self.state = np.stack([self.simulator.initial(seed, i, 0) for i in range(config.envs)])

    def _restart(self, ended: Bool[np.ndarray, " env"]) -> None:
        for i in np.flatnonzero(ended):
            self.episode[i] += 1
            self.clock[i] = 0
            self.state[i] = self.simulator.initial(self.seed, int(i), int(self.episode[i]))

    def block(self, actor: Actor | None) -> dict[str, Array]:
        """One block as arrays [step, env, ...]: actions sampled from the actor, or uniform without one."""
        columns: dict[str, list[np.ndarray]] = {}
        shape = (self.config.envs, self.family.act_dim)
        for _ in range(self.config.env_steps):
            obs = self.simulator.observe(self.state)
            if actor is None:
                action = self.rng.uniform(-1.0, 1.0, shape).astype(np.float32)
            else:
                mean, std = distribution(actor, np.concatenate([obs / self.scale, self.vectors], axis=-1))
                action = np.tanh(mean + std * self.rng.standard_normal(shape, np.float32))
            self.state, _, terminated, extra = self.simulator.step(self.tasks, self.state, action)
            self.clock += 1
            last = terminated | (self.clock == self.family.horizon)
            row = {
                "obs": obs,
                "action": action,
                "next_obs": self.simulator.observe(self.state),
                "extra": extra.astype(np.float32),
                "terminated": terminated,
                "last": last,
                "task": self.which,
            }
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
            self._restart(last)
        self.steps += self.config.env_steps * self.config.envs
        return {name: jnp.asarray(np.stack(value)) for name, value in columns.items()}


def eval_episodes(tasks: int) -> int:
    """Episodes per task of an evaluation during training."""
    return max(2, min(EVAL_EPISODES, EVAL_ROWS // tasks))


def deterministic_returns(
    family: Family, policy: Policy, episodes: int, seed: int, tasks: Sequence[int] | None = None
) -> list[float]:
    """Mean undiscounted return per task (all, or `tasks`) of the policy's deterministic action, `tanh(mean)`."""
    ids = tuple(range(family.num_tasks)) if tasks is None else tuple(tasks)
    run = family.rollout(mode_act(family, policy, ids), ids, episodes, seed)
    return [float(r) for r in run.returns.mean(axis=1)]


def train_behaviour(
    family: Family,
    out: str | Path,
    updates: int,
    seed: int = 0,
    config: sac.SACConfig | None = None,
    every: int = 20_000,
    marks: tuple[float, ...] = (),
    progress: Progress | None = None,
    resume: bool = False,
    tasks: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Train one privileged SAC agent on all tasks of `family` at once; save checkpoints in the folder `out`.

    `tasks`: on these alone, to see what an agent of a task's own reaches; such a run's checkpoints do not ship.

    A checkpoint is `ckpt-<updates>.safetensors` (the actor and its input scaling) with a `.json` beside it:
    updates, environment steps, deterministic return per task, seconds, configuration, and the arguments `updates`
    (as `asked`) and `every`. One is written every `every` updates, eight times as often before the first of these
    (returns rise fastest then), at every block before the first of those, and whenever the mean return first
    passes one of `marks`. `learner.safetensors` holds the whole learner, overwritten at each periodic checkpoint;
    `resume=True` continues from it with an empty replay ring (refilled by the policy as it is), `updates` being
    the total including what was done before.

    Returns the records of the checkpoints written. Raises ConfigError for settings outside their range.
    """
    config = config or SETTINGS.get(family.name, sac.SACConfig())
    if updates < 1 or every < 1:
        raise ConfigError(f"updates={updates!r}, every={every!r}: expected positive numbers. Raise them.")
    ids = tuple(range(family.num_tasks)) if tasks is None else tuple(int(t) for t in tasks)
    if not ids or len(set(ids)) < len(ids) or not all(0 <= t < family.num_tasks for t in ids):
        raise ConfigError(
            f"tasks={ids}: expected different ids of {family.name}, 0 to {family.num_tasks - 1}. Leave it out for all."
        )
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    collector = Collector(family, config, seed, ids)
    vectors = jnp.asarray(family.task_vectors[list(ids)], jnp.float32)
    scale = jnp.asarray(family.obs_scale, jnp.float32)
    key = jax.random.key(seed)
    key, k_init = jax.random.split(key)
    state = eqx.filter_jit(sac.init)(config, family.obs_dim + vectors.shape[1], family.act_dim, updates, k_init)
    earlier = 0.0
    if resume:
        state = load_tree(folder / "learner.safetensors", state)
        header = load_header(folder / "learner.safetensors", ("env_steps", "seconds"))
        collector.steps, earlier = int(header["env_steps"]), float(header["seconds"])
        collector.rng = np.random.default_rng([seed, config.envs, int(state.step)])
        key = jax.random.fold_in(key, int(state.step))
    chunk = sac.make_chunk(config, family.reward, family.reward_scale, family.relabel, vectors, scale, updates)
    replay = sac.init_replay(config, family.obs_dim, family.act_dim, family.extra_dim)
    for _ in range(config.warmup // config.env_steps):
        replay = sac.insert(replay, collector.block(state.actor if resume else None))

    begin, records = time.perf_counter() - earlier, []
    done = int(state.step)
    start, best = done, -np.inf
    metrics: dict[str, Any] = {}

    def checkpoint(policy: Policy, returns: list[float]) -> None:
        record = {
            "family": family.name,
            "version": family.version,
            "updates": done,
            "env_steps": collector.steps,
            "tasks": list(ids),
            "returns": returns,
            "mean_return": float(np.mean(returns)),
            "seconds": time.perf_counter() - begin,
            "seed": seed,
            "resumed_at": start,
            "asked": updates,
            "every": every,
            "config": asdict(config),
        }
        stem = folder / f"ckpt-{done:09d}"
        save_policy(stem.with_suffix(".safetensors"), policy)
        write_json(stem.with_suffix(".json"), record)
        records.append(record)

    while done < updates:
        key, k_chunk = jax.random.split(key)
        replay = sac.insert(replay, collector.block(state.actor))
        state, metrics = chunk(state, replay, k_chunk)
        before, done = done, done + config.updates
        period = done // every > before // every or done >= updates
        # looks between periodic checkpoints: early on, and so that no mark is passed unseen
        eighth = max(every // 8, 1)
        first = before < eighth  # some families learn to stand within these
        if period or first or ((marks or done <= every) and done // eighth > before // eighth):
            policy = Policy(state.actor, scale)
            returns = deterministic_returns(family, policy, eval_episodes(len(ids)), EVAL_SEED, ids)
            mean = float(np.mean(returns))
            passed = any(best < mark <= mean for mark in marks)
            best = max(best, mean)
            if period or passed or done <= every:
                checkpoint(policy, returns)
            if period:
                spent = {"env_steps": str(collector.steps), "seconds": str(time.perf_counter() - begin)}
                save_tree(folder / "learner.safetensors", state, spent)
            if progress is not None:
                seconds = time.perf_counter() - begin
                progress(
                    {
                        "updates": done,
                        "env_steps": collector.steps,
                        "returns": returns,
                        "speed": (done - start) / (seconds - earlier),
                        "seconds": seconds,
                        **{name: float(value) for name, value in metrics.items()},
                    }
                )
    return records
