"""The report: every finding where it belongs, none where it does not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from merpo.data import TaskSet, check, info
from test_data_makers import INFO, changed, make_task, with_array

LEARNED = replace(INFO, termination="learned")


def big(name="a", split="train", seed=0):
    return make_task(name, split, (6,) * 20 + (3,) * 10, seed)


def codes(*tasks, about=LEARNED):
    return {f.code: f for f in check(TaskSet(about, tuple(tasks))).findings}


def test_a_clean_set_has_no_findings():
    report = check(TaskSet(LEARNED, (big(), big("b", "test", 1))))
    assert report.findings == ()
    assert report.ok
    assert "can be learned from" in report.render()


def test_errors_are_listed_not_raised_and_come_first():
    broken = changed(big(), "obs", 3, np.nan)
    odd = changed(big("b", seed=1), "terminated", slice(None), False)
    report = check(TaskSet(LEARNED, (odd, broken, make_task("c", seed=5))))
    assert [f.severity for f in report.findings] == sorted(
        (f.severity for f in report.findings), key=["error", "warning", "info"].index
    )
    assert report.findings[0].code == "not-finite"
    assert report.findings[0].task == "a"
    assert not report.ok
    assert {"open-end", "small"} <= {f.code for f in report.findings}


@pytest.mark.parametrize("bad", [{"obs": np.zeros((3, 3), np.float32)}, {"episode_start": np.array([0, 4])}])
def test_unsound_tasks_do_not_stop_the_report(bad):
    report = check(TaskSet(LEARNED, (with_array(big(), **bad), big("b", seed=1))))
    assert not report.ok
    assert [t.name for t in report.summary.tasks] == ["b"]
    report.render()


@pytest.mark.parametrize("name", ["obs", "action", "reward", "next_obs"])
def test_infinite_values_do_not_stop_the_report(name):
    report = check(TaskSet(LEARNED, (changed(big(), name, [3, 9], np.inf), big("b", seed=1))))
    assert not report.ok
    json.loads(json.dumps(report.to_json(), allow_nan=False))
    report.render()


def test_an_impossible_description_is_reported():
    report = check(TaskSet(replace(INFO, action_low=(3.0,)), (big(),)))
    assert report.findings[0].code == "info"


@pytest.mark.parametrize(
    ("code", "task"),
    [
        ("small", make_task(lengths=(6, 6))),
        ("open-end", changed(big(), "truncated", slice(None), False)),
        ("chaining", changed(big(), "next_obs", 2, 7.0)),
        ("constant-in-task", changed(big(), "obs", (slice(None), 2), 1.0)),
        ("near-constant", changed(big(), "obs", (slice(None), 2), 1.0 + 1e-6 * np.arange(150))),
        ("saturation", changed(big(), "action", (slice(80), 0), 0.999)),
        ("constant-reward", changed(big(), "reward", slice(None), 1.0)),
        ("duplicates", big().select([0, 1, 2, 2, *range(3, 20)])),
    ],
)
def test_warnings_about_a_task(code, task):
    found = codes(task, big("b", seed=1))
    assert found[code].severity == "warning"
    assert found[code].task == "a"
    assert found[code].advice


def test_rounding_does_not_break_the_chain():
    task = big()
    nudged = with_array(task, next_obs=np.asarray(task.transitions.next_obs) * np.float32(1 + 1e-6))
    assert "chaining" not in codes(nudged)


def test_a_few_duplicates_are_only_mentioned():
    task = big()
    start, t = 0, task.transitions
    row = {n: np.asarray(getattr(t, n))[start] for n in ("obs", "action", "reward", "next_obs")}
    for name, value in row.items():
        task = changed(task, name, 30, value)
    assert codes(task)["duplicates"].severity == "info"


def test_leakage_between_training_and_test_tasks():
    found = codes(big(), replace(big("b"), split="test"))
    assert "150 of 150" in found["leakage"].message
    assert "leakage" not in codes(big(), big("b"))  # two training tasks may share data


def test_time_limits_stored_as_terminations():
    task = make_task(lengths=(6,) * 20)
    t = task.transitions
    wrong = with_array(task, terminated=t.truncated, truncated=t.terminated)
    assert "time-limit" in codes(wrong)
    assert "time-limit" not in codes(task)
    assert "time-limit" not in codes(big())
    assert "termination" in codes(big(), about=INFO)


def test_reward_scales_and_horizon():
    loud = with_array(big("b", seed=1), reward=np.asarray(big("b", seed=1).transitions.reward) * np.float32(1000))
    assert "'b'" in codes(big(), loud)["reward-scale"].message
    assert "horizon" in codes(make_task(lengths=(9,) * 20))


def test_the_figures_and_their_json():
    task = big()
    summary = info(TaskSet(LEARNED, (task, big("b", "test", 1))))
    row = summary.tasks[0]
    returns = [
        float(np.sum(task.transitions.reward[a:b], dtype=np.float64))
        for a, b in zip(task.episode_start[:-1], task.episode_start[1:], strict=True)
    ]
    assert row.return_mean == pytest.approx(np.mean(returns))
    assert row.return_std == pytest.approx(np.std(returns))
    assert (row.episodes, row.steps, row.shortest, row.longest) == (30, 150, 3, 6)
    assert (row.terminated, row.truncated) == (10, 20)
    assert (summary.train_tasks, summary.test_tasks, summary.steps) == (1, 1, 300)
    report = check(TaskSet(LEARNED, (task,)))
    again = json.loads(json.dumps(report.to_json()))
    assert again["ok"] is True
    assert again["summary"]["tasks"][0]["name"] == "a"
    assert "walk/medium v2" in summary.render()
