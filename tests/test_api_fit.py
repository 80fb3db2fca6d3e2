"""The front door: fit, adapt, act, save and load, on generated point-robot logs and on logs of one's own."""

import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import merpo
import merpo.tasks
from merpo import (
    Checkpoints,
    ConfigError,
    DataError,
    DivergenceError,
    DynamicsConfig,
    MerPOConfig,
    RACConfig,
    StorageError,
)
from merpo.algorithms import merpo as algorithm
from merpo.algorithms import stages
from merpo.certified import Choices, _fall_back, adapt_certified
from merpo.data import Preparation, TaskSet, types
from merpo.dynamics import fit
from merpo.evaluation.offpolicy import Target
from merpo.guarantee.certificate import choose, split_log
from merpo.runs import from_json, to_json
from merpo.tasks import Family
from toys import linear_info, linear_task

TINY = MerPOConfig(
    rac=RACConfig(
        actor_hidden=(6,), critic_hidden=(6,), batch=8, rollout_length=2, rollout_rows=4, imagine_every=4, buffer=24
    ),
    dynamics=DynamicsConfig(
        hidden=(4,), members=2, elites=2, batch=4, meta_iterations=2, inner_steps=2, adapt_steps=4, check_every=2,
        cap_rewards=True,
    ),
    train_updates=8, adapt_updates=8, meta_every=2, meta_steps=2, meta_batch=4, context=2, bc_updates=20,
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("whole_commands")


@pytest.fixture(scope="module")
def data(whole_commands):
    """A point-robot set cut down to three training and two test tasks."""
    whole = merpo.tasks.generate("point-robot-wind", "medium", episodes=3, seed=0)
    return replace(whole, tasks=(*whole.train.tasks[:3], *whole.test.tasks[:2]))


@pytest.fixture(scope="module")
def long_log():
    """24 episodes of one task: enough to split and to certify on."""
    return merpo.tasks.generate("point-robot-wind", "medium", episodes=24, seed=1).test[0]


@pytest.fixture(scope="module")
def forbidden(long_log):
    """From here on any call of a simulator is a failure."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*args, **settings):
            raise AssertionError("learning called a simulator")

        for name in ("rollout", "make_simulator", "dynamics", "reward"):
            patch.setattr(Family, name, refuse, raising=name == "rollout")
        patch.setattr(merpo.tasks, "generate", refuse)
        yield


@pytest.fixture(scope="module")
def fitted(data, forbidden):
    """Two seeds, with the reports made on the way."""
    reports = []
    meta = merpo.MerPO(TINY, seeds=(3, 5)).fit(data.train, report=lambda *figures: reports.append(figures))
    return meta, reports


@pytest.fixture(scope="module")
def adapted(fitted, data):
    return fitted[0].adapt_many(data.test)


def test_fit_reports_and_keeps_its_curves(fitted):
    meta, reports = fitted
    assert [r[1] for r in reports if r[0] == "meta-training"] == [4, 8]
    assert all(done <= total for _, done, total, _ in reports)
    assert all(np.isfinite(list(figures.values())).all() for *_, figures in reports)
    assert meta.curves["critic/td"].shape == (2, 2, 3)
    assert meta.seeds == (3, 5)


def test_only_fresh_critics_are_waited_for(fitted, adapted, data):
    """Critics from the meta-critic have values: no warm-up, in which the policy would only follow its anchors."""
    assert adapted.cloned is None  # no `guard_steps`, nothing compared
    obs = np.random.default_rng(0).normal(size=(7, 2))

    def actions(settings):
        return fitted[0].adapting({"rac.warmup": 1000, **settings}).adapt_many(data.test, models=models).policy(0)(obs)

    models = fitted[0].adapt_models(data.test)
    np.testing.assert_array_equal(actions({}), adapted.policy(0)(obs))
    cold = fitted[0].adapting({"warm_critic": False}).adapt_many(data.test, models=models)
    assert np.abs(actions({"warm_critic": False}) - cold.policy(0)(obs)).max() > 1e-4


def test_a_new_task_beyond_the_training_tasks_is_the_nearest_in_their_range(fitted, data, tmp_path):
    """Seed by seed, for meta-policy and meta-critic alike: what moves beyond that range changes nothing."""
    config = replace(TINY, context_outside=False)
    merpo.MerPO(config, seeds=(3, 5)).fit(data.train).save(tmp_path / "meta.safetensors")
    meta = merpo.Meta.load(tmp_path / "meta.safetensors", config)
    assert fitted[0].learned.context.low is None
    box = meta.learned.context
    assert box.low.shape == box.high.shape == (2, 2)
    assert np.all(np.asarray(box.low) < np.asarray(box.high))
    models = meta.adapt_models(data.test)
    obs = np.random.default_rng(0).normal(size=(7, 2))

    def acts(method, shift, **changes):
        context = replace(box, mean=box.mean - shift * box.basis[..., 0], **changes)  # the same for every task
        moved = replace(meta, learned=eqx.tree_at(lambda x: x.context, meta.learned, context))
        policies = moved.adapt_many(data.test, method, models=models)
        return np.stack([policies.policy(i, seed=s)(obs) for i in range(2) for s in (3, 5)])

    for method in ("meta-policy", "merpo"):
        far = acts(method, 1e6)
        np.testing.assert_array_equal(far, acts(method, 2e6))
        assert np.abs(far - acts(method, 1e6, low=None, high=None)).max() > 1e-5
        assert np.abs(far - acts(method, -1e6)).max() > 1e-5


def test_a_task_unlike_the_others_has_a_model_of_its_own(fitted, data):
    """Adapted by steps that hardly move it phi_m is wrong on a log with rewards and moves turned round."""
    task = data.test[0]
    t = task.transitions
    turned = replace(task, transitions=replace(t, next_obs=2 * t.obs - t.next_obs, reward=-t.reward))
    reports = []

    def models(**settings):
        config = replace(TINY, dynamics=replace(TINY.dynamics, **settings))
        return replace(fitted[0], config=config).adapt_models([turned], report=lambda *r: reports.append(r))

    alone, both = models(), models(scratch_steps=400)
    assert "from scratch" not in reports[0][-1]
    assert reports[1][-1]["from scratch"] == 1.0
    assert float(np.mean(both.models.error)) < 0.8 * float(np.mean(alone.models.error))
    np.testing.assert_array_equal(both.error, alone.error)
    assert alone.unlike() == ()
    assert both.unlike() == (task.name,)


def test_adapt_and_act(fitted, adapted, data):
    assert adapted.tasks == tuple(t.name for t in data.test)
    policy = adapted.policy(data.test[1].name, seed=5)
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(7, 2))
    action = policy(batch)
    assert action.shape == (7, 2)
    assert action.dtype == np.float32
    assert np.abs(action).max() <= 1.0
    np.testing.assert_allclose(np.stack([policy(row) for row in batch]), action, rtol=1e-5, atol=1e-7)
    drawn = policy(batch, deterministic=False, seed=1)
    np.testing.assert_array_equal(drawn, policy(batch, deterministic=False, seed=1))
    assert not np.array_equal(drawn, policy(batch, deterministic=False, seed=2))
    assert not np.array_equal(drawn, action)
    by_hand = np.asarray(eqx.filter_jit(policy.actor)(policy.preparation.obs(batch.astype(np.float32))).mean)
    np.testing.assert_allclose(action, np.tanh(by_hand), rtol=1e-5, atol=1e-6)


def test_other_seeds_and_tasks_have_their_own_policies(adapted):
    weight = np.asarray(adapted.tree.actor.net.layers[0].weight)
    assert weight.shape[:2] == (2, 2)
    assert len({w.tobytes() for w in weight.reshape(4, -1)}) == 4


def test_unknown_method(fitted, data):
    with pytest.raises(ConfigError, match="method='ppo'"):
        fitted[0].adapt_many(data.test, "ppo")


def test_meta_policy_method_is_the_unadapted_policy(fitted, data):
    """pi_c(a | s, z) with z from the task's own model."""
    learned = fitted[0].learned
    found = fitted[0].adapt_many(data.test, "meta-policy").policy(1, seed=5).actor
    models = fitted[0].adapt_models(data.test).models
    context = jax.tree.map(lambda x: x[1], learned.context)
    z = eqx.filter_jit(context)(jax.tree.map(lambda x: x[3], models))
    assert z.shape == (2,)
    obs = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    blind = jax.tree.map(lambda x: x[1], learned.meta_actor)
    with_z = eqx.filter_jit(blind)(np.concatenate([obs, np.tile(z, (5, 1))], axis=1)).mean
    np.testing.assert_allclose(eqx.filter_jit(found)(obs).mean, with_z, rtol=1e-5, atol=1e-6)


def test_fit_repeats_bit_for_bit(fitted, data, tmp_path):
    again = merpo.MerPO(TINY, seeds=(3, 5)).fit(data.train)
    assert eqx.tree_equal(again.learned, fitted[0].learned)


def test_meta_round_trip_adapts_bit_for_bit(fitted, adapted, data, tmp_path):
    path = tmp_path / "meta.safetensors"
    fitted[0].save(path)
    loaded = merpo.Meta.load(path, TINY)
    assert loaded.config == TINY
    assert loaded.info == data.info
    assert loaded.seeds == (3, 5)
    ready = loaded.learned.preparation
    best = max(float(ready.task(t).transitions.reward.max()) for t in data.train)
    assert float(loaded.learned.scale.logged.best) == pytest.approx(best)
    again = loaded.adapt_many(data.test)
    assert eqx.tree_equal(jax.device_get(again.tree.actor), jax.device_get(adapted.tree.actor))

    with pytest.raises(ConfigError, match="configuration"):
        merpo.Meta.load(path, replace(TINY, rac=replace(TINY.rac, actor_hidden=(7,))))
    with pytest.raises(StorageError, match="kind"):
        merpo.PolicySet.load(path)
    content = path.read_bytes()
    for cut in (7, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(StorageError):
            merpo.Meta.load(path)
    with pytest.raises(StorageError):
        merpo.Meta.load(tmp_path / "nothing-here")


class Planted:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_is_refused_unread(tmp_path):
    path, mark = tmp_path / "meta.safetensors", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Planted(mark)))
    for load in (merpo.Meta.load, merpo.PolicySet.load):
        with pytest.raises(StorageError):
            load(path)
    assert not mark.exists()


