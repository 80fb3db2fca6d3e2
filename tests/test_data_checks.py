"""The report: every finding where it belongs, none where it does not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from merpo.data import TaskSet, check, info, summarise
from merpo.data.suspicions import hashed, row_keys
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


def test_rows_out_of_order_are_told_from_broken_ones():
    task = big()
    order = np.arange(len(task))
    order[[1, 2]] = [2, 1]
    t = task.transitions
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
    swapped = with_array(task, **{n: np.asarray(getattr(t, n))[order] for n in names})
    found = codes(swapped)
    assert "in 3 steps" in found["order"].message
    assert "chaining" not in found
    assert "order" not in codes(task)


def test_steps_written_twice_are_found():
    task = big()
    for name in ("obs", "action", "reward", "next_obs"):
        x = np.asarray(getattr(task.transitions, name))
        task = changed(changed(task, name, 8, x[7]), name, 20, x[19])
    assert "2 steps repeat" in codes(task)["repeated-step"].message
    assert "repeated-step" not in codes(big())


def test_outliers_are_named_with_their_row():
    found = codes(changed(changed(big(), "obs", (40, 1), 1e6), "next_obs", (39, 1), 1e6))
    assert "column 1 has 1 values" in found["outlier"].message
    assert "row 40" in found["outlier"].message
    assert "the reward" in codes(changed(big(), "reward", 5, -1e5))["outlier"].message


def test_columns_that_say_the_same():
    def copied(task, noise):
        obs, nxt = (np.array(x) for x in (task.transitions.obs, task.transitions.next_obs))
        for x in (obs, nxt):
            x[:, 2] = 5 - 3 * x[:, 0] + noise * np.random.default_rng(0).normal(size=len(x))
        return with_array(task, obs=obs, next_obs=nxt)

    assert "columns 0 and 2" in codes(copied(big(), 0.0), copied(big("b", seed=1), 0.0))["same-columns"].message
    assert "same-columns" not in codes(copied(big(), 0.3), copied(big("b", seed=1), 0.3))


def test_sizes_and_shared_transitions():
    found = codes(make_task("long", lengths=(6,) * 200), big("b", seed=1).select(range(10)), big())
    assert "'long' has 1200 transitions, 'b' only 60" in found["uneven"].message
    found = codes(big(), big("b"), big("c", "test", 3))
    assert found["shared"].severity == "warning"
    assert "150 of 150" in found["shared"].message
    assert "shared" not in codes(big(), big("b", seed=1))


def test_states_that_training_never_visits():
    far = big("far", "test", 9)
    t = far.transitions
    far = with_array(far, obs=np.asarray(t.obs) + np.float32(30), next_obs=np.asarray(t.next_obs) + np.float32(30))
    report = check(TaskSet(LEARNED, (big(), big("b", seed=1), big("near", "test", 4), far)))
    covered = {c.name: c for c in report.coverage.tasks}
    assert covered["far"].overlap == 0.0
    assert covered["near"].overlap > 0.9
    assert covered["a"].overlap > 0.9
    assert [f.task for f in report.findings if f.code == "unseen-states"] == ["far"]


def test_the_support_and_the_noise_of_actions():
    task = big()
    narrow = with_array(big("n", seed=2), action=np.asarray(big("n", seed=2).transitions.action) * np.float32(0.05))
    covered = {c.name: c for c in check(TaskSet(LEARNED, (task, narrow))).coverage.tasks}
    assert covered["a"].actions == 1.0
    assert covered["n"].actions == pytest.approx(0.2)  # the two bins beside zero
    assert covered["a"].noise > 0.5
    assert "narrow-actions" in codes(task, narrow)
    twice = big().select([*range(30), *range(30)])  # the same states again, with the same actions
    assert codes(twice, big("b", seed=1).select([*range(30), *range(30)]))["deterministic"].severity == "info"
    assert "deterministic" not in codes(task, narrow)


def test_quality_is_estimated_from_references():
    def at(level, spread, quality):
        rng, tasks = np.random.default_rng(0), []
        for name in ("a", "b"):
            task = big(name, seed=len(tasks))
            lengths = np.diff(task.episode_start)
            goal = level + spread * rng.uniform(-1, 1, len(lengths))
            reward = np.repeat(goal / lengths, lengths).astype(np.float32)
            tasks.append(replace(with_array(task, reward=reward), reference={"random": 0.0, "expert": 1.0}))
        return check(TaskSet(replace(LEARNED, quality=quality), tuple(tasks)))

    assert at(0.02, 0.02, "random").coverage.quality == "random"
    assert at(0.5, 0.1, "medium").coverage.quality == "medium"
    assert at(0.95, 0.05, "expert").coverage.quality == "expert"
    assert at(0.5, 0.5, "mixed").coverage.quality == "mixed"
    wrong = at(0.1, 0.05, "expert")
    assert "quality" in {f.code for f in wrong.findings}
    assert wrong.coverage.tasks[0].score == pytest.approx(0.1, abs=0.03)
    assert "estimated quality: medium" in at(0.5, 0.1, "medium").render()
    bare = TaskSet(LEARNED, (replace(big(), reference={}),))
    assert check(bare).coverage.quality == "unknown"


def test_the_ranges_of_all_columns():
    tasks = (big(), big("b", seed=1), big("c", "test", 2))
    columns = {c.name: c for c in info(TaskSet(LEARNED, tasks)).columns}
    pooled = np.concatenate([np.asarray(t.transitions.action, np.float64)[:, 1] for t in tasks[:2]])
    assert columns["action[1]"].mean == pytest.approx(pooled.mean())
    assert columns["action[1]"].std == pytest.approx(pooled.std())
    assert (columns["action[1]"].low, columns["action[1]"].high) == (pooled.min(), pooled.max())
    assert len(columns) == 3 + 2 + 1
    assert summarise(LEARNED, iter(tasks)) == info(TaskSet(LEARNED, tasks))


def test_many_findings_of_a_kind_are_counted_in_text_and_kept_in_json():
    tasks = tuple(make_task(f"t{i}", lengths=(6, 6), seed=i) for i in range(6))
    report = check(TaskSet(LEARNED, tasks))
    assert report.render().count("WARNING [small]") == 3
    assert "... and 3 more [small]" in report.render()
    assert sum(f["code"] == "small" for f in report.to_json()["findings"]) == 6


def test_hashes_tell_rows_apart_and_agree_on_equal_ones():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (20_000, 6)).astype(np.float32)
    same = np.unique(x, axis=0, return_inverse=True)[1]
    keys = np.unique(hashed(x), return_inverse=True)[1]
    assert len(np.unique(same)) == len(np.unique(keys)) == len(np.unique(np.stack([same, keys]), axis=1).T)
    assert len(np.unique(row_keys(big()))) == 150


@pytest.mark.parametrize("lengths", [(6,), (1,), (1, 1), (2,)])
def test_tiny_logs_have_a_report_too(lengths):
    report = check(TaskSet(LEARNED, (replace(make_task(lengths=lengths), reference={}),)))
    assert "small" in {f.code for f in report.findings}
    assert report.coverage.quality == "unknown"
    json.dumps(report.to_json(), allow_nan=False)
    report.render()
