"""Comparing runs against SciPy's Mann-Whitney and plain means."""

import io
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from merpo.errors import ConfigError, DataError
from merpo.evaluation import Protocol, Results, compare
from merpo.report.tables import markdown_comparison, print_comparison

rng = np.random.default_rng(1)


def results(shift, tasks=("a", "b", "c"), seeds=4, family="f", known=True):
    returns = rng.normal(shift, 1.0, (seeds, len(tasks), 3))
    n = len(tasks)
    references = {"random": np.full(n, -10.0), "expert": np.full(n, 10.0)} if known else {}
    protocol = Protocol(3, tuple(range(seeds)))
    return Results(family, "medium", tasks, {"bc": returns - 1, "merpo": returns}, np.zeros(n), protocol, **references)


def test_better_is_mann_whitney_on_common_tasks():
    one, two = results(0.0), results(0.4, ("b", "c", "d"), seeds=3)
    found = compare({"one": one, "two": two})
    assert found.tasks == ("b", "c")
    x, y = one.returns["merpo"].mean(2)[:, 1:], two.returns["merpo"].mean(2)[:, :2]
    wins = [mannwhitneyu(x[:, i], y[:, i]).statistic / (4 * 3) for i in range(2)]
    assert found.better[0][1].value == pytest.approx(np.mean(wins))
    assert found.better[1][0].value == pytest.approx(1 - np.mean(wins))
    assert found.better[0][0] is None
    assert found.better[0][1].low <= np.mean(wins) <= found.better[0][1].high
    assert found.runs[0].mean.value == pytest.approx(x.mean())
    assert found.runs[1].iqm.value == pytest.approx(np.sort(((y + 10) / 20).ravel())[1:-1].mean())
    assert found.runs[0].above_behaviour == np.mean(x.mean(0) > 0)
    said = " ".join(found.cautions)
    assert "only the 2 tasks" in said
    assert "number of seeds: 3 | 4" in said


def test_unknown_references_and_other_methods():
    found = compare({"one": results(0.0, known=False), "two": results(3.0)}, ["bc"])
    assert found.runs[0].iqm is None
    assert found.better[1][0].value == 1.0
    assert compare({"one": results(0.0), "two": results(3.0)}, ["behaviour"]).better[0][1].value == 0.5


def test_methods_of_one_run():
    run = results(1.0)
    found = compare({"one": run}, ["merpo", "behaviour", "bc"])
    assert found.labels == ("merpo", "behaviour", "bc")
    returns = {m: run.returns[m].mean(-1) for m in ("merpo", "bc")}
    wins = [a > b for j in range(len(run.tasks)) for a in returns["merpo"][:, j] for b in returns["bc"][:, j]]
    assert found.better[0][2].value == pytest.approx(np.mean(wins))
    assert found.better[0][0] is None


def test_what_cannot_be_compared():
    with pytest.raises(ConfigError, match="none given, expected at least two"):
        compare({})
    with pytest.raises(
        ConfigError, match=r"only merpo of run 'one', expected at least two.*has bc, merpo, and behaviour"
    ):
        compare({"one": results(0.0)})
    with pytest.raises(DataError, match="different families"):
        compare({"one": results(0.0), "two": results(0.0, family="g")})
    with pytest.raises(DataError, match="share no task"):
        compare({"one": results(0.0), "two": results(0.0, ("x",))})
    with pytest.raises(ConfigError, match="methods=rac: run 'one' has bc, merpo"):
        compare({"one": results(0.0), "two": results(0.0)}, ["rac"])


def test_the_table_shows_brackets_of_names_as_they_are():
    one = results(0.0)
    out = io.StringIO()
    print_comparison(compare({"[bold]one": one, "two": replace(one, quality="expert")}), out)
    text = out.getvalue()
    assert "[bold]one" in text
    assert "f: merpo on 3 common tasks" in text
    assert "0.50" in text
    assert "data quality: expert | medium" in text


def rival(shift, name):
    r = results(shift)
    return replace(r, returns={name: r.returns["merpo"]})


def test_a_run_of_a_rival_is_compared_by_that_rival():
    one, other = results(2.0), rival(0.0, "focal")
    found = compare({"mine": one, "theirs": other})
    assert [(r.run, r.method) for r in found.runs] == [("mine", "merpo"), ("theirs", "focal")]
    assert found.labels == ("merpo", "focal")
    x, y = one.returns["merpo"].mean(2), other.returns["focal"].mean(2)
    wins = [mannwhitneyu(x[:, i], y[:, i]).statistic / 16 for i in range(3)]
    assert found.better[0][1].value == pytest.approx(np.mean(wins))
    with pytest.raises(ConfigError, match="none given: run 'a' has bc, rac"):
        compare({"a": replace(one, returns={"bc": one.returns["bc"], "rac": one.returns["merpo"]}), "b": other})


def test_several_methods_are_a_row_each_where_a_run_has_them():
    found = compare({"mine": results(2.0), "theirs": rival(0.0, "focal")}, ["merpo", "bc", "focal", "behaviour"])
    assert found.labels == ("merpo", "bc", "behaviour", "focal")  # one log, one row of it
    assert found.better[0][1].value > 0.5
    behaviour = found.better[2][1]  # a single log against four runs
    assert behaviour.low <= behaviour.value <= behaviour.high
    twice = compare({"mine": results(2.0), "theirs": results(0.0)}, ["merpo", "bc"])
    assert twice.labels == ("mine: merpo", "mine: bc", "theirs: merpo", "theirs: bc")
    assert [line[i] for i, line in enumerate(found.better)] == [None] * 4


def test_the_markdown_has_a_row_each_and_the_odds_of_the_first():
    found = compare({"mine": results(9.0), "theirs": rival(0.0, "focal")}, ["merpo", "bc", "focal"])
    rows = [line.split(" | ") for line in markdown_comparison(found).splitlines() if line.startswith("| ")]
    assert [r[0] for r in rows[1:]] == ["| merpo", "| bc", "| focal"]
    assert rows[0][-1] == "P(merpo > row) |"
    assert rows[1][-1].strip(" |") == ""
    assert rows[3][-1].startswith("1.00 [")


def test_what_a_copied_run_has_from_the_first_is_one_row():
    """A run that was copied and adapted by one more method: its other rows are those of the original."""
    first = results(2.0)
    copied = replace(first, returns={**first.returns, "iql": first.returns["merpo"] + 1.0})
    found = compare({"one": first, "copy": copied}, ["merpo", "bc", "iql", "behaviour"])
    assert found.labels == ("merpo", "bc", "behaviour", "iql")
    again = replace(first, returns={"merpo": first.returns["merpo"] + 1e-9})
    assert compare({"one": first, "again": again}, ["merpo", "bc"]).labels == ("one: merpo", "one: bc", "again: merpo")