def test_policy_set_round_trip(adapted, data, tmp_path):
    path = tmp_path / "policies.safetensors"
    adapted.save(path)
    loaded = merpo.PolicySet.load(path)
    assert (loaded.method, loaded.tasks, loaded.seeds) == (adapted.method, adapted.tasks, adapted.seeds)
    obs = np.random.default_rng(0).normal(size=(5, 2))
    for task in range(2):
        for seed in (3, 5):
            np.testing.assert_array_equal(loaded.policy(task, seed)(obs), adapted.policy(task, seed)(obs))


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros(3), r"\(3,\)"), (np.array([0.0, np.nan]), "NaN"),
        (np.array([[0.0, np.inf]]), "infinite"),
    ],
)  # fmt: skip
def test_policy_refuses_bad_observations(adapted, obs, message):
    with pytest.raises(DataError, match=message):
        adapted.policy(0)(obs)


def test_stochastic_policy_needs_a_seed(adapted):
    with pytest.raises(ConfigError, match="seed"):
        adapted.policy(0)(np.zeros(2), deterministic=False)


def test_rewards_in_other_units_change_nothing(fitted, data):
    """Rewards times 128 (a power of two: exact in float32) give the same prepared data and the same policy."""

    def scaled(factor):
        def one(task):
            reward = np.float32(factor) * task.transitions.reward
            return replace(task, transitions=eqx.tree_at(lambda t: t.reward, task.transitions, reward))

        return replace(data, tasks=tuple(one(t) for t in data.train))

    again = merpo.MerPO(TINY, seeds=(3, 5)).fit(scaled(128.0)).learned
    for part in ("meta_model", "meta_actor", "meta_critic"):
        assert eqx.tree_equal(getattr(again, part), getattr(fitted[0].learned, part))
    other = scaled(100.0)
    for a, b in zip(data.train, other, strict=True):
        x, y = (Preparation.fit(s).task(t).transitions.reward for s, t in ((data.train, a), (other, b)))
        np.testing.assert_allclose(x, y, rtol=1e-5)


