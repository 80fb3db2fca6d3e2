from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from merpo.errors import ConfigError, DataError, StorageError
from merpo.evaluation import Protocol, Results
from merpo.report import (
    adaptation_figure,
    learning_curve_figure,
    load_results,
    markdown_table,
    plain_table,
    print_table,
    returns_figure,
    save_results,
    trajectories_figure,
)
from merpo.report.style import colour, spread

pytest.importorskip("matplotlib")


def make(seeds=3, tasks=5, episodes=4) -> Results:
    rng = np.random.default_rng(0)
    shape = (seeds, tasks, episodes)
    return Results(
        family="point-robot-goal",
        quality="medium",
        tasks=tuple(f"task-{i:03d}" for i in range(tasks)),
        returns={
            "meta-policy": -15 + rng.normal(size=shape),
            "bc": -11 + rng.normal(size=shape),
            "merpo": -5 + rng.normal(size=shape),
        },
        behaviour=-11.5 + rng.normal(size=tasks),
        random=np.full(tasks, -22.0),
        expert=np.full(tasks, -4.0),
        protocol=Protocol(episodes, tuple(range(seeds)), budget="2000 updates"),
    )


def pixels(path):
    import matplotlib.image

    return matplotlib.image.imread(path)[..., :3]


def has_colour(image, name: str) -> bool:
    rgb = np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool((np.abs(image - rgb).max(-1) < 0.02).any())


@pytest.mark.parametrize(("seeds", "tasks", "references"), [(3, 5, True), (1, 2, False), (2, 40, True), (1, 1, True)])
def test_returns_figure_shows_every_method(tmp_path, seeds, tasks, references):
    results = make(seeds, tasks)
    if not references:
        results = replace(results, random=None, expert=None)
    returns_figure(results, tmp_path / "r.png")
    image = pixels(tmp_path / "r.png")
    assert min(image.shape[:2]) > 400
    assert all(has_colour(image, colour(m)) for m in ["meta-policy", "bc", "merpo"])
    assert (image[:, :3] > 0.99).all()  # nothing is cut off at the edges
    assert (image[:, -3:] > 0.99).all()
    assert [p.name for p in tmp_path.iterdir()] == ["r.png"]


def test_trajectories_figure(tmp_path):
    rng = np.random.default_rng(0)
    goals = {f"task-{i}": (np.cos(i), np.sin(i)) for i in range(9)}
    logged = {t: [np.cumsum(0.05 * rng.normal(size=(n, 2)), 0) for n in (3, 21)] for t in goals}
    policies = {"merpo": {t: np.linspace((0, 0), g, 21)[None] for t, g in goals.items()}}
    trajectories_figure(tmp_path / "t.png", logged, policies, goals, "title")
    assert has_colour(pixels(tmp_path / "t.png"), colour("merpo"))
    with pytest.raises(DataError, match="share no task"):
        trajectories_figure(tmp_path / "t.png", logged, policies, {})


def test_learning_curve_figure(tmp_path):
    runs = {f"seed {s}": [{"step": i, "loss": 1.0 / (i + 1)} for i in range(5)] for s in range(2)}
    runs["seed 1"].append({"step": 5, "loss": float("nan"), "kl": 0.1})
    learning_curve_figure(tmp_path / "c.png", runs, ["loss", "kl"])
    assert has_colour(pixels(tmp_path / "c.png"), "#0072B2")
    with pytest.raises(DataError, match=r"no run logged 'los'. Logged: kl, loss"):
        learning_curve_figure(tmp_path / "c.png", runs, ["los"])


@pytest.mark.parametrize("shift", [0.0, -0.5])
def test_adaptation_figure(tmp_path, shift):
    steps = [0, 1, 10, 100, 1000]
    meta = np.array([[0.1, 0.09, 0.05, 0.02, 0.01]] * 3) + shift
    scratch = np.array([[1.0, 0.9, 0.5, 0.04, 0.01]] * 3) + shift
    adaptation_figure(tmp_path / "a.png", steps, meta, scratch)
    assert has_colour(pixels(tmp_path / "a.png"), "#D55E00")
    with pytest.raises(DataError, match=r"from the meta-model: errors have shape \(3, 2\), expected \[task, 5\]"):
        adaptation_figure(tmp_path / "a.png", steps, meta[:, :2], scratch[:, :2])


def test_figures_that_cannot_be_made(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"ending in \.png"):
        returns_figure(make(), tmp_path / "r.pdf")
    with pytest.raises(StorageError, match="does not exist"):
        returns_figure(make(), tmp_path / "missing" / "r.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'merpo\[report\]'"):
        returns_figure(make(), tmp_path / "r.png")
    assert list(tmp_path.iterdir()) == []


def test_labels_are_spread_apart_in_their_order():
    out = spread([0.0, 0.01, 5.0, 0.02], 1.0)
    assert np.diff(np.sort(out)).min() >= 1.0 - 1e-6
    assert np.argsort(out).tolist() == [0, 1, 3, 2]
    assert out[2] == 5.0
    assert spread([1.0, 3.0], 1.0) == [1.0, 3.0]
    assert colour("new", ("bc", "new")) != colour("newer", ("bc", "new", "newer"))


def test_tables_hold_the_numbers(tmp_path):
    results = make()
    mean = f"{results.returns['merpo'].mean():.2f}"
    plain = plain_table(results)
    rows = {line.split()[0]: line for line in plain.splitlines() if line}
    assert mean in rows["merpo"]
    assert "100 %" in rows["merpo"]
    assert "context offline" in plain
    assert len({len(rows[m]) for m in ["behaviour", "meta-policy", "bc", "merpo"]}) == 1
    markdown = markdown_table(results)
    assert f"| **merpo** | {mean} [" in markdown
    assert "| bc |" in markdown
    assert {line.count("|") for line in markdown.splitlines() if line.startswith("|")} == {7}


@pytest.mark.parametrize("rich", [True, False])
@pytest.mark.parametrize("width", ["80", "120"])
def test_print_table(monkeypatch, capsys, rich, width):
    if rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setenv("COLUMNS", width)
    results = make()
    print_table(results)
    out = capsys.readouterr().out
    assert f"{results.returns['merpo'].mean():.2f}" in out
    assert "…" not in out
    assert ("━" in out) == rich


def test_results_file(tmp_path):
    path = tmp_path / "results.json"
    results = make()
    save_results(path, results)
    np.testing.assert_array_equal(load_results(path).returns["merpo"], results.returns["merpo"])
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"[]", b"{}", b"\x89PNG\xff"):
        path.write_bytes(content)
        with pytest.raises(StorageError, match="not a results file"):
            load_results(path)
    with pytest.raises(StorageError, match="Cannot read"):
        load_results(tmp_path / "missing")
