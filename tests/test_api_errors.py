"""Data and settings that cannot be learned from: each refused by the front door with an error that names the fault."""

from dataclasses import replace

import equinox as eqx
import numpy as np
import pytest

import merpo
import merpo.tasks
from merpo import ConfigError, DataError, MerpoError, StorageError, UnknownNameError
from merpo.data import Preparation, TaskSet
from merpo.data.types import Transitions
from test_api_fit import TINY
from toys import linear_info, linear_set, linear_task


def with_arrays(**changes) -> TaskSet:
    """The linear set, its second task's arrays changed."""
    good = linear_set(3)
    task = good[1]
    t = task.transitions
    fields = {n: np.array(getattr(t, n)) for n in ("obs", "action", "reward", "next_obs", "terminated", "truncated")}
    for name, change in changes.items():
        fields[name] = change(fields[name])
    raw = eqx.tree_at(lambda x: [getattr(x, n) for n in fields], t, list(fields.values()))
    return replace(good, tasks=(good[0], replace(task, transitions=raw), good[2]))


def put(value, *place):
    def change(x):
        x[place] = value
        return x

    return change


def empty() -> TaskSet:
    good = linear_set(2)
    t = good[1].transitions
    nothing = Transitions(
        *(np.asarray(x)[:0] for x in (t.obs, t.action, t.reward, t.next_obs, t.terminated, t.truncated))
    )
    return replace(good, tasks=(good[0], replace(good[1], transitions=nothing, episode_start=np.zeros(1, np.int64))))


BAD = {
    "NaN observation": (lambda: with_arrays(obs=put(np.nan, 3, 1)), "task-1.*obs.*row 3"),
    "infinite reward": (lambda: with_arrays(reward=put(np.inf, 4)), "task-1.*reward.*row 4"),
    "NaN successor": (lambda: with_arrays(next_obs=put(np.nan, 0, 0)), "task-1.*next_obs"),
    "action outside its bounds": (lambda: with_arrays(action=put(1.5, 2, 0)), "task-1.*action.*bounds"),
    "too few rewards": (lambda: with_arrays(reward=lambda x: x[:-1]), "task-1.*shape"),
    "another width": (lambda: with_arrays(obs=lambda x: x[:, :1]), "task-1.*obs.*shape"),
    "empty task": (empty, "task-1.*no transitions"),
    "no task": (lambda: TaskSet(linear_info(), ()), "no training task"),
    "one-step episodes only": (
        lambda: TaskSet(linear_info(), (linear_task("a", 3, 0), linear_task("stubs", [1] * 8, 1))),
        "stubs.*single transition",
    ),
    "discount above one": (lambda: linear_set(2, gamma=1.5), "gamma"),
    "bounds the wrong way round": (lambda: linear_set(2, action_low=(1.0,), action_high=(-1.0,)), "action_low"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_fit_refuses(case):
    make, message = BAD[case]
    with pytest.raises(DataError, match=message):
        merpo.MerPO(TINY).fit(make())


def test_a_constant_column_is_refused_or_kept_on_request():
    good = linear_set(2)

    def flat(task):
        t = task.transitions
        obs, following = (
            np.concatenate([x, np.full((len(x), 1), 7.0, np.float32)], axis=1) for x in (t.obs, t.next_obs)
        )
        return replace(task, transitions=Transitions(obs, t.action, t.reward, following, t.terminated, t.truncated))

    data = replace(good, info=replace(good.info, obs_dim=3), tasks=tuple(flat(t) for t in good))
    with pytest.raises(DataError, match=r"column 2 = 7.*on_constant"):
        merpo.MerPO(TINY).fit(data)
    ready = Preparation.fit(data).task(data[0]).transitions
    assert np.all(ready.obs[:, 2] == 0.0)
    with pytest.raises(ConfigError, match="on_constant"):
        merpo.MerPO(TINY, on_constant="ignore").fit(data)


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)])
def test_bad_seeds(seeds):
    with pytest.raises(ConfigError, match="seeds"):
        merpo.MerPO(TINY, seeds=seeds)


def test_unknown_names(tmp_path):
    with pytest.raises(UnknownNameError, match=r"brilliant.*medium"):
        merpo.load("point-robot-goal/brilliant", root=tmp_path)
    with pytest.raises(MerpoError, match="point-robot-moon"):
        merpo.load("point-robot-moon/medium", root=tmp_path)


def test_load_generates_once(tmp_path):
    first = merpo.load("point-robot-wind/random", episodes=1, root=tmp_path)
    again = merpo.load("point-robot-wind/random", episodes=1, root=tmp_path)
    assert len(first) == len(again) == 50
    np.testing.assert_array_equal(first[0].transitions.obs, again[0].transitions.obs)


def test_a_set_that_another_process_generated_meanwhile_is_taken(tmp_path, monkeypatch):
    generate, root = merpo.tasks.generate, tmp_path / "data"

    def slower_than_another(*args):
        made = generate(*args)
        merpo.data.save(made, "point-robot-wind/random-e1-s0", root)
        return made

    monkeypatch.setattr(merpo.tasks, "generate", slower_than_another)
    assert len(merpo.load("point-robot-wind/random", episodes=1, root=root)) == 50
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):  # what could not be stored for another reason is told
        merpo.load("point-robot-wind/random", episodes=1, root=tmp_path / "file")


def test_a_set_of_other_behaviour_policies_is_not_taken_for_todays(tmp_path):
    """Its name is today's, its numbers are not; under its full name, asked for on purpose, it is still there."""
    name, full = "ant-fwd-back/random", "ant-fwd-back/random-e1-s0"
    today = merpo.load(name, episodes=1, root=tmp_path)
    assert set(merpo.tasks.pedigree("ant-fwd-back")) <= set(today.info.versions)
    others = [(k, "of another day" if k == "behaviour policies" else v) for k, v in today.info.versions]
    without = [pair for pair in others if pair[0] != "behaviour policies"]
    for versions in (others, without):
        old = replace(today, info=replace(today.info, versions=tuple(versions)))
        merpo.data.save(old, full, tmp_path, overwrite=True)
        with pytest.raises(StorageError, match=r"other behaviour policies.*Delete that folder"):
            merpo.load(name, episodes=1, root=tmp_path)
        assert merpo.load(full, root=tmp_path).info.versions == tuple(versions)


def test_preparation_round_trip_and_units():
    data = linear_set(3, action_low=(-2.0,), action_high=(3.0,))
    ready = Preparation.fit(data)
    raw = np.concatenate([t.transitions.obs for t in data])
    np.testing.assert_allclose(ready.obs(raw).mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(ready.obs(raw).std(axis=0), 1.0, atol=1e-4)
    action = np.float32([[-2.0], [0.5], [3.0]])
    np.testing.assert_allclose(ready.action(action), [[-1.0], [0.0], [1.0]], atol=1e-6)
    np.testing.assert_allclose(ready.restore_action(ready.action(action)), action, atol=1e-6)
    reward = np.concatenate([ready.task(t).transitions.reward for t in data])
    assert reward.std() == pytest.approx(1.0 - data.info.gamma, rel=1e-4)
    task = ready.task(data[0]).transitions
    np.testing.assert_array_equal(task.terminated, data[0].transitions.terminated)
    np.testing.assert_array_equal(task.truncated, data[0].transitions.truncated)
    with pytest.raises(DataError, match="empty"):
        Preparation.fit(TaskSet(linear_info(), ()))