def test_rewards_in_other_units_give_the_same_policy(tmp_path):
    """The whole path with every multiplier adapting: rewards times 100, or 1e-9, give the same policy up to rounding."""
    changes = {"behaviour": "dual", "one_scale": True, "lam_mode": "dual", "beta_mode": "dual", "targets": "mixed"}
    config = replace(TINY, adapt_updates=24, rac=replace(TINY.rac, **changes, pushdown="logsumexp"))
    assert from_json(MerPOConfig, json.loads(json.dumps(to_json(config)))) == config
    logs = [linear_task(f"task-{i}", 3, seed=i, push=0.2 * (i + 1)) for i in range(4)]
    obs, actions = np.random.default_rng(0).normal(size=(20, 2)), {}
    for factor in (1.0, 100.0, 1e-9):
        rewards = [np.float32(factor) * t.transitions.reward for t in logs]
        used = [
            replace(t, transitions=eqx.tree_at(lambda x: x.reward, t.transitions, r))
            for t, r in zip(logs, rewards, strict=True)
        ]
        meta = merpo.MerPO(config).fit(TaskSet(linear_info(), tuple(used[:3])))
        found = meta.adapt_many(used[3:])
        actions[factor] = found.policy(0)(obs)
    np.testing.assert_allclose(actions[100.0], actions[1.0], atol=2e-4)
    np.testing.assert_allclose(actions[1e-9], actions[1.0], atol=2e-4)
    unadapted = meta.adapt_many(used[3:], "meta-policy").policy(0)(obs)
    assert np.abs(actions[1e-9] - unadapted).max() > 2e-3  # adaptation has moved it
    assert {"actor/behaviour", "rac/beta", "rac/divergence"} <= set(found.curves)
    meta.save(tmp_path / "meta.safetensors")
    assert merpo.Meta.load(tmp_path / "meta.safetensors", config).config == config


