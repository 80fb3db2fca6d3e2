from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from merpo.errors import ConfigError, DataError
from merpo.evaluation.statistics import (
    EPISODES,
    RUNS,
    bootstrap_interval,
    interquartile_mean,
    normalised_score,
    paired_difference,
    probability_of_improvement,
)


@settings(max_examples=60, deadline=None, database=None)
@given(n=st.integers(1, 60), seed=st.integers(0, 10_000))
def test_iqm_is_scipys_trimmed_mean(n, seed):
    x = np.random.default_rng(seed).standard_cauchy(n)
    assert interquartile_mean(x) == pytest.approx(scipy.stats.trim_mean(x, 0.25), rel=1e-12)


def test_iqm_point_estimate_takes_all_runs_and_tasks_together():
    x = np.random.default_rng(0).normal(size=(7, 9, 4))
    expected = scipy.stats.trim_mean(x.mean(-1).ravel(), 0.25)
    assert bootstrap_interval(x, "iqm").value == pytest.approx(expected)


@pytest.mark.parametrize(("statistic", "n_runs"), [("mean", 20), ("iqm", 20)])
def test_coverage_over_runs_is_about_nominal(statistic, n_runs):
    rng = np.random.default_rng(1)
    # task means all 0, so that mean and IQM are both estimates of 0
    hits = 0
    trials = 400
    for i in range(trials):
        x = rng.normal(size=(n_runs, 5, 1))
        interval = bootstrap_interval(x, statistic, resamples=400, seed=i)
        hits += interval.low <= 0.0 <= interval.high
    assert interval.resampled == RUNS
    assert 0.92 <= hits / trials <= 0.975  # 3 standard errors around 0.94-0.95


def test_coverage_over_tasks_and_episodes_with_one_run():
    rng = np.random.default_rng(2)
    hits = 0
    trials = 400
    for i in range(trials):
        x = rng.normal(size=(1, 30, 1)) + 0.5 * rng.normal(size=(1, 30, 10))
        interval = bootstrap_interval(x, resamples=400, seed=i)
        hits += interval.low <= 0.0 <= interval.high
    assert interval.resampled == EPISODES
    assert 0.92 <= hits / trials <= 0.98


def test_bootstrap_width_is_the_standard_errors():
    x = np.random.default_rng(3).normal(size=(40, 3, 1))
    # stratified: the variance of the grand mean is the mean over tasks of the within-task variances, / (runs tasks)
    se = np.sqrt(x[..., 0].var(0).mean() / (40 * 3))
    interval = bootstrap_interval(x, resamples=20_000)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * se, rel=0.03)


def test_strata_differences_do_not_widen_the_interval():
    x = np.random.default_rng(4).normal(size=(10, 4, 1))
    offset = np.array([0.0, 100.0, -50.0, 7.0])[None, :, None]
    a, b = bootstrap_interval(x), bootstrap_interval(x + offset)
    assert b.high - b.low == pytest.approx(a.high - a.low)
    assert b.value - a.value == pytest.approx(57 / 4)


def test_same_seed_same_interval_and_chunks_do_not_matter(monkeypatch):
    x = np.random.default_rng(5).normal(size=(5, 4, 3))
    assert bootstrap_interval(x, seed=1) == bootstrap_interval(x, seed=1)
    assert bootstrap_interval(x, seed=1) != bootstrap_interval(x, seed=2)
    whole = bootstrap_interval(x, seed=1)
    monkeypatch.setattr("merpo.evaluation.statistics._CHUNK", 300)
    assert bootstrap_interval(x, seed=1) == whole


def test_constant_scores_have_no_width():
    interval = bootstrap_interval(np.full((3, 2, 4), 2.5), "iqm")
    assert (interval.value, interval.low, interval.high) == (2.5, 2.5, 2.5)
    assert str(interval) == "2.5 [2.5, 2.5]"


