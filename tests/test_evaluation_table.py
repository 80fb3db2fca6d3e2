from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from merpo.errors import ConfigError, DataError, UnknownNameError
from merpo.evaluation import (
    Protocol,
    Results,
    evaluate_policies,
    results_from_json,
    results_to_json,
    summarise,
)


def make(seeds=3, tasks=4, episodes=2) -> Results:
    rng = np.random.default_rng(0)
    shape = (seeds, tasks, episodes)
    return Results(
        family="point-robot-goal",
        quality="medium",
        tasks=tuple(f"task-{i}" for i in range(tasks)),
        returns={
            "meta-policy": -15 + rng.normal(size=shape),
            "bc": -12 + rng.normal(size=shape),
            "merpo": -5 + rng.normal(size=shape),
        },
        behaviour=np.full(tasks, -11.5),
        random=np.full(tasks, -22.0),
        expert=np.full(tasks, -4.0),
        protocol=Protocol(episodes, tuple(range(seeds)), budget="2000 updates", versions={"jax": "1"}),
    )


def test_summary_is_what_its_columns_say():
    results = make()
    rows = {r.method: r for r in summarise(results)}
    assert list(rows) == ["behaviour", "meta-policy", "bc", "merpo"]
    merpo = rows["merpo"]
    assert merpo.mean.value == pytest.approx(results.returns["merpo"].mean())
    assert merpo.mean.low < merpo.mean.value < merpo.mean.high
    assert (merpo.at_least_behaviour, merpo.above_meta, merpo.improvement.value) == (1.0, 1.0, 1.0)
    assert rows["meta-policy"].above_meta is None
    assert rows["meta-policy"].improvement.value == 0.0
    means = results.returns["bc"].mean((0, 2))
    assert rows["bc"].at_least_behaviour == np.mean(means >= -11.5)
    assert rows["bc"].improvement.value == pytest.approx(np.mean(results.returns["bc"].mean(-1) > -11.5))
    behaviour = rows["behaviour"]
    assert behaviour.mean.value == -11.5
    assert math.isnan(behaviour.mean.low)
    assert behaviour.iqm.value == pytest.approx((22 - 11.5) / 18)


def test_without_references_there_is_no_score():
    results = replace(make(), random=None)
    assert all(r.iqm is None for r in summarise(results))
    with pytest.raises(DataError, match="cannot be normalised"):
        results.normalised("bc")
    with pytest.raises(ConfigError, match=r"method='bd'.*Known: behaviour, meta-policy, bc, merpo"):
        make().normalised("bd")


@pytest.mark.parametrize("references", [True, False])
def test_json_round_trip(references):
    results = make() if references else replace(make(), random=None, expert=None)
    data = results_to_json(results)
    again = results_from_json(json.loads(json.dumps(data, allow_nan=False)))
    assert again.protocol == results.protocol
    assert again.tasks == results.tasks
    for method, array in results.returns.items():
        np.testing.assert_array_equal(again.returns[method], array)
    np.testing.assert_array_equal(again.behaviour, results.behaviour)
    assert (again.random is None) == (not references)
    assert data["summary"][3]["method"] == "merpo"
    assert [r.mean.value for r in summarise(again)] == [r.mean.value for r in summarise(results)]
    protocol = data["protocol"]
    assert {"context", "policy", "checkpoint", "episodes", "seeds", "physics", "precision", "budget"} <= set(protocol)


def test_bad_results_are_named():
    results = make()
    with pytest.raises(DataError, match=r"returns\['bc'\] has shape \(3, 4, 1\), expected \(3, 4, 2\)"):
        replace(results, returns={"bc": np.zeros((3, 4, 1))})
    with pytest.raises(DataError, match=r"expert has shape \(3,\)"):
        replace(results, expert=np.zeros(3))
    with pytest.raises(DataError, match="behaviour holds NaN"):
        replace(results, behaviour=np.full(4, np.nan))
    with pytest.raises(DataError, match="as `behaviour` instead"):
        replace(results, returns={"behaviour": np.zeros((3, 4, 2))})
    with pytest.raises(DataError, match="at least one task"):
        replace(results, returns={})
    data = results_to_json(results)
    with pytest.raises(DataError, match="format='x'"):
        results_from_json({**data, "format": "x"})
    with pytest.raises(DataError, match="format_version=9"):
        results_from_json({**data, "format_version": 9})
    with pytest.raises(DataError, match="'tasks'"):
        results_from_json({k: v for k, v in data.items() if k != "tasks"})


@dataclass
class FakeRollout:
    returns: np.ndarray


class FakeFamily:
    """Reward = minus the action's magnitude, two steps; counts what it was asked."""

    def rollout(self, act, task_ids, episodes, seed):
        obs = np.ones((len(task_ids), episodes, 3), np.float32) * np.asarray(task_ids, np.float32)[:, None, None]
        return FakeRollout(-sum(np.abs(act(obs, step)).sum(-1) for step in range(2)))


def test_evaluate_policies_passes_everything_on():
    returns = evaluate_policies(FakeFamily(), lambda obs, step: obs[..., :2] * (step + 1), [0, 2], 3, 0)
    np.testing.assert_allclose(returns, [[0, 0, 0], [-12, -12, -12]])
    with pytest.raises(DataError, match=r"task 2, episode 0 is nan"):
        evaluate_policies(FakeFamily(), lambda obs, step: np.where(obs > 1, np.nan, obs), [0, 2], 3, 0)
    with pytest.raises(DataError, match=r"shape \(2,\)"):
        evaluate_policies(FakeFamily(), lambda obs, step: obs[:, 0], [0, 2], 3, 0)


def test_evaluate_policies_on_a_real_family():
    # a robot that stays at (0, 0) is at distance 1 from every goal on the unit circle for 20 steps
    returns = evaluate_policies("point-robot-goal", lambda obs, step: np.zeros_like(obs), [40, 41], 3, seed=0)
    np.testing.assert_allclose(returns, np.full((2, 3), -20.0), rtol=1e-5)
    with pytest.raises(ConfigError, match=r"expected \(2, 3, 2\)"):
        evaluate_policies("point-robot-goal", lambda obs, step: obs[:, 0], [40, 41], 3)
    with pytest.raises(ConfigError, match="NaN or infinite"):
        evaluate_policies("point-robot-goal", lambda obs, step: obs * np.nan, [40, 41], 3)
    with pytest.raises(UnknownNameError, match="point-robot"):
        evaluate_policies("point-robot", lambda obs, step: obs, [0], 1)