def test_uneven_logs():
    """A long log, a log of one episode, and a few one-step episodes among others: learned from and adapted to."""
    logs = (
        linear_task("long", 30, 0),
        linear_task("alone", 1, 1),
        linear_task("short", [1, 6, 1, 6], 2, terminated=True),
    )
    used = TaskSet(linear_info(termination="learned"), logs)
    meta = merpo.MerPO(TINY).fit(used)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(meta.learned))
    found = meta.adapt_many([linear_task("new", [4], 3, split="test"), linear_task("tiny", [2, 1], 4, split="test")])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found.tree.actor))
    assert found.policy("tiny")(np.zeros(2)).shape == (1,)


def test_a_log_of_another_length_finds_what_was_compiled(fitted, long_log, monkeypatch):
    """Logs of 23 and 24 episodes have arrays of the same shapes; and the rows that fill them up change nothing."""

    def adapt(episodes):
        found = fitted[0].adapt_many([long_log.select(range(episodes))], "merpo")
        return found.policy(0)(long_log.transitions.obs)

    adapt(23)
    traced = {f: f._cache_size() for f in (algorithm.adapt_chunk, fit.adapt_models)}
    padded = adapt(24)
    assert {f: f._cache_size() for f in traced} == traced
    for module in (types, fit):
        monkeypatch.setattr(module, "padded_rows", lambda longest: longest)
    np.testing.assert_allclose(adapt(24), padded, rtol=1e-5, atol=1e-6)
    assert algorithm.adapt_chunk._cache_size() > traced[algorithm.adapt_chunk]


