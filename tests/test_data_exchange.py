"""Tables and arrays in and out: columns by role, order, episodes, repairs that are said, exact round trips."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from merpo.cli import main
from merpo.data import Columns, Settings, from_table, import_set, info, load, read_mapping, save
from merpo.data.exchange.columns import resolve
from merpo.errors import DataError, DataWarning, MerpoError, StorageError
from test_data_makers import INFO, make_set, same

NAMES = Columns(task="machine", episode="run", time="t", obs="s*", action="u", reward="gain")


def log(machines=("m1", "m2"), runs=3, steps=5, seed=0) -> dict[str, np.ndarray]:
    """A log in a user's own words; rows of the machines in turns, as they happened."""
    rng = np.random.default_rng(seed)
    n = len(machines) * runs * steps
    return {
        "t": np.tile(np.repeat(np.arange(steps), len(machines)), runs),
        "machine": np.tile(np.array(machines), runs * steps),
        "run": np.repeat(np.arange(runs), steps * len(machines)),
        "s1": rng.normal(size=n).astype(np.float32),
        "s2": rng.normal(size=n).astype(np.float32),
        "u": rng.uniform(-1, 1, n).astype(np.float32),
        "gain": rng.normal(size=n).astype(np.float32),
    }


def write(path, table) -> str:
    (pq.write_table if path.suffix == ".parquet" else pacsv.write_csv)(pa.table(table), path)
    return str(path)


def take(table, index):
    return {k: np.asarray(v)[index] for k, v in table.items()}


def codes(done) -> dict[str, str]:
    return {f.code: f.message for f in done.findings}


def read_in(tmp_path, table, columns=NAMES, layout="csv", **settings):
    path = write(tmp_path / f"log.{layout}", table)
    done = import_set(
        [path], layout, "a/b", columns=columns, settings=Settings(**settings), root=str(tmp_path / "s"), overwrite=True
    )
    return done, load("a/b", tmp_path / "s")


@pytest.mark.parametrize("layout", ["csv", "parquet"])
def test_a_users_table_becomes_a_set(tmp_path, layout):
    table = log()
    done, data = read_in(tmp_path, table, layout=layout, test=("m2",), gamma=0.9)
    assert [(t.name, t.split, t.episodes, len(t)) for t in data] == [("m1", "train", 3, 12), ("m2", "test", 3, 12)]
    own = take(table, table["machine"] == "m1")
    t = data[0].transitions
    keep = own["t"] < 4
    np.testing.assert_array_equal(t.obs, np.stack([own["s1"], own["s2"]], 1)[keep])
    np.testing.assert_array_equal(t.next_obs, np.stack([own["s1"], own["s2"]], 1)[own["t"] > 0])
    np.testing.assert_array_equal(t.reward, own["gain"][keep])
    assert np.flatnonzero(t.truncated).tolist() == [3, 7, 11]
    assert (data.info.gamma, data.info.horizon, data.info.termination, data.info.family) == (0.9, 4, "never", "b")
    assert set(codes(done)) == {"last-step", "truncated", "no-terminated"}
    assert codes(done)["last-step"].startswith("6 steps dropped")
    record = json.loads((tmp_path / "s/a/b/import.json").read_text())
    assert record["columns"]["task"] == "machine"
    assert record["settings"]["gamma"] == 0.9


@pytest.mark.parametrize("layout", ["csv", "parquet"])
def test_rows_beyond_the_memory_budget_give_the_same_bytes(tmp_path, layout, monkeypatch):
    from merpo.data.exchange import tables

    monkeypatch.setattr(tables, "BATCH", 7)
    path = write(tmp_path / f"log.{layout}", log(("x", "y", "z"), runs=40))
    for name, budget in (("a/all", 1 << 30), ("a/bit", 1)):
        settings = Settings(family="x")
        import_set([path], layout, name, columns=NAMES, settings=settings, root=str(tmp_path / "s"), budget=budget)
    assert same(load("a/all", tmp_path / "s"), load("a/bit", tmp_path / "s"))
    assert not list((tmp_path / "s").rglob(".tmp-*"))


