"""Default settings, chosen from what the data say of themselves: their dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.rac import RACConfig
from merpo.data import TaskData, action_noise
from merpo.data.types import SetInfo
from merpo.dynamics.ensemble import DynamicsConfig

SMALL_DIMENSIONS = 8
"""Observation and action columns together up to which the small networks are used."""

SMALL = MerPOConfig(
    rac=RACConfig(
        actor_hidden=(64, 64),
        critic_hidden=(64, 64),
        actor_lr=1e-3,
        critic_lr=1e-3,
        batch=128,
        tau=0.01,
        real_fraction=0.2,
        alpha=0.8,
        alpha_mode="adaptive",
        lam=0.0005,
        beta=0.003,
        temperature=1e-4,
        target_entropy=-3.0,
        rollout_length=10,
        explore=0.2,
        rollout_rows=120,
        imagine_every=100,
        buffer=12_000,
    ),
    dynamics=DynamicsConfig(
        hidden=(64, 64, 64),
        reward_given_next=True,
        cap_rewards=True,
        members=4,
        elites=3,
        learning_rate=3e-3,
        lr_final=0.05,
        batch=64,
        eta=0.03,
        pool_steps=2000,
        pool_batch=256,
        meta_iterations=20,
        inner_steps=30,
        adapt_steps=300,
        scratch_steps=1500,
        check_every=50,
    ),
    train_updates=1200,
    adapt_updates=3000,
    bc_updates=1000,
    meta_steps=10,
    context=2,
    tasks_per_iteration=10,
)
"""For low-dimensional systems: seconds to minutes on two cores."""

NARROW_NOISE = 0.6
"""`action_noise` below which logs are narrow: about those of a good policy that hardly explores."""

NARROW = replace(SMALL, rac=replace(SMALL.rac, behaviour="density", lam=0.15, beta=0.5, explore=0.0), combo_beta=10.0)
"""For low-dimensional systems with narrow logs. The model knows little beyond such logs, and what it makes up there is
what a policy that is hardly held would seek: it is held by KL(pi || pi_b), which weighs a step by the log's noise, and
imagines no other actions than its own."""

STANDARD = MerPOConfig(
    rac=RACConfig(
        actor_hidden=(128, 128),
        critic_hidden=(128, 128),
        actor_lr=1e-3,
        critic_lr=1e-3,
        gamma=0.98,
        warmup=1000,
        batch=128,
        real_fraction=0.8,
        tau=0.02,
        alpha=0.8,
        alpha_mode="adaptive",
        lam=0.05,
        beta=0.3,
        temperature=1e-4,
        target_entropy=-2.0,
        rollout_length=1,
        rollout_rows=1000,
        imagine_every=250,
        buffer=20_000,
    ),
    dynamics=DynamicsConfig(
        hidden=(128, 128, 128),
        members=5,
        elites=4,
        lr_final=0.1,
        eta=1e-3,
        pool_steps=5000,
        pool_batch=256,
        meta_iterations=60,
        adapt_steps=1000,
        check_every=100,
    ),
    train_updates=16_000,
    adapt_updates=12_000,
    full_log=10_000,
    bc_updates=3000,
    guard_steps=20,
    combo_beta=10.0,
    meta_steps=10,
    meta_batch=256,
    meta_ramp=1.0,
    context=2,
    context_outside=False,
)
"""For locomotion-sized systems."""

RANDOM_NOISE = 1.0
"""`action_noise` from which on logged actions hardly depend on the state."""

RANDOM = replace(STANDARD, adapt_behaviour="density")
"""For locomotion-sized systems with logs of that kind. The likelihood of such actions is greatest where a policy has
learned them by heart; KL(pi || pi_b), from a clone chosen on the hold-out, has nothing of them."""


def default_config(info: SetInfo, train: Sequence[TaskData] = ()) -> MerPOConfig:
    """`STANDARD` above `SMALL_DIMENSIONS` observation and action columns, or `RANDOM` where the training tasks' actions
    hardly depend on the state; else `SMALL`, or `NARROW` where these logs are narrow."""
    noise = action_noise(train) if train else None
    if info.obs_dim + info.act_dim > SMALL_DIMENSIONS:
        return STANDARD if noise is None or noise < RANDOM_NOISE else RANDOM
    return SMALL if noise is None or noise >= NARROW_NOISE else NARROW
