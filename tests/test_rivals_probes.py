"""The rivals on problems whose answer is known: one-step bandits, alone and as families that only the context tells."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toys  # noqa: F401 - optax's steps under strict promotion
from merpo.algorithms.rivals import adapt, contextual
from merpo.algorithms.rivals.bcq import BCQConfig
from merpo.algorithms.rivals.brac import BRACConfig
from merpo.algorithms.rivals.encoders import ContextConfig
from merpo.algorithms.rivals.running import chunk, every_job, run
from merpo.algorithms.rivals.sac import SACConfig
from merpo.data import Preparation
from merpo.data.types import SetInfo, TaskData, TaskSet, Transitions, stack

INFO = SetInfo("bandits", 1, "imported", 1, 1, gamma=0.9, horizon=1)
OBS = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]


def bandit(name: str, goal: float, seed: int, rows: int = 300, split: str = "train") -> TaskData:
    """One-step episodes with uniform actions and reward -(a - goal)^2; the state means nothing."""
    rng = np.random.default_rng(seed)
    obs, action = (rng.uniform(-1, 1, (rows, 1)).astype(np.float32) for _ in range(2))
    ended = np.ones(rows, bool)
    t = Transitions(obs, action, -((action[:, 0] - np.float32(goal)) ** 2), obs, ended, ~ended)
    return TaskData(name, split, t, np.arange(rows + 1))


@pytest.mark.parametrize("name", list(adapt.MODEL_FREE))
def test_a_single_task_learner_finds_the_best_action_of_each_task(name):
    """From logs whose actions are 0 on average; two seeds, all four jobs in one loop."""
    goals = (-0.6, 0.5)
    tasks = [bandit(str(g), g, i) for i, g in enumerate(goals)]
    preparation = Preparation.fit(TaskSet(INFO, tuple(tasks)))
    config = adapt.MODEL_FREE[name][1](hidden=(24, 24), learning_rate=3e-3, batch=64, updates=1000)
    data = stack([preparation.task(t) for t in tasks])
    policy, curves = run(adapt.MODEL_FREE[name][0], data, every_job((0, 1), 2), 1, 1, 0.9, config, 4, name)
    action = np.asarray(eqx.filter_jit(jax.vmap(lambda p: p(OBS_JAX).mode()))(policy))
    found = action.mean(1)[:, 0].reshape(2, 2)
    np.testing.assert_allclose(found.mean(0), goals, atol=0.2)
    assert (np.abs(found - goals) < 0.5 * np.abs(goals)).all()
    assert all(np.isfinite(c).all() and c.shape == (10, 4) for c in curves.values())


OBS_JAX = jnp.asarray(OBS)
CONTEXT = ContextConfig(latent=3, hidden=(24,), learning_rate=3e-3, rows=32, tasks=8, batch=32)
SAC = SACConfig(hidden=(24, 24), learning_rate=3e-3, tau=0.01)
SETTINGS = {
    "focal": contextual.FocalConfig(
        CONTEXT, BRACConfig(SAC, divergence_lr=1e-3, weight=1.0, target_divergence=5.0), updates=800
    ),
    "pearl": contextual.PearlConfig(CONTEXT, SAC, updates=800),
    "cbcq": contextual.CbcqConfig(CONTEXT, BCQConfig((24, 24), (24, 24), 3e-3, act_candidates=50), updates=800),
}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_context_learner_tells_tasks_apart_that_only_the_rewards_do(name):
    """Eight goals to learn from, three others to adapt to, which are found. (FOCAL may be 5 nats from the uniform
    actions of the log: at the 0.05 of its paper it could not follow what it knows.)"""
    goals = np.linspace(-0.7, 0.7, 8)
    train = [bandit(f"{g:.1f}", g, i) for i, g in enumerate(goals)]
    new = np.array([-0.45, 0.05, 0.55])
    tests = [bandit(f"{g:.1f}", g, 20 + i, rows=100, split="test") for i, g in enumerate(new)]
    preparation = Preparation.fit(TaskSet(INFO, tuple(train)))
    learned, _ = contextual.fit(name, train, INFO, preparation, SETTINGS[name])
    policies = contextual.adapt(learned, tests, INFO, preparation)
    action = np.asarray(eqx.filter_jit(jax.vmap(jax.vmap(lambda p: p(OBS_JAX).mode())))(policies))[0, :, :, 0]
    np.testing.assert_allclose(action.mean(1), new, atol=0.25)


def test_a_seed_alone_is_the_seed_among_others_and_shapes_compile_once():
    tasks = [bandit(str(i), 0.1 * i, i, rows=20) for i in range(2)]
    preparation = Preparation.fit(TaskSet(INFO, tuple(tasks)))
    data = stack([preparation.task(t) for t in tasks])
    algorithm, config = adapt.TD3BC, adapt.TD3BCConfig(hidden=(4,), batch=4, updates=20)

    def policies(seeds, group=1):
        return run(algorithm, data, every_job(seeds, 2), 1, 1, 0.9, config, group, "td3+bc")[0]

    before = chunk._cache_size()
    whole = policies((3, 5))
    again = policies((3, 5))
    assert chunk._cache_size() == before + 1
    assert eqx.tree_equal(whole, again)
    alone = policies((5,))
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b[2:], rtol=1e-5, atol=1e-6)
    weight = np.asarray(whole.net.layers[0].weight)
    assert len({w.tobytes() for w in weight}) == 4


def test_settings_follow_the_budget():
    from merpo.algorithms.presets import SMALL

    for name in adapt.MODEL_FREE:
        found = adapt.budgeted(name, replace(SMALL, adapt_updates=900))
        assert (found.updates, found.batch, found.hidden) == (900, SMALL.rac.batch, SMALL.rac.critic_hidden)
    for name in contextual.CONTEXT:
        assert type(contextual.budgeted(name, SMALL)) is contextual.CONTEXT[name][1]
    focal = contextual.budgeted("focal", SMALL)
    assert focal.updates == SMALL.train_updates + SMALL.adapt_updates
    assert (focal.agent.weight, focal.agent.target_divergence, focal.metric_weight) == (500.0, 0.05, 10.0)