def test_order_repetitions_and_gaps_are_mended_and_said(tmp_path):
    table = log(runs=2, steps=30)
    whole, expected = read_in(tmp_path, table)
    shuffled = np.random.default_rng(0).permutation(len(table["t"]))
    # episodes keep the order of their first row
    first = [np.flatnonzero((table["machine"] == m) & (table["run"] == r))[0] for m in ("m1", "m2") for r in (0, 1)]
    order = np.concatenate([first, np.setdiff1d(shuffled, first, assume_unique=True)])
    done, data = read_in(tmp_path, take(table, order))
    assert same(data, expected)
    assert "sorted" in codes(done)
    done, data = read_in(tmp_path, take(table, np.sort(np.append(np.arange(120), [7, 50, 50]))))
    assert same(data, expected)
    assert codes(done)["repeated"].startswith("3 rows repeated")
    lost = np.flatnonzero((table["machine"] == "m1") & (table["run"] == 1) & (table["t"] == 12))
    done, data = read_in(tmp_path, take(table, np.setdiff1d(np.arange(120), lost)))
    assert codes(done)["gap"].startswith("1 gaps in time")
    assert np.diff(data[0].episode_start).tolist() == [29, 11, 16]
    assert data[0].transitions.truncated[[28, 39, 55]].all()
    other = {k: v.copy() for k, v in take(table, np.append(np.arange(120), 7)).items()}
    other["gain"][-1] += 1
    with pytest.raises(DataError, match=r"two different rows have the same episode and time .*line 9 and .*line 122"):
        read_in(tmp_path, other)
    assert set(codes(whole)) == {"last-step", "truncated", "no-terminated"}


def test_final_observations_and_terminations(tmp_path):
    """Rows with the observation alone close an episode; without them a lost termination is a warning."""
    table = {k: v.tolist() for k, v in log(("m",), runs=2, steps=4).items()}
    table["over"] = [False, False, True, False] + [False] * 4
    for i in (3, 7):
        table["u"][i] = table["gain"][i] = None
    names = replace(NAMES, terminated="over")
    done, data = read_in(tmp_path, table, names)
    t = data[0].transitions
    assert len(data[0]) == 6
    np.testing.assert_array_equal(t.next_obs[[2, 5], 0], np.float32(np.array(table["s1"])[[3, 7]]))
    assert t.terminated.tolist() == [False, False, True, False, False, False]
    assert t.truncated.tolist() == [False] * 5 + [True]
    assert set(codes(done)) == {"final-row", "truncated"}
    assert data.info.termination == "learned"
    table = log(("m",), runs=2, steps=4) | {"over": [False] * 3 + [True] + [False] * 4}
    done, data = read_in(tmp_path, table, names)
    assert codes(done)["last-step-terminated"].startswith("1 of the dropped")
    assert not data[0].transitions.terminated.any()


def test_missing_values_are_refused_or_cut_out(tmp_path):
    table = {k: v.tolist() for k, v in log(("m",), runs=1, steps=9).items()}
    table["s2"][4] = None
    with pytest.raises(
        DataError, match=r"1 of 9 rows \(first: log.csv, line 6, column 's2', value nan\).*--missing drop"
    ):
        read_in(tmp_path, table)
    done, data = read_in(tmp_path, table, missing="drop")
    assert codes(done)["missing"].startswith("1 rows")
    assert np.diff(data[0].episode_start).tolist() == [3, 3]
    np.testing.assert_array_equal(data[0].transitions.obs[:, 0], np.float32(np.array(table["s1"])[[0, 1, 2, 5, 6, 7]]))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.pop("gain"), r"no column 'gain' \(for reward\) among t, machine.*Correct --reward"),
        (lambda c: c.update(gain=["x"] * 30), "not readable as CSV.*'x'"),
        (lambda c: c.update(u=c["u"] * 7), r"action column 0 ranges from .*--action-bounds data"),
        (lambda c: c.update(t=["now"] * 30), "time column holds"),
        (lambda c: c.update(machine=[None, *["m"] * 29]), "line 2: the task is missing"),
        (lambda c: c.update(s4=c["s1"]), "numbered 1 to 4, but s3 is missing"),
        (lambda c: c.pop("u"), r"no column matches 'u' \(for action\)"),
    ],
)
def test_tables_that_cannot_be_understood_are_explained(tmp_path, change, match):
    table = dict(log())
    change(table)
    with pytest.raises(MerpoError, match=match):
        read_in(tmp_path, table)
    assert not (tmp_path / "s/a/b").exists()


