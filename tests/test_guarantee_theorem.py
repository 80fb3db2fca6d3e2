"""The inequalities against policies that are and are not maximisers, and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest

from merpo.cli import main
from merpo.errors import ConfigError
from merpo.guarantee import (
    Balance,
    SweepConfig,
    judge,
    maximise,
    optimal_policy,
    sampling_bound,
    summarise,
    sweep,
    value,
)
from test_guarantee_exact import instances


def test_the_inequalities_hold_for_maximisers_and_need_not_for_others():
    log, tasks, behaviour, pi_c, prior = instances(seed=1, batch=12)
    balance = Balance(0.4, 2.0, 0.1, 0.5)
    r = np.full(tasks.r.shape, 0.5)
    best = maximise(log, pi_c, balance, 400)
    found = judge(log, tasks, behaviour, best.policy, pi_c, balance, prior, r)
    assert not found.broken.any()
    assert found.conclusion[found.conditions].all()
    # the worst policy of all is no maximiser, and breaks what the theorem says of maximisers
    worst = optimal_policy(log.model, 1.0 - log.model.r)
    bad = judge(log, tasks, behaviour, worst, pi_c, balance, prior, r)
    assert bad.broken.all()
    # the interval is the sign of the second right side, for alpha below 1/2
    np.testing.assert_array_equal(found.interval, (found.bound_beta > 1e-9))
    assert not judge(log, tasks, behaviour, best.policy, pi_c, replace(balance, alpha=0.6), prior, r).interval.any()
    with pytest.raises(ConfigError, match="delta"):
        judge(log, tasks, behaviour, best.policy, pi_c, balance, prior, r, delta=0.0)


def test_the_sampling_bound_covers_the_models_error_and_shrinks_with_the_log():
    widths = []
    for size in (200, 20_000):
        log, tasks, _, pi_c, prior = instances(seed=2, size=size)
        for pi in (log.clone, pi_c):
            bound = sampling_bound(log, pi, prior, np.full(tasks.r.shape, 0.5), 0.05)
            assert (np.abs(value(tasks, pi) - value(log.model, pi)) <= bound).all()
        widths.append(sampling_bound(log, log.clone, prior, np.full(tasks.r.shape, 0.5), 0.05).mean())
    assert widths[1] < 0.2 * widths[0]


def test_a_sweep_is_reproducible_and_adds_up():
    config = SweepConfig(mdps=6, chunk=4, seed=3)
    columns = sweep(config)
    again = sweep(config)
    assert all(np.array_equal(columns[n], again[n], equal_nan=True) for n in columns)
    found = summarise(columns)
    assert found["violations"] == 0
    assert found["inequalities_broken_anywhere"] == 0
    assert found["instances"] == int(columns["conditions"].sum()) > 0
    assert sum(row["n"] for row in found["by"]["alpha"]) == found["instances_tried"] == 6 * 7
    # a planted violation is counted
    columns["conclusion"] = columns["conclusion"] & ~columns["conditions"]
    assert summarise(columns)["violations"] == found["instances"]
    with pytest.raises(ConfigError, match="mdps"):
        SweepConfig(mdps=0)


def test_the_command_writes_numbers_and_figure(tmp_path, capsys):
    out = tmp_path / "t" / "theory.json"
    assert main(["theory", "--mdps", "5", "--seed", "1", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["violations"] == 0
    assert record["config"]["seed"] == 1
    assert record["instances_tried"] == 35
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "0 violations" in capsys.readouterr().out
    assert main(["theory", "--mdps", "5", "--out", str(tmp_path / "x.txt")]) == 2
    assert ".json" in capsys.readouterr().err
