"""Minibatches and hold-outs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from merpo.data import Transitions, holdout_rows, sample_rows, split_episodes, stack
from merpo.data.types import padded_rows
from merpo.errors import ConfigError, DataError
from test_data_makers import make_set, make_task


def numbered(rows: int, pad: int) -> Transitions:
    """Rows that carry their own number; padding is zero, as `stack` makes it."""
    n = np.concatenate([np.arange(1, rows + 1), np.zeros(pad)]).astype(np.float32)
    flag = np.zeros(rows + pad, bool)
    return Transitions(*(jnp.asarray(x) for x in (n[:, None], n[:, None], n, n[:, None], flag, flag)))


def test_rows_are_drawn_uniformly_and_never_from_the_padding(key):
    batch = jax.jit(sample_rows, static_argnums=3)(numbered(10, 90), jnp.int32(10), key, 20_000)
    counts = np.bincount(np.asarray(batch.reward).astype(int), minlength=11)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3
    np.testing.assert_array_equal(batch.obs[:, 0], batch.reward)  # columns of one row stay together
    assert batch.terminated.dtype == bool


def test_many_tasks_of_different_sizes_at_once(key):
    data = stack(list(make_set()))
    traces = []

    def draw(transitions, size, k):
        traces.append(1)
        return sample_rows(transitions, size, k, 64)

    step = jax.jit(jax.vmap(draw))
    keys = jax.random.split(key, 3)
    batch = step(data.transitions, data.size, keys)
    step(data.transitions, data.size, jax.random.split(keys[0], 3))
    assert len(traces) == 1
    assert batch.obs.shape == (3, 64, 3)
    for i, task in enumerate(make_set()):
        real = {row.tobytes() for row in np.asarray(task.transitions.obs)}
        assert {row.tobytes() for row in np.asarray(batch.obs[i])} <= real
    np.testing.assert_array_equal(batch.obs, step(data.transitions, data.size, keys).obs)


def test_few_numbers_of_rows_serve_all_logs():
    rows = np.array([padded_rows(n) for n in range(1, 4097)])
    longest = np.arange(1, 4097)
    assert (rows >= longest).all()
    assert (rows - longest <= np.maximum(31, longest // 4)).all()
    assert (np.diff(rows) >= 0).all()
    assert len(set(rows[longest > 128])) == 4 * 5  # from 128 to 4096 rows: five doublings


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.floats(0.01, 0.99), st.integers(0, 99))
def test_a_hold_out_parts_the_rows_by_episode(lengths, fraction, seed):
    task = make_task(lengths=tuple(lengths))
    if len(task) < 2:
        with pytest.raises(DataError, match="cannot be split"):
            split_episodes(task, fraction, seed)
        return
    kept, held = holdout_rows(task, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(task)))
    assert len(kept)
    assert len(held)
    first, second = split_episodes(task, fraction, seed)
    np.testing.assert_array_equal(first.transitions.obs, task.transitions.obs[kept])
    np.testing.assert_array_equal(second.transitions.reward, task.transitions.reward[held])
    assert first.episodes + second.episodes == max(task.episodes, 2)
    if task.episodes > 1:
        count = min(max(round(fraction * task.episodes), 1), task.episodes - 1)
        assert second.episodes == count


def test_a_hold_out_is_seeded_and_limited():
    task = make_task(lengths=(6,) * 20)
    one, two = holdout_rows(task, 0.5, 0), holdout_rows(task, 0.5, 0)
    np.testing.assert_array_equal(one[1], two[1])
    assert any(not np.array_equal(one[1], holdout_rows(task, 0.5, s)[1]) for s in range(1, 4))
    assert len(one[1]) == 60
    assert len(holdout_rows(task, 0.5, 0, most=20)[1]) == 18  # whole episodes
    assert len(holdout_rows(task, 0.5, 0, most=2)[1]) == 6  # but at least one
    with pytest.raises(ConfigError, match=r"fraction=1.0"):
        holdout_rows(task, 1.0, 0)
    with pytest.raises(ConfigError, match="most=0"):
        holdout_rows(task, 0.5, 0, most=0)


def test_a_single_episode_is_split_by_time():
    task = make_task(lengths=(6,))
    first, second = split_episodes(task, 0.3, 0)
    assert (len(first), len(second)) == (4, 2)
    np.testing.assert_array_equal(second.transitions.obs, task.transitions.obs[4:])
    assert first.transitions.truncated.tolist() == [False, False, False, True]
    assert second.transitions.truncated.tolist() == [False, True]
    assert not task.transitions.truncated[3]  # the original is untouched
