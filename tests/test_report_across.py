"""A study's cases together: against SciPy's trimmed mean and wins counted one by one."""

import numpy as np
import pytest
from scipy.stats import trim_mean

from merpo.report.across import across, across_markdown

SEEDS, TASKS = 3, 4


def row(label, returns, **more):
    return {"label": label, "method": label, "returns": returns.tolist(), **more}


def case(quality, level, rng, labels=("merpo", "bc"), **changes):
    """Random -10, expert 10 on every task; MerPO about one above the rest."""
    rows = [row("behaviour", rng.normal(level, 1, (1, TASKS)))]
    rows += [row(x, rng.normal(level + (x == "merpo"), 1, (SEEDS, TASKS))) for x in labels]
    same = {"family": "point-robot-goal", "quality": quality, "logs": None, "tasks": list("abcd"), "reference": "merpo"}
    return {**same, "random": [-10.0] * TASKS, "expert": [10.0] * TASKS, "rows": rows, **changes}


def study(*groups, seeds=(0, 1, 2)):
    return {"groups": list(groups), "study": {"seeds": list(seeds)}}


@pytest.fixture
def two():
    rng = np.random.default_rng(0)
    return study(case("medium", 2, rng), case("expert", 5, rng, ("merpo", "bc", "iql")))


def test_all_tasks_count_alike(two):
    found = {r.label: r for r in across(two)}
    assert set(found) == {"behaviour", "merpo", "bc"}  # iql is in one case only
    both = {x: [np.array(r["returns"]) for g in two["groups"] for r in g["rows"] if r["label"] == x] for x in found}
    for label, rows in both.items():
        assert found[label].score.value == pytest.approx(trim_mean((np.hstack(rows).ravel() + 10) / 20, 0.25))
    ours, theirs = np.hstack(both["merpo"]), np.hstack(both["bc"])
    wins = [a > b for j in range(2 * TASKS) for a in ours[:, j] for b in theirs[:, j]]
    assert found["bc"].better.value == pytest.approx(np.mean(wins))
    assert found["bc"].better.low < found["bc"].better.value < found["bc"].better.high
    assert found["merpo"].better is None


def test_the_table(two):
    lines = across_markdown(two)
    assert lines[0] == "**All 2 cases together**, 8 test tasks, the best score first."
    assert [line.split("|")[1].strip() for line in lines[4:7]] == [r.label for r in across(two)]
    scores = [r.score.value for r in across(two)]
    assert scores == sorted(scores, reverse=True)
    data = next(line for line in lines if line.startswith("| behaviour"))
    assert "[" not in data.split("|")[2]  # given by the data, so without an interval


@pytest.mark.parametrize("why", ["one case", "one seed", "several sizes of log", "nothing done"])
def test_nothing_is_said_where_nothing_can_be(two, why):
    one, other = two["groups"]
    shown = {
        "one case": study(one),
        "one seed": study(one, other, seeds=(0,)),
        "several sizes of log": study({**one, "logs": 5}, {**other, "logs": 10}),
        "nothing done": study(one, {**other, "rows": []}),
    }[why]
    assert across(shown) == []
    assert across_markdown(shown) == []


def test_without_references_or_merpo(two):
    bare = study(*({**g, "expert": None, "reference": None} for g in two["groups"]))
    assert all(r.score is None and r.better is None for r in across(bare))
    assert len(across_markdown(bare)) == 8
