"""Running studies: shared learning, kills, locks, divergence, what is published. Learning is pretended."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from merpo.bench import Cell, Fit, code_version, make_plan, make_study, run_study
from merpo.bench.work import Done
from merpo.cli import main
from merpo.commands.bench import Board, write_outcome
from merpo.errors import ConfigError, DivergenceError, StorageError
from merpo.evaluation import probability_of_improvement
from merpo.report.overview import overview
from merpo.report.study import results_page, study_figure, study_markdown
from merpo.runs import locked
from merpo.tasks import families, get_family

pytest.importorskip("matplotlib")
GRID = {
    "name": "grid",
    "families": ["point-robot-wind"],
    "qualities": ["random", "medium"],
    "methods": ["bc", "merpo", "meta-policy", "focal"],
    "seeds": [0, 3],
    "episodes": 2,
    "train_tasks": 3,
    "test_tasks": 2,
}
TIMING = b'{"seconds": 30.0, "cpu_seconds": 60.0, "machine": {"cpu": "Slow", "cores": 2, "jax": "9"}}'


pytestmark = pytest.mark.usefixtures("home")


class Pretended:
    """In the place of `Workshop`: writes down what it was asked for; results follow from the cell alone."""

    asked: list = []  # noqa: RUF012
    dies_at: int | None = None
    diverges: str = ""
    teams: list = []  # noqa: RUF012

    def __init__(self, every=60.0):
        del every

    def _next(self, units, state):
        if state is not None:
            state.mkdir()  # as a state would be
        if len(Pretended.asked) == Pretended.dies_at:
            raise KeyboardInterrupt
        Pretended.asked += units
        Pretended.teams.append(len(units))
        if Pretended.diverges and any(Pretended.diverges in u.title for u in units):
            raise DivergenceError("absurd")

    def fit(self, fits, state=None, report=None):
        self._next(fits, state)
        return [Done(f.hash.encode(), TIMING, 2.0) for f in fits]

    def cell(self, cells, learned=(), state=None, report=None):
        self._next(cells, state)
        assert list(learned) == [c.fit.hash.encode() for c in cells if c.fit is not None]
        return [Done(self._content(c), TIMING, 1.0) for c in cells]

    @staticmethod
    def _content(cell):
        rng = np.random.default_rng(int(cell.hash[:8], 16))
        returns = rng.normal(size=(2, 1)) + (cell.method == "merpo") * 9.0
        content = {
            "format": "merpo-cell", "format_version": 1, "hash": cell.hash, "train_tasks": 3, "tasks": ["a", "b"],
            "returns": returns.tolist(), "behaviour": [1.0, 2.0], "random": [0.0, 0.0], "expert": [4.0, 4.0],
        }  # fmt: skip
        return json.dumps(content).encode()


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setattr("merpo.bench.run.Workshop", Pretended)
    for name, value in (("asked", []), ("dies_at", None), ("diverges", ""), ("teams", [])):
        monkeypatch.setattr(Pretended, name, value)
    return Pretended


def go(content, out, **options):
    return run_study(make_study(content), out, Board("s", io.StringIO()), **options)


def contents(out):
    paths = [*out.glob("cells/*.json"), *out.glob("stages/*.safetensors"), *out.glob("results.json")]
    return {p.name: p.read_bytes() for p in paths if not p.name.endswith(".time.json")}


def test_learning_is_shared_and_comes_before_the_cells_that_need_it(pretended, tmp_path):
    go(GRID, tmp_path / "a")
    fits = [u for u in pretended.asked if isinstance(u, Fit)]
    cells = [u for u in pretended.asked if isinstance(u, Cell)]
    # two qualities x two seeds, MerPO's for merpo and meta-policy together, FOCAL's own; bc needs none
    assert sorted((f.learner, f.logs.quality, f.seed) for f in fits) == sorted(
        (m, q, s) for m in ("merpo", "focal") for q in ("random", "medium") for s in (0, 3)
    )
    assert len(cells) == len({c.hash for c in cells}) == 4 * 2 * 2
    for i, unit in enumerate(pretended.asked):
        if isinstance(unit, Cell) and unit.fit is not None:
            assert unit.fit.hash in {f.hash for f in pretended.asked[:i] if isinstance(f, Fit)}
    assert not any((tmp_path / "a" / "work").iterdir())


def test_killed_anywhere_it_goes_on_without_repeating_or_losing_anything(pretended, tmp_path):
    write_outcome(go(GRID, tmp_path / "a"), tmp_path / "a", draw=False)
    expected, whole = contents(tmp_path / "a"), len(pretended.asked)
    pretended.asked.clear()
    for kill in range(0, whole, 3):
        pretended.dies_at = kill
        with pytest.raises(KeyboardInterrupt):
            go(GRID, tmp_path / "b")
        assert not any(p.name.endswith(".tmp") for p in (tmp_path / "b").rglob("*"))
        for state in (tmp_path / "b" / "work").iterdir():  # what Checkpoints would go on from
            state.rmdir()
        (tmp_path / "b" / "cells" / ".x.json.abc.tmp").write_bytes(b"half")
    pretended.dies_at = None
    write_outcome(go(GRID, tmp_path / "b"), tmp_path / "b", draw=False)
    assert len(pretended.asked) == len({u.hash for u in pretended.asked}) == whole
    assert contents(tmp_path / "b") == expected
    pretended.asked.clear()
    go(GRID, tmp_path / "b")
    assert pretended.asked == []


def test_seeds_together_are_whole_teams_however_often_killed(pretended, tmp_path):
    go(GRID, tmp_path / "a")
    expected, learned = contents(tmp_path / "a"), {u.hash for u in pretended.asked if isinstance(u, Fit)}
    for kill in range(0, len(pretended.asked), 2):
        pretended.asked.clear()
        pretended.teams.clear()
        pretended.dies_at = kill
        with contextlib.suppress(KeyboardInterrupt):
            go(GRID, tmp_path / "b", together=True)
        assert set(pretended.teams) <= {2}
        for state in (tmp_path / "b" / "work").iterdir():
            state.rmdir()
        for done in [*(tmp_path / "b" / "cells").iterdir()][:1]:  # as if killed within a team
            done.unlink()
    pretended.dies_at = None
    go(GRID, tmp_path / "b", together=True)
    assert contents(tmp_path / "b") == expected
    pretended.asked.clear()
    go(GRID, tmp_path / "c", together=True)
    known = [u.hash for u in pretended.asked]
    assert len(known) == len(set(known)) == len(expected)
    for unit in pretended.asked:
        if isinstance(unit, Cell) and unit.fit is not None:
            assert known.index(unit.fit.hash) < known.index(unit.hash)
    assert learned <= set(known)


def test_of_a_team_that_diverges_each_goes_on_alone(pretended, tmp_path):
    pretended.diverges = "point-robot-wind/medium  learning merpo, seed 3"
    alone = go(GRID, tmp_path / "a").content
    pretended.teams.clear()
    assert go(GRID, tmp_path / "b", together=True).content == alone
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(pretended.teams) == {1, 2}


def test_a_kill_between_a_result_and_the_removal_of_its_state(pretended, tmp_path):
    go(GRID, tmp_path / "a")
    one = make_plan(make_study(GRID))[0].cells[0]
    (tmp_path / "a" / "work" / one.hash).mkdir()
    go(GRID, tmp_path / "a")
    assert not any((tmp_path / "a" / "work").iterdir())


def test_cells_are_known_by_settings_code_and_data(monkeypatch):
    def hashes(**changes):
        return {c.hash for s in make_plan(make_study(GRID | changes)) for c in s.cells}

    known = hashes()
    assert hashes() == known
    assert hashes(about="another question", name="other") == known
    assert len(hashes(seeds=[0, 3, 4]) & known) == len(known)  # what is there is used again
    assert not hashes(settings={"merpo": {"rac.lam": 0.7}}) & known
    assert not hashes(data_seed=1) & known
    assert not hashes(train_tasks=2) & known
    assert not hashes(outside=True) & known
    assert not hashes(starts=2) & known
    focal = {c.hash for s in make_plan(make_study(GRID)) if s.method == "focal" for c in s.cells}
    assert known - hashes(settings={"focal": {"context.latent": 3}}) == focal
    for name, other in (("code_version", lambda: code_version() + "x"), ("_content_hash", lambda logs: "other bytes")):
        with monkeypatch.context() as patch:
            patch.setattr(f"merpo.bench.plan.{name}", other)
            assert not hashes() & known
            fits = {c.fit.hash for s in make_plan(make_study(GRID)) for c in s.cells if c.fit}
        assert not fits & {c.fit.hash for s in make_plan(make_study(GRID)) for c in s.cells if c.fit}


def test_rows_have_the_statistics_of_their_cells(pretended, tmp_path):
    content = go(GRID, tmp_path / "a").content
    group = content["groups"][1]
    assert (group["quality"], group["reference"], group["missing"]) == ("medium", "merpo", [])
    rows = {r["label"]: r for r in group["rows"]}
    assert list(rows) == ["behaviour", "meta-policy", "bc", "focal", "merpo"]
    for name, row in rows.items():
        if name == "behaviour":
            continue
        stored = [json.loads((tmp_path / "a" / "cells" / f"{h}.json").read_bytes()) for h in row["cells"]]
        returns = np.asarray([c["returns"] for c in stored])
        assert row["returns"] == returns.mean(-1).tolist()
        assert row["mean"]["value"] == pytest.approx(returns.mean())
    first, second = (np.asarray(rows[n]["returns"])[..., None] for n in ("merpo", "bc"))
    assert rows["bc"]["merpo_better"]["value"] == probability_of_improvement(first, second).value == 1.0
    assert rows["merpo"]["merpo_better"] is None
    text = study_markdown(content)
    assert f"| **merpo** | {rows['merpo']['mean']['value']:.2f} [" in text
    assert "| *expert* | 4.00 | 1.00 | |" in text


def test_of_several_merpos_the_adaptive_one_is_compared(pretended, tmp_path):
    content = go(GRID | {"alpha": [0, 0.4, "adaptive"], "methods": ["bc", "merpo"]}, tmp_path / "a").content
    assert content["groups"][0]["reference"] == "merpo, alpha adaptive"
    labels = [r["label"] for r in content["groups"][0]["rows"]]
    assert labels == ["behaviour", "bc", "merpo, alpha 0", "merpo, alpha 0.4", "merpo, alpha adaptive"]
    assert len(pretended.asked) == 2 * 2 * (1 + 2 * 3)  # bc once, whatever alpha is


def test_what_diverges_is_left_out_and_named(pretended, tmp_path):
    pretended.diverges = "point-robot-wind/medium  learning merpo, seed 3"
    outcome = go(GRID, tmp_path / "a")
    assert {t.partition("  ")[2] for t in outcome.failed} == {"merpo, seed 3", "meta-policy, seed 3"}
    group = outcome.content["groups"][1]
    assert group["missing"] == ["meta-policy", "merpo"]
    assert [r["label"] for r in group["rows"]] == ["behaviour", "bc", "focal"]
    assert "Diverged, so not in the table: meta-policy, merpo." in study_markdown(outcome.content)


def test_a_folder_in_use_or_of_others_is_refused(pretended, tmp_path):
    go(GRID, tmp_path / "a")
    with locked(tmp_path / "a"), pytest.raises(StorageError, match="in use by another process"):
        go(GRID, tmp_path / "a")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("mine")
    with pytest.raises(StorageError, match=r"thesis\.tex but no bench\.json"):
        go(GRID, tmp_path / "c")


def test_a_damaged_cell_is_named(pretended, tmp_path):
    go(GRID, tmp_path / "a")
    one = next(p for p in (tmp_path / "a" / "cells").glob("*.json") if ".time" not in p.name)
    one.write_bytes(one.read_bytes()[:-9])
    with pytest.raises(StorageError, match=f"{one.name}' is damaged"):
        go(GRID, tmp_path / "a")


def test_the_board_says_how_far_it_is(pretended, tmp_path):
    stream = io.StringIO()
    run_study(make_study(GRID), tmp_path / "a", Board("grid", stream))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "grid: 16 cells, 0 done already, 24 pieces of work to do"
    assert lines[1].endswith("took 1.0 s  about 0:00:23 left")  # before a meta-training has shown how long it takes
    assert lines[-1].startswith("16/16  point-robot-wind/medium  focal, seed 3  took 1.0 s")


@pytest.mark.parametrize("varied", [{}, {"alpha": [0.0, 0.5, "adaptive"]}, {"logs": [1, 2]}])
def test_the_figure_has_a_panel_per_family_and_quality(pretended, tmp_path, monkeypatch, varied):
    from matplotlib.figure import Figure

    drawn = []

    @contextlib.contextmanager
    def kept(path, width, height):
        drawn.append(Figure(figsize=(width, height), layout="constrained"))
        yield drawn[0]

    monkeypatch.setattr("merpo.report.study.figure", kept)
    content = go(GRID | varied, tmp_path / "a").content
    study_figure(content, "f.png")
    panels = drawn[0].axes
    assert [ax.get_title(loc="left") or ax.get_title() for ax in panels] == [
        "point-robot-wind, random",
        "point-robot-wind, medium",
    ]
    for ax, quality in zip(panels, ("random", "medium"), strict=True):
        shown = np.concatenate([np.ravel(line.get_xydata()) for line in ax.lines])
        rows = [r for g in content["groups"] if g["quality"] == quality for r in g["rows"]]
        assert len(rows) >= 5
        for row in rows:
            assert np.isclose(shown, row["mean"]["value"]).any(), row["label"]


def test_the_page_of_results_is_made_from_the_files(pretended, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "No study is stored yet." in results_page(tmp_path / "empty")
    write_outcome(go(GRID | {"about": "Which?"}, tmp_path / "a"), tmp_path / "results" / "grid", draw=False)
    (tmp_path / "results" / "other").mkdir()
    (tmp_path / "results" / "other" / "README.md").write_text("# How fast\n")
    (tmp_path / "results" / "other" / "results.json").write_text('{"format": "merpo-results"}')
    assert main(["results", "--root", str(tmp_path / "results"), "--out", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text()
    table = (tmp_path / "results" / "grid" / "table.md").read_text().splitlines()
    assert set(table) <= set(page.splitlines())
    # 16 cells and 8 meta-trainings of half a minute each
    assert "16 cells and 8 meta-trainings: 12.0 minutes, 24.0 of one core, on Slow, 2 cores, jax 9" in page
    assert "## grid\n\nWhich?\n" in page
    assert "- [How fast](results/other/README.md)" in page


def test_the_repositorys_page_says_what_its_results_say():
    root = Path(__file__).parents[1]
    again = "run: merpo results --readme README.md"
    assert (root / "docs" / "results.md").read_text() == results_page(root / "results"), again
    assert "\n".join(overview(root / "results", "results")) in (root / "README.md").read_text(), again


@pytest.mark.parametrize("name", [n for n in families() if get_family(n).ordering is not None])
def test_outside_tasks_lie_outside_what_training_has_seen(name):
    family = get_family(name)
    train, test = family.outside()
    assert sorted(train + test) == list(range(family.num_tasks))
    seen = [family.ordering(family.parameters(i)) for i in train]
    held = [family.ordering(family.parameters(i)) for i in test]
    assert sum(x < min(seen) for x in held) == sum(x > max(seen) for x in held) == len(test) // 2 > 0


def test_a_study_of_outside_tasks_takes_them_from_both_splits():
    grid = {k: v for k, v in GRID.items() if not k.endswith("_tasks")}
    study = make_study(grid | {"outside": True, "methods": ["merpo"]})
    cell = make_plan(study)[0].cells[0]
    train, test = cell.train.load(), cell.test.load()
    strength = {t.name: np.hypot(*t.parameters["wind"]) for t in (*train, *test)}
    assert len(strength) == 50
    assert {t.split for t in train} == {"train"}
    assert {t.split for t in test} == {"test"}
    seen = [strength[t.name] for t in train]
    assert all(not min(seen) <= strength[t.name] <= max(seen) for t in test)
    with pytest.raises(ConfigError, match="have no order"):
        make_study(GRID | {"families": ["ant-fwd-back"], "outside": True})
