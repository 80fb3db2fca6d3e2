"""Task sets from a user's arrays."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from merpo.data import arrays, from_arrays
from merpo.errors import DataError


def log(**changes):
    """Two episodes of three steps; `walk` holds four states of each."""
    rng = np.random.default_rng(0)
    walk = rng.normal(size=(2, 4, 2))
    content = {
        "obs": walk[:, :-1].reshape(6, 2),
        "next_obs": walk[:, 1:].reshape(6, 2),
        "action": rng.uniform(-1, 1, (6, 1)),
        "reward": np.arange(6),
        "terminated": [0, 0, 0, 0, 0, 1],
        "truncated": [0, 0, 1, 0, 0, 0],
    }
    content.update(changes)
    return {k: v for k, v in content.items() if v is not None}, walk.astype(np.float32)


def build(content, **options):
    return from_arrays({"a": content}, family="mine", **options)


def test_flags_bound_the_episodes_and_types_are_converted():
    content, walk = log()
    data = from_arrays({"a": content, "b": content}, family="mine", test=["b"], parameters={"a": {"m": 2.0}}, gamma=0.5)
    assert [t.split for t in data] == ["train", "test"]
    assert data[0].episode_start.tolist() == [0, 3, 6]
    assert data[0].transitions.obs.dtype == np.float32
    assert data[0].transitions.terminated.dtype == bool
    np.testing.assert_array_equal(data[0].transitions.next_obs, walk[:, 1:].reshape(6, 2))
    assert data[0].parameters == {"m": 2.0}
    assert data.info.horizon == 3
    assert data.info.termination == "learned"
    assert (data.info.action_low, data.info.action_high, data.info.gamma) == ((-1.0,), (1.0,), 0.5)


def test_successors_from_the_next_row_drop_the_last_step():
    content, walk = log(next_obs=None)
    task = build(content)[0]
    assert task.episode_start.tolist() == [0, 2, 4]
    np.testing.assert_array_equal(task.transitions.obs, walk[:, :2].reshape(4, 2))
    np.testing.assert_array_equal(task.transitions.next_obs, walk[:, 1:3].reshape(4, 2))
    assert task.transitions.reward.tolist() == [0, 1, 3, 4]
    assert task.transitions.truncated.tolist() == [False, True, False, True]
    assert not task.transitions.terminated.any()


def test_last_obs_keeps_the_last_step():
    content, walk = log(next_obs=None)
    task = build({**content, "last_obs": walk[:, -1]})[0]
    np.testing.assert_array_equal(task.transitions.next_obs, walk[:, 1:].reshape(6, 2))
    assert task.transitions.terminated.tolist() == [False] * 5 + [True]


def test_an_episode_of_one_step_without_successor_vanishes():
    content, _ = log(next_obs=None, truncated=None, terminated=None, episode=["x", "y", "y", "y", "z", "z"])
    task = build(content)[0]
    assert task.episode_start.tolist() == [0, 2, 3]
    assert task.transitions.reward.tolist() == [1, 2, 4]


def test_labels_bound_the_episodes_and_mark_the_cut():
    content, _ = log(truncated=None, terminated=None, episode=[7, 7, 7, 2, 2, 2])
    task = build(content)[0]
    assert task.episode_start.tolist() == [0, 3, 6]
    assert task.transitions.truncated.tolist() == [False, False, True, False, False, True]
    content, _ = log(truncated=None, episode=[7, 7, 7, 2, 2, 2])
    assert build(content)[0].transitions.truncated.tolist() == [False, False, True, False, False, False]


def test_a_log_cut_before_any_flag_is_one_open_episode():
    content, _ = log(truncated=np.zeros(6), terminated=np.zeros(6, bool))
    task = build(content)[0]
    assert task.episode_start.tolist() == [0, 6]
    assert not task.transitions.truncated.any()


def test_the_users_arrays_are_not_shared():
    content, _ = log(truncated=None, episode=np.zeros(6), terminated=np.zeros(6, bool))
    content["obs"] = content["obs"].astype(np.float32)
    task = build(content)[0]
    task.transitions.obs[:] = 0
    task.transitions.terminated[:] = True
    assert content["obs"].any()
    assert not content["terminated"].any()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"reward": None}, "'reward' is missing"),
        ({"rewards": [1]}, "unknown array 'rewards'.*Did you mean 'reward'"),
        ({"obs": np.zeros(6)}, r"obs has shape \(6,\), expected \[steps, columns\]"),
        ({"reward": np.zeros((6, 1))}, r"reward has shape \(6, 1\), expected \[steps\]"),
        ({"reward": np.zeros(5)}, "reward has 5 rows, but obs has 6"),
        ({"next_obs": np.zeros((7, 2))}, "next_obs has 7 rows"),
        ({"next_obs": np.zeros((6, 3))}, r"next_obs has shape \(6, 3\), expected \(6, 2\)"),
        ({"obs": [["x", "y"]] * 6}, "expected real numbers"),
        ({"obs": [[1.0, 2.0], [1.0]]}, "ragged or holds objects"),
        ({"action": np.zeros((6, 1), complex)}, "expected real numbers"),
        ({"terminated": [0, 0, 2, 0, 0, 1]}, "booleans or 0/1"),
        ({"terminated": None, "truncated": None}, "nothing says where episodes end"),
        ({"episode": [0, 0, 1, 1, 0, 0]}, "label 0 comes back|label np.int64"),
        ({"episode": [0, 0, 0, 0, 0, 0]}, "truncated is set inside an episode"),
        ({"last_obs": np.zeros((2, 2))}, "both next_obs and last_obs"),
        ({"next_obs": None, "last_obs": np.zeros((6, 2))}, r"last_obs has shape \(6, 2\), expected \(2, 2\)"),
        ({"obs": np.full((6, 2), 1e300)}, "NaN or infinite"),
        ({"action": np.full((6, 1), 3.0)}, "outside its bounds"),
        (
            {k: np.zeros((0, n)) for k, n in (("obs", 2), ("next_obs", 2), ("action", 1))}
            | {"reward": [], "terminated": [], "truncated": []},
            "no transitions",
        ),
    ],
)
def test_arrays_that_do_not_fit(changes, match):
    content, _ = log(**changes)
    with pytest.raises(DataError, match=match):
        build(content)


def test_arguments_that_do_not_fit():
    content, _ = log()
    with pytest.raises(DataError, match="tasks is empty"):
        from_arrays({}, family="mine")
    with pytest.raises(DataError, match="test: 'z' is not among"):
        build(content, test=["z"])
    with pytest.raises(DataError, match="parameters: 'z'"):
        build(content, parameters={"z": {}})
    with pytest.raises(DataError, match=r"action_low=\[0.0, 1.0\]: expected one number, or 1"):
        build(content, action_low=[0.0, 1.0])
    with pytest.raises(DataError, match="single step, whose next observation is unknown"):
        build({**{k: v for k, v in content.items() if k in ("obs", "action", "reward")}, "episode": range(6)})


def test_one_step_decisions_are_said_to_be_so():
    content, _ = log(truncated=None, terminated=None, episode=range(6))
    with pytest.raises(DataError, match=r"every episode of every task has a single transition.*pass horizon=1"):
        build(content)
    with pytest.raises(DataError, match=r"although info\.horizon=3"):
        build(content, horizon=3)
    assert build(content, horizon=1)[0].episodes == 6


def test_the_example_in_the_docstring():
    assert doctest.testmod(arrays).failed == 0