@pytest.mark.parametrize("ties", [False, True])
def test_probability_of_improvement_is_mann_whitney(ties):
    rng = np.random.default_rng(6)
    x, y = rng.normal(0.3, 1, (6, 3, 1)), rng.normal(0, 1, (9, 3, 1))
    if ties:
        x, y = np.round(x), np.round(y)
    expected = np.mean([scipy.stats.mannwhitneyu(x[:, t, 0], y[:, t, 0]).statistic / (6 * 9) for t in range(3)])
    interval = probability_of_improvement(x, y)
    assert interval.value == pytest.approx(expected)
    assert interval.low <= interval.value <= interval.high
    assert probability_of_improvement(y, x).value == pytest.approx(1 - expected)


def test_probability_of_improvement_covers_its_truth():
    rng = np.random.default_rng(7)
    truth = scipy.stats.norm.cdf(0.5 / np.sqrt(2))
    hits = 0
    for i in range(200):
        x, y = rng.normal(0.5, 1, (15, 4, 1)), rng.normal(0, 1, (15, 4, 1))
        interval = probability_of_improvement(x, y, resamples=300, seed=i)
        hits += interval.low <= truth <= interval.high
    assert 0.90 <= hits / 200 <= 0.99


def test_probability_of_improvement_with_one_run_keeps_tasks_paired():
    x = np.arange(10.0).reshape(1, 10, 1) * 100 + np.arange(5.0)
    y = np.arange(10.0).reshape(1, 10, 1) * 100 - 1.0
    interval = probability_of_improvement(x, y)
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)
    assert interval.resampled == EPISODES
    # wins on 7 of 10 tasks, without noise: a binomial share
    y[0, :3] += 1000
    interval = probability_of_improvement(x, y, resamples=20_000)
    assert interval.value == 0.7
    assert interval.low == pytest.approx(scipy.stats.binom.ppf(0.025, 10, 0.7) / 10, abs=0.11)
    assert interval.high == pytest.approx(scipy.stats.binom.ppf(0.975, 10, 0.7) / 10, abs=0.11)


def test_paired_difference_drops_what_pairs_share():
    rng = np.random.default_rng(8)
    shared = 100 * rng.normal(size=(4, 3, 5))
    interval = paired_difference(shared + 1.0, shared)
    assert (interval.value, interval.low, interval.high) == pytest.approx((1.0, 1.0, 1.0))
    with pytest.raises(DataError, match=r"second has shape \(4, 3, 4\), expected that of first, \(4, 3, 5\)"):
        paired_difference(shared, shared[:, :, :4])


def test_normalised_score():
    returns = np.array([[[0.0, 10.0], [-5.0, -4.0]]])
    score = normalised_score(returns, np.array([0.0, -5.0]), np.array([10.0, -4.0]))
    np.testing.assert_allclose(score, [[[0, 1], [0, 1]]])
    np.testing.assert_allclose(normalised_score(returns[..., 0], np.zeros(2), np.ones(2)), returns[..., 0])
    with pytest.raises(DataError, match=r"not so for b \(random -4, expert -4\)"):
        normalised_score(returns, np.array([0.0, -4.0]), np.array([10.0, -4.0]), ["a", "b"])
    with pytest.raises(DataError, match="task 0"):
        normalised_score(returns, np.array([np.nan, -5.0]), np.array([10.0, -4.0]))
    with pytest.raises(DataError, match="one per task"):
        normalised_score(returns, np.zeros(3), np.ones(3))


def test_bad_input_is_named():
    with pytest.raises(DataError, match=r"returns\[0, 1, 0\] is nan"):
        bootstrap_interval(np.array([[[1.0], [np.nan]]]))
    with pytest.raises(DataError, match="at least one each"):
        bootstrap_interval(np.zeros((2, 0, 1)))
    with pytest.raises(ConfigError, match="confidence=95"):
        bootstrap_interval(np.zeros((2, 2, 1)), confidence=95.0)
    with pytest.raises(ConfigError, match="resamples=0"):
        bootstrap_interval(np.zeros((2, 2, 1)), resamples=0)
    with pytest.raises(DataError, match="second has 3 tasks, first has 2"):
        probability_of_improvement(np.zeros((2, 2, 1)), np.zeros((2, 3, 1)))
