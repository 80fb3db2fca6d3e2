"""How estimates agree with the truth: against SciPy's rank correlation, over all policies and within tasks."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from merpo.evaluation import agreement, agreement_markdown


def policies(rng, tasks=4, each=5):
    """Two estimators of policies of several tasks: one tells the tasks apart, one the policies of a task."""
    rows = []
    for i in range(tasks):
        level, skill = 10.0 * i, rng.normal(size=each).round(1)  # ties
        for s in skill:
            known = {"fitted Q": level + rng.normal(), "weighted IS": s + 0.1 * rng.normal()}
            rows.append({"task": f"t{i}", "true": level + s, **known})
    return rows


def test_rank_correlations_are_scipys():
    rows = policies(np.random.default_rng(0))
    found = agreement(rows)
    true = np.array([r["true"] for r in rows])
    for name in ("fitted Q", "weighted IS"):
        value = np.array([r[name] for r in rows])
        assert found[name]["rank_correlation"] == pytest.approx(spearmanr(value, true)[0], abs=1e-3)
        within = np.mean([spearmanr(value[i : i + 5], true[i : i + 5])[0] for i in range(0, 20, 5)])
        assert found[name]["rank_within_tasks"] == pytest.approx(within, abs=1e-3)
        assert found[name]["bias"] == pytest.approx(np.mean(value - true), abs=1e-3)
        assert found[name]["rmse"] == pytest.approx(np.sqrt(np.mean((value - true) ** 2)), abs=1e-3)
    assert found["fitted Q"]["rank_correlation"] > 0.8 > 0.5 > found["fitted Q"]["rank_within_tasks"]
    assert found["weighted IS"]["rank_within_tasks"] > 0.8 > found["weighted IS"]["rank_correlation"]


def test_nothing_is_said_of_tasks_that_are_unknown_or_have_too_few_policies():
    rows = policies(np.random.default_rng(1))
    assert "rank_within_tasks" not in agreement([{k: v for k, v in r.items() if k != "task"} for r in rows])["fitted Q"]
    assert "rank_within_tasks" not in agreement(policies(np.random.default_rng(1), each=2))["fitted Q"]


def test_the_table_shows_it_where_there_is_one():
    rows = policies(np.random.default_rng(0))
    found = agreement(rows)
    text = agreement_markdown({"plant/medium": found})
    q = found["fitted Q"]
    assert f"{q['rank_correlation']:.2f} ({q['rank_within_tasks']:.2f}) / {q['bias']:+.2f} / {q['rmse']:.2f}" in text
    assert "rank correlation (within a task) / bias" in text
    bare = agreement_markdown({"plant/medium": agreement([{k: v for k, v in r.items() if k != "task"} for r in rows])})
    assert "(" not in bare
    far = agreement_markdown({"x": agreement([{"true": 0.0, "fitted Q": 2e30}, {"true": 1.0, "fitted Q": 1e30}])})
    assert "-1.00 / +1.5e+30 / 1.58e+30" in far