def test_a_small_log_has_updates_in_proportion(fitted, data):
    """Each task ends where an adaptation of its own number of updates ends, whatever the others have beside it."""
    meta, logs = fitted[0], [data.test[0].select([0]), data.test[1]]
    assert [len(t) for t in logs] == [20, 60]

    def adapted(method="merpo", **changes):
        return replace(meta, config=replace(TINY, **changes)).adapt_many(logs, method, models=models)

    models = meta.adapt_models(logs)
    found = adapted(adapt_updates=24, full_log=100)  # four updates a round: 24 * 0.2 -> 8, 24 * 0.6 -> 16
    for task, updates in enumerate((8, 16)):
        own = adapted(adapt_updates=updates)
        for a, b in zip(jax.tree.leaves(found.tree.actor), jax.tree.leaves(own.tree.actor), strict=True):
            np.testing.assert_array_equal(a[:, task], b[:, task])
        for name, curve in own.curves.items():
            np.testing.assert_array_equal(found.curves[name][: updates // 4, :, task], curve[:, :, task])
            assert (found.curves[name][updates // 4 :, :, task] == curve[-1, :, task]).all()
    assert len(found.curves["actor/q"]) == 4
    assert len(adapted("rac", adapt_updates=24, full_log=100).curves["actor/q"]) == 6
    assert [replace(TINY, full_log=16).updates_for(n) for n in (1, 8, 9, 16, 10**6)] == [4, 4, 8, 8, 8]


def test_new_tasks_have_their_own_divergence(fitted, data):
    meta = replace(fitted[0], config=replace(TINY, adapt_behaviour="density"))
    models = meta.adapt_models(data.test)
    for method in ("merpo", "rac"):
        assert "actor/behaviour" in meta.adapt_many(data.test, method, models=models).curves
    assert "actor/clone" in fitted[0].curves
    with pytest.raises(ConfigError, match=r"adapt_behaviour.*density"):
        from_json(MerPOConfig, {**to_json(TINY), "adapt_behaviour": "kl"})


def test_adapting_with_a_certificate_falls_back_to_the_clone(fitted, data, tmp_path):
    """Logs of a few episodes certify nothing: what is returned is the clone, unless one insists."""
    meta = fitted[0]
    logs = [t.select([0, 1]) for t in data.test]
    safe = adapt_certified(meta, logs)
    kept = adapt_certified(meta, logs, insist=True)
    clones = meta.adapt_many(logs, "bc")
    obs = data.test[0].transitions.obs
    assert [len(row) for row in safe.certificates] == [2, 2]
    for i, seed in ((0, 3), (1, 5)):
        policy = safe.policy(i, seed)
        assert not policy.certificate.certified
        assert "log too small" in policy.certificate.sentence
        np.testing.assert_array_equal(policy(obs), clones.policy(i, seed)(obs))
        assert not np.array_equal(kept.policy(i, seed)(obs), policy(obs))
    safe.save(tmp_path / "p.safetensors")
    again = merpo.PolicySet.load(tmp_path / "p.safetensors")
    assert again.certificates == safe.certificates
    np.testing.assert_array_equal(again.policy(1, 5)(obs), safe.policy(1, 5)(obs))
    # what is certified is kept, task by task
    granted = replace(safe.certificates[0][0], certified=True)
    made = ((granted, safe.certificates[0][1]), safe.certificates[1])
    mixed = _fall_back(kept, clones, made)
    np.testing.assert_array_equal(mixed.policy(0, 3)(obs), kept.policy(0, 3)(obs))
    np.testing.assert_array_equal(mixed.policy(1, 3)(obs), clones.policy(1, 3)(obs))
    with pytest.raises(ConfigError, match="method='bc'"):
        adapt_certified(meta, logs, "bc")
    # a log of one episode leaves nothing to certify on: refused, not an error
    single = meta.adapt(data.test[0].select([0]))
    assert "log too small" in single.certificate.sentence
    assert meta.adapt(data.test[0].select([0]), certify=False).certificate is None
    with pytest.raises(ConfigError, match="alphas"):
        meta.adapt(data.test[0], certify=False, alphas=(0.2,))


def test_settings_are_chosen_without_the_part_that_certifies(fitted, long_log):
    """The choice is that of `choose` on the learning half; rewards of the other half cannot change it."""
    meta = replace(fitted[0], seeds=(3,), learned=fitted[0].only(3).learned)
    log = long_log
    part, held = split_log(log)
    choices = Choices(alpha=(0.05, 0.95))
    made = adapt_certified(meta, [log], insist=True, choices=choices)
    grid = choices.settings(meta.config)
    assert len(grid) == 2
    assert len(Choices(alpha=(0.1,), lam=(1.0, 2.0), updates=(4, 8)).settings(meta.config)) == 4
    adaptive = replace(meta.config, rac=replace(meta.config.rac, alpha_mode="adaptive"))
    modes = [c.settings(adaptive)[0][1].rac.alpha_mode for c in (Choices(alpha=(0.1,)), Choices(lam=(1.0,)))]
    assert modes == ["fixed", "adaptive"]
    sets = [replace(meta, config=c).adapt_many([part], models=meta.adapt_models([part])) for _, c in grid]
    pick = choose(part, [Target(s.policy(0)) for s in sets], meta.info.horizon)
    assert made.certificates[0][0].settings == grid[pick][0]
    np.testing.assert_array_equal(made.policy(0)(log.transitions.obs), sets[pick].policy(0)(log.transitions.obs))
    assert made.certificates[0][0].episodes == held.episodes == 12
    # the same log in another unit of reward is refused, and the reason named
    hundred = replace(log, transitions=replace(log.transitions, reward=log.transitions.reward * np.float32(100)))
    other = adapt_certified(meta, [hundred], insist=True).certificates[0][0]
    assert not other.certified
    assert "reward scale" in other.sentence


# ---- resuming: every compiled function is the fixtures', so that these cost little


class Stop(BaseException):
    """Stands for a kill: nothing in merpo catches it."""


class Dying(Checkpoints):
    """Saves whenever it can, and dies after a save (of this slot, where one is named)."""

    def __init__(self, folder, slot=None):
        super().__init__(folder, every=0.0)
        self.slot = slot

    def save(self, slot, done, tree):
        super().save(slot, done, tree)
        if self.slot in (None, slot):
            raise Stop


def until_done(call, folder):
    """Call again after every death: what it returns in the end, and the number of deaths."""
    for deaths in range(20):
        try:
            return call(Dying(folder)), deaths
        except Stop:
            continue
    raise AssertionError("no progress")


def test_a_fit_that_dies_after_every_save_ends_with_the_same_bits(fitted, data, tmp_path):
    meta, reports = fitted
    heard = []

    def fit(checkpoint):
        heard.clear()
        return merpo.MerPO(TINY, seeds=(3, 5)).fit(
            data.train, checkpoint=checkpoint, report=lambda *figures: heard.append(figures)
        )

    again, deaths = until_done(fit, tmp_path / "s")
    assert deaths >= 4  # meta-models and models of two seeds, two at a time at most, and two rounds
    assert eqx.tree_equal(again.learned, meta.learned)
    assert heard == reports
    for name, curve in meta.curves.items():
        np.testing.assert_array_equal(again.curves[name], curve)
    with pytest.raises(ConfigError, match=r"seeds: \[3, 5\] -> \[3\]"):
        merpo.MerPO(TINY, seed=3).fit(data.train, checkpoint=tmp_path / "s")
    with pytest.raises(ConfigError, match=r"config\.meta_lr: 0\.001 -> 0\.01"):
        merpo.MerPO(replace(TINY, meta_lr=0.01), seeds=(3, 5)).fit(data.train, checkpoint=tmp_path / "s")
    task = data.train[1]
    changed = replace(task, transitions=replace(task.transitions, reward=task.transitions.reward + np.float32(1e-3)))
    other = replace(data.train, tasks=(data.train[0], changed, data.train[2]))
    with pytest.raises(ConfigError, match=r"holds the state of other work \(stored -> given\): data: "):
        merpo.MerPO(TINY, seeds=(3, 5)).fit(other, checkpoint=tmp_path / "s")


def test_an_adaptation_that_dies_after_every_save_ends_with_the_same_bits(fitted, adapted, data, tmp_path):
    again, deaths = until_done(lambda c: fitted[0].adapt_many(data.test, checkpoint=c), tmp_path / "s")
    assert deaths >= 3
    assert eqx.tree_equal(again.tree, adapted.tree)
    np.testing.assert_array_equal(again.model_error, adapted.model_error)
    other = replace(fitted[0], learned=eqx.tree_at(lambda m: m.scale.mean, fitted[0].learned, np.ones(3, np.float32)))
    with pytest.raises(ConfigError, match="learned: "):
        other.adapt_many(data.test, checkpoint=tmp_path / "s")


def test_a_killed_process_is_resumed_by_another(fitted, data, tmp_path):
    """SIGKILL while the second seed's meta-model is being written; nothing is left but what is on the disk."""
    code = (
        "import itertools, os, signal, stat, sys\nsys.path.insert(0, sys.argv[1])\n"
        "import merpo, merpo.tasks\nfrom dataclasses import replace\nfrom test_api_fit import TINY\n"
        "whole = merpo.tasks.generate('point-robot-wind', 'medium', episodes=3, seed=0)\n"
        "data = replace(whole, tasks=whole.train.tasks[:3])\n"
        "calls, real = itertools.count(1), os.fsync\n"
        "def fsync(handle):\n"  # folders are not counted: the seeds' threads write side by side
        "    file = stat.S_ISREG(os.fstat(handle).st_mode)\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if file and next(calls) == 3 else real(handle)\n"
        "os.fsync = fsync\n"
        "merpo.MerPO(TINY, seeds=(3, 5)).fit(data, checkpoint=sys.argv[2])\n"
    )
    args = [sys.executable, "-c", code, Path(__file__).parent, tmp_path / "s"]
    same = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # as `whole_commands` has it here
    done = subprocess.run(args, capture_output=True, text=True, env=os.environ | same)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list((tmp_path / "s").glob(".meta-model-*.tmp"))
    again = merpo.MerPO(TINY, seeds=(3, 5)).fit(data.train, checkpoint=tmp_path / "s")
    assert eqx.tree_equal(again.learned, fitted[0].learned)
    assert not list((tmp_path / "s").glob(".*.tmp"))


class Poisoned(Checkpoints):
    """Makes one job's numbers in a state absurd when it is taken up."""

    def __init__(self, folder, slot, part, job):
        super().__init__(folder)
        self.slot, self.part, self.job = slot, part, job

    def load(self, slot, like):
        kept = super().load(slot, like)
        if slot != self.slot or kept is None:
            return kept

        def absurd(x):
            x = np.array(x)
            x[self.job] *= np.float32(1e30)
            return x

        return kept[0], eqx.tree_at(self.part, kept[1], replace_fn=lambda part: jax.tree.map(absurd, part))


def test_training_that_diverges_stops_with_the_last_good_state(data, fitted, tmp_path):
    learner, folder = merpo.MerPO(TINY, seeds=(3, 5)), tmp_path / "s"
    with pytest.raises(Stop):
        learner.fit(data.train, checkpoint=Dying(folder, "meta-training"))
    before = (folder / "meta-training.safetensors").read_bytes()
    match = (
        rf"meta-training diverged, updates 5 to 8 of 8: (critic|actor)/\w+ of task '{data.train[1].name}', seed 5 is .*"
        r"Lower rac.(critic|actor)_lr \(now 0.\d+\).*The last good state is kept in"
    )
    with pytest.raises(DivergenceError, match=match):
        learner.fit(data.train, checkpoint=Poisoned(folder, "meta-training", lambda t: t[0].learners.critic, 4))
    assert (folder / "meta-training.safetensors").read_bytes() == before
    assert eqx.tree_equal(learner.fit(data.train, checkpoint=folder).learned, fitted[0].learned)
    (folder / "meta-training.safetensors").unlink()
    (folder / "models-3.safetensors").unlink()
    with pytest.raises(DivergenceError, match=r"on the hold-out: dynamics/error of task .*, seed 3 is .*learning_rate"):
        learner.fit(data.train, checkpoint=Poisoned(folder, "meta-model-3", lambda t: t[0].nets, 0))


def test_an_adaptation_that_diverges_names_the_new_task(data, fitted, tmp_path):
    with pytest.raises(Stop):
        fitted[0].adapt_many(data.test, checkpoint=Dying(tmp_path / "s", "adapt-merpo"))
    match = rf"adapting \(merpo\) diverged, updates 5 to 8 of 8: \S+ of task '{data.test[1].name}', seed 3"
    with pytest.raises(DivergenceError, match=match):
        fitted[0].adapt_many(data.test, checkpoint=Poisoned(tmp_path / "s", "adapt-merpo", lambda t: t[0][0].critic, 1))


def test_a_meta_model_that_diverges_names_the_task(data, monkeypatch):
    def diverged(meta, *args, **settings):
        return meta, np.asarray([[0.5, 0.5], [0.5, np.nan]]), np.asarray([[0, 1], [0, 2]])

    monkeypatch.setattr(stages.dyn, "meta_chunk", diverged)
    match = (
        rf"the meta-model diverged, outer iteration 2 of 2: dynamics/nll of task '{data.train[2].name}', seed 3 is nan"
    )
    with pytest.raises(DivergenceError, match=match):
        merpo.MerPO(TINY, seed=3).fit(data.train)