def test_columns_are_found_by_their_usual_names_or_by_pattern():
    names = [
        "task_id",
        "t",
        "obs_10",
        "obs_2",
        *(f"obs_{i}" for i in (0, 1, 3, 4, 5, 6, 7, 8, 9)),
        "act_0",
        "reward",
        "note",
    ]
    found = resolve(Columns(), names, "x")
    assert found.obs == tuple(f"obs_{i}" for i in range(11))  # by number, not by place
    assert found.single == {"task": "task_id", "time": "t", "reward": "reward"}
    assert found.unused == ("note",)
    assert "task" not in resolve(Columns(task="-"), names, "x").single
    for columns, match in [
        (Columns(obs=("obs_*", "obs_1")), "matched twice"),
        (Columns(next_obs=("note",)), "1 next_obs columns .* for 11 obs columns"),
        (Columns(reward="obs_1"), "taken for both obs and reward"),
        (Columns(reward="rewardd"), "Did you mean 'reward'"),
    ]:
        with pytest.raises(DataError, match=match):
            resolve(columns, names, "x")
    with pytest.raises(DataError, match="more than once"):
        resolve(Columns(), [*names, "t"], "x")


def test_the_command_line_and_the_mapping_file_agree(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MERPO_DATA_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("MERPO_CACHE_DIR", "off")
    table = log(("m1", "m2", "m3"))
    table["u"] = table["u"] * 40
    path = write(tmp_path / "log.csv", table)
    (tmp_path / "map.toml").write_text(
        '[columns]\ntask = "machine"\nepisode = "run"\ntime = "t"\nobs = ["s1", "s2"]\naction = ["u"]\nreward = "gain"\n'
        '[set]\ngamma = 0.9\naction_low = -40\naction_high = 40\ntest = ["m3"]\n'
    )
    command = ["data", "import", path, "--layout", "csv", "--name"]
    assert main([*command, "one", "--mapping", str(tmp_path / "map.toml")]) == 0
    flags = "--task machine --episode run --time t --obs s1 s2 --action u --reward gain --gamma 0.9 --action-low -40"
    assert main([*command, "two", *flags.split(), "--action-high", "40", "--test", "m3", "--family", "one"]) == 0
    assert same(load("imported/one"), load("imported/two"))
    capsys.readouterr()
    assert main(["data", "info", "one"]) == 0
    said = capsys.readouterr().out
    assert "2 training and 1 test tasks, 9 episodes, 36 steps" in said
    mean = load("imported/one")[1].returns().mean()
    assert any(line.startswith("m2") and f"{mean:.4g} +-" in line for line in said.splitlines())
    assert main(["data", "check", "one"]) == 0
    assert "can be learned from" in capsys.readouterr().out
    assert main([*command, "whole", *flags.split(), "--action-high", "40", "--task", "-", "--next-obs", "-"]) == 2
    assert "two different rows" in capsys.readouterr().err  # without the task column the machines' rows collide
    assert main([*command, "one", "--mapping", str(tmp_path / "map.toml")]) == 2  # the name is taken
    assert "--overwrite" in capsys.readouterr().err
    share = [*flags.split(), "--action-bounds", "data", "--test-share", "0.3"]
    splits = set()
    for seed in ("0", "1", "2", "0"):
        assert main([*command, "three", *share, "--split-seed", seed, "--overwrite"]) == 0
        splits.add(tuple(t.name for t in load("imported/three").test))
    assert all(len(s) == 1 for s in splits)
    assert 2 <= len(splits) <= 3
    (tmp_path / "map.toml").write_text("[columns]\nreword = 'x'\n")
    with pytest.raises(DataError, match=r"unknown entry 'reword' in \[columns\]"):
        read_mapping(str(tmp_path / "map.toml"))


@pytest.mark.parametrize("layout", ["parquet", "npz", "minari"])
def test_what_is_exported_comes_back_the_same(tmp_path, layout, monkeypatch, capsys):
    monkeypatch.setenv("MERPO_DATA_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("MERPO_CACHE_DIR", "off")
    data = make_set(replace(INFO, action_low=(-1.0, -2.0), action_high=(1.0, 2.0), termination="learned"))
    save(data, "walk/medium")
    out = tmp_path / "out" / ("x" if layout == "minari" else f"x.{layout}")
    assert main(["data", "export", "walk/medium", "--layout", layout, "--out", str(out)]) == 0
    paths = [str(p) for p in sorted((out / "walk/medium").glob("task-*"))] if layout == "minari" else [str(out)]
    more = ["--test", "*-test-*", "--gamma", "0.9"] if layout == "minari" else []
    assert main(["data", "import", *paths, "--layout", layout, "--name", "back", *more]) == 0
    back = load("imported/back")
    if layout == "minari":  # Minari itself reads them; names and parameters are the set's, not Minari's
        for a, b in zip(back, data, strict=True):
            assert a.split == b.split
            for k in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
                np.testing.assert_array_equal(getattr(a.transitions, k), getattr(b.transitions, k))
    else:
        assert same(back, data)
    assert main(["data", "export", "walk/medium", "--layout", layout, "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["data", "export", "walk/medium", "--layout", layout, "--out", str(out), "--overwrite"]) == 0
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]


def test_d4rl_files_with_and_without_time_limits(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(20, 3)),
        "actions": rng.uniform(-1, 1, (20, 2)),
        "rewards": rng.normal(size=20),
        "terminals": np.arange(20) == 7,
        "timeouts": np.isin(np.arange(20), [12, 19]),
    }

    def read(arrays, **settings):
        for name in ("hop", "run"):
            with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
                for key, x in arrays.items():
                    file[key] = x
                file["metadata/algorithm"] = "x"
        done = import_set(
            [str(tmp_path)], "d4rl", "a/b", settings=Settings(**settings), root=str(tmp_path / "s"), overwrite=True
        )
        return done, load("a/b", tmp_path / "s")

    done, data = read(arrays)
    assert [t.name for t in data] == ["hop", "run"]
    assert np.diff(data[0].episode_start).tolist() == [7, 4, 6]  # the last step of each has no successor
    assert codes(done)["last-step-terminated"].startswith("2 of")
    following = np.concatenate([arrays["observations"][1:], rng.normal(size=(1, 3))])
    following[[7, 12]] = rng.normal(size=(2, 3))
    done, data = read(arrays | {"next_observations": following})
    assert np.diff(data[0].episode_start).tolist() == [8, 5, 7]
    assert np.flatnonzero(data[0].transitions.terminated).tolist() == [7]
    np.testing.assert_array_equal(data[0].transitions.next_obs, following.astype(np.float32))
    assert not done.findings
    untimed = {k: v for k, v in arrays.items() if k != "timeouts"}
    with pytest.raises(DataError, match="Pass --horizon"):
        read(untimed)
    done, data = read(untimed, horizon=6)
    assert np.diff(data[0].episode_start).tolist() == [5, 1, 5, 5]
    assert "from-horizon" in codes(done)
    done, data = read(untimed | {"next_observations": following})
    assert np.diff(data[0].episode_start).tolist() == [8, 5, 7]
    assert "from-next" in codes(done)


def test_tables_in_memory(tmp_path):
    table = log()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = from_table(table, family="b", columns=NAMES, gamma=0.9, test=["m2"])
        arrow = from_table(pa.table(table), family="b", columns=NAMES, gamma=0.9, test=["m2"])
    _, stored = read_in(tmp_path, table, gamma=0.9, test=("m2",))
    assert same(data, stored)
    assert same(arrow, stored)

    class Frame:
        """What pandas and polars have in common."""

        def __init__(self):
            self.columns = list(table)

        def __getitem__(self, name):
            return table[name].astype(object) if name == "machine" else table[name]

    assert same(from_table(Frame(), family="b", columns=NAMES, gamma=0.9, test=["m2"]), stored)
    numbered = {
        i: x for i, x in enumerate(table.values())
    }  # columns named by numbers, as arrays turned into frames have
    own = Columns(time="0", task="1", episode="2", obs=("3", "4"), action=("5",), reward="6")
    assert same(from_table(numbered, family="b", columns=own, gamma=0.9, test=["m2"]), stored)
    with pytest.warns(DataWarning, match="out of order"):
        from_table(take(table, np.arange(30)[::-1]), family="b", columns=NAMES)
    stamps = table | {"t": np.datetime64("2024-01-01") + table["t"].astype("timedelta64[s]")}
    assert same(from_table(stamps, family="b", columns=NAMES, gamma=0.9, test=["m2"]), stored)
    with pytest.raises(DataError, match="not a column of numbers"):
        from_table(table | {"gain": np.full(30, "x")}, family="b", columns=NAMES)
    with pytest.raises(DataError, match="expected a DataFrame"):
        from_table(np.zeros((3, 3)), family="b")


class Unknown:
    """What pandas has in nullable columns: whatever one asks of it has no answer."""

    def __ne__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None


def test_objects_in_tables_are_times_and_missing_values():
    table = log()
    read_table = partial(from_table, family="b", columns=NAMES, gamma=0.9, test=["m2"])
    plain = read_table(table)
    zone = timezone(timedelta(hours=2))
    began = datetime(2024, 3, 1, tzinfo=zone)
    for times in (
        [began + timedelta(seconds=float(t)) for t in table["t"]],
        [(began + timedelta(seconds=float(t))).astimezone(UTC) if i % 2 else began + timedelta(seconds=float(t))
         for i, t in enumerate(table["t"])],
        [datetime(2024, 3, 1) + timedelta(seconds=float(t)) for t in table["t"]],
        [float(t) for t in table["t"]],
    ):  # fmt: skip
        assert same(read_table(table | {"t": np.asarray(times, object)}), plain)
    assert same(read_table(table | {"t": table["t"].astype("timedelta64[s]")}), plain)

    obs = table["s1"].astype(object)
    assert same(read_table(table | {"s1": obs.copy()}), plain)
    for unknown in (Unknown(), None, float("nan")):
        obs[3] = unknown
        with pytest.raises(DataError, match="missing or infinite values in 1 of"):
            read_table(table | {"s1": obs})
        stamps = np.asarray([began] * 30, object)
        stamps[4] = unknown
        with pytest.raises(DataError, match="'t' has missing values"):
            read_table(table | {"t": stamps})
        machines = table["machine"].astype(object)
        machines[4] = unknown
        with pytest.raises(DataError, match="'machine' has missing values"):
            read_table(table | {"machine": machines})


def test_settings_and_paths_that_cannot_be(tmp_path):
    for bad, match in [
        ({"gamma": 2}, "a discount"),
        ({"test_share": 1.0}, "between 0 and 1"),
        ({"test": ("a",), "test_share": 0.5}, "not both"),
        ({"action_low": float("nan")}, "finite"),
        ({"horizon": 0}, "at least 1"),
        ({"missing": "keep"}, "'error' or 'drop'"),
    ]:
        with pytest.raises(DataError, match=match):
            Settings(**bad)
    with pytest.raises(StorageError, match="no such file"):
        import_set([str(tmp_path / "none.csv")], "csv", "a/b", root=str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no files ending in"):
        import_set([str(tmp_path / "empty")], "csv", "a/b", root=str(tmp_path))
    with pytest.raises(DataError, match="'m9' is not among the tasks m1, m2"):
        read_in(tmp_path, log(), test=("m9",))
    assert info(read_in(tmp_path, log())[1]).steps == 24
