"""Every kind of data that cannot be learned from gives one clear DataError."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from merpo.data import Bounds, TaskSet, validate
from merpo.data.validation import FIELDS, problems
from merpo.errors import ConfigError, DataError
from test_data_makers import INFO, changed, make_set, make_task, with_array


def fails(*tasks, info=INFO, match: str, **options) -> None:
    with pytest.raises(DataError, match=match) as caught:
        validate(TaskSet(info, tuple(tasks)), **options)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["obs", "action", "reward", "next_obs"])
def test_values_that_are_not_finite_name_field_row_and_count(name, value):
    bad = changed(make_task(), name, [4, 7], value)
    fails(
        bad,
        make_task("b"),
        match=rf"task 'a': {name} has NaN or infinite values in 2 of 15 rows \(first: row 4",
    )


@pytest.mark.parametrize("name", FIELDS)
def test_a_row_too_few(name):
    task = make_task()
    fails(with_array(task, **{name: getattr(task.transitions, name)[:-1]}), match="has shape")


def test_columns_that_differ_between_tasks():
    task = make_task()
    wide = np.zeros((15, 4), np.float32)
    fails(
        make_task("b"),
        with_array(task, obs=wide, next_obs=wide),
        match=r"obs has shape \(15, 4\), expected \(15, 3\)",
    )
    fails(
        with_array(task, action=np.zeros((15, 1), np.float32)),
        match=r"action has shape \(15, 1\), expected \(15, 2\)",
    )
    fails(
        with_array(task, reward=np.zeros((15, 1), np.float32)),
        match=r"reward has shape \(15, 1\), expected \(15,\)",
    )


@pytest.mark.parametrize(("name", "dtype"), [("obs", np.float64), ("reward", np.int32), ("terminated", np.uint8)])
def test_wrong_dtypes(name, dtype):
    task = make_task()
    bad = with_array(task, **{name: np.asarray(getattr(task.transitions, name)).astype(dtype)})
    fails(bad, match=f"{name} has dtype {np.dtype(dtype)}, expected")


def test_an_empty_task():
    task = make_task()
    none = {name: np.asarray(getattr(task.transitions, name))[:0] for name in FIELDS}
    fails(with_array(task, **none, episode_start=np.array([0])), match="no transitions")


def test_splits_and_names():
    fails(match="tasks is empty")
    fails(make_task(split="test"), match="none of the 1 tasks has split 'train'")
    fails(make_task("a"), make_task("a", "test"), match="'a' is used 2 times")
    fails(make_task(split="validation"), make_task("b"), match="split='validation', expected 'train' or 'test'")


def test_actions_outside_their_bounds():
    bad = changed(make_task(), "action", (3, 1), 1.01)
    fails(bad, match=r"in 1 of 15 rows \(first: row 3, column 1, value 1.01, bounds \[-1, 1\]")
    validate(TaskSet(INFO, (changed(make_task(), "action", (3, 1), 1.00005),)))
    wide = replace(INFO, action_low=(-1.0, -2.0), action_high=(1.0, 2.0))
    validate(TaskSet(wide, (bad,)))
    narrow = replace(INFO, action_low=(0.5, -1.0), action_high=(1.0, 1.0))
    fails(make_task(), info=narrow, match=r"column 0, value .*bounds \[0.5, 1\]")


@pytest.mark.parametrize(
    ("start", "match"),
    [
        ([0, 6, 6, 15], "episode 1 is empty"),
        ([0, 12, 6, 15], "ends before it begins"),
        ([0, 6, 12], "runs from 0 to 12, expected from 0 to 15"),
        ([1, 6, 15], "runs from 1"),
        ([0.0, 15.0], "expected integers"),
        ([0], "expected integers"),
        ([[0, 15]], "expected integers"),
    ],
)
def test_episode_bounds(start, match):
    fails(with_array(make_task(), episode_start=np.array(start)), match=match)


@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_end_flags_inside_an_episode(name):
    fails(
        changed(make_task(), name, 7, True),
        match=rf"{name} is set inside an episode in 1 rows \(first: row 7, in episode 1 = rows 6:12",
    )


def test_a_cut_log_and_short_episodes_are_fine():
    open_end = with_array(make_task(), truncated=np.zeros(15, bool), terminated=np.zeros(15, bool))
    validate(TaskSet(INFO, (open_end, make_task("b", lengths=(1, 1, 2), seed=3))))


def test_only_one_step_episodes_need_horizon_one():
    single = make_task(lengths=(1,) * 8)
    fails(single, match="each of its 8 episodes has a single transition although info.horizon=6.*horizon=1")
    validate(TaskSet(replace(INFO, horizon=1), (single,)))


def test_constant_columns_over_all_training_tasks():
    flat = [changed(make_task(n, seed=i), "obs", (slice(None), 1), 0.25) for i, n in enumerate("ab")]
    fails(
        *flat,
        match=r'1 of 3 column is constant over all training tasks \(column 1 = 0.25\).*on_constant="keep"',
    )
    fails(*flat, make_task("c", "test"), match="constant over all training tasks")  # test tasks do not excuse it
    validate(TaskSet(INFO, tuple(flat)), on_constant="keep")
    other = changed(flat[1], "obs", (slice(None), 1), 0.5)
    validate(TaskSet(INFO, (flat[0], other)))  # constant within a task, telling between tasks
    with pytest.raises(ConfigError, match="on_constant='drop'"):
        validate(make_set(), on_constant="drop")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"horizon": 0}, "horizon=0"),
        ({"version": -1}, "version=-1"),
        ({"obs_dim": 0}, "obs_dim=0"),
        ({"termination": "sometimes"}, "termination='sometimes'"),
        ({"action_low": (-1.0,)}, "expected 2 finite numbers"),
        ({"action_high": (1.0, float("inf"))}, "expected 2 finite numbers"),
        ({"action_low": (1.0, -1.0), "action_high": (1.0, 1.0)}, "expected low < high"),
        ({"healthy": (Bounds(3, 0.0, 1.0),)}, "index=3"),
    ],
)
def test_descriptions_that_cannot_be(change, match):
    fails(make_task(), info=replace(INFO, **change), match=match)


def test_all_problems_are_listed_not_only_the_first():
    bad = changed(changed(make_task(), "obs", 0, np.nan), "action", 1, 9.0)
    codes = [p.code for p in problems(TaskSet(INFO, (bad, make_task("b", "nowhere"))))]
    assert codes == ["split", "not-finite", "action-bounds"]
