"""The FOCAL layout: read exactly, and never executed."""

from __future__ import annotations

import copyreg
import os
import pickle
import pickletools
import sys

import numpy as np
import pytest

from focal_makers import trajectory, write_focal
from merpo.cli import main
from merpo.data import import_set, load
from merpo.data.exchange.focal import read_trajectory
from merpo.data.exchange.unpickle import Refused, array_rows
from merpo.errors import DataError, MerpoError


def test_a_folder_round_trips_with_returns_unchanged(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MERPO_DATA_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("MERPO_CACHE_DIR", "off")
    returns = write_focal(tmp_path / "focal", tasks=3)
    command = ["data", "import", str(tmp_path / "focal"), "--layout", "focal", "--name", "ants"]
    assert main([*command, "--test", "goal_idx2"]) == 0
    said = capsys.readouterr().out
    assert "2 training and 1 test tasks, 12 episodes, 54 steps" in said
    data = load("imported/ants")
    assert [t.name for t in data] == list(returns)
    assert [t.split for t in data] == ["train", "train", "test"]
    for task in data:
        np.testing.assert_allclose(task.returns(), returns[task.name], atol=1e-6)
        t, last = task.transitions, task.episode_start[1:] - 1
        assert not t.terminated.any()
        assert np.flatnonzero(t.truncated).tolist() == last.tolist()
    raw = np.load(tmp_path / "focal/goal_idx1/trj_evalsample1_step100.npy", allow_pickle=True)
    own = data[1].select([1]).transitions
    for j, x in ((0, own.obs), (1, own.action), (3, own.next_obs)):
        np.testing.assert_array_equal(x, np.stack(raw[:, j]).astype(np.float32))
    assert main(["data", "info", "ants"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("goal_idx1"))
    assert f"{np.mean(returns['goal_idx1']):.4g} +-" in line


def test_checkpoints_choose_the_files(tmp_path):
    returns = write_focal(tmp_path / "focal")
    import_set([str(tmp_path / "focal")], "focal", "a/b", checkpoints=[200], root=str(tmp_path / "s"))
    np.testing.assert_allclose(load("a/b", tmp_path / "s")[0].returns(), returns["goal_idx0"][2:], rtol=1e-6)
    with pytest.raises(DataError, match=r"of the steps \[7\]"):
        import_set([str(tmp_path / "focal")], "focal", "a/c", checkpoints=[7], root=str(tmp_path / "s"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_understood(protocol):
    rows = trajectory(np.random.default_rng(protocol), 5)
    rows[0, 0] = np.asfortranarray(np.arange(3.0).reshape(1, 3).astype(">f4"))
    rows[1, 0] = np.array([1, 2, 3])
    rows[2, 2] = 10**12
    shape, items = array_rows(pickle.dumps(rows, protocol=protocol))
    assert shape == (5, 4)
    for got, true in zip(items, rows.ravel(), strict=True):
        np.testing.assert_array_equal(got, true)


class Bomb:
    """Runs its function when it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class State:
    """Unpickled by BUILD."""

    def __init__(self):
        self.x = 1

    def __setstate__(self, state):
        open(state["path"], "w").close()

    def __getstate__(self):
        return {"path": "built"}


def streams(flag: str) -> dict[str, bytes]:
    """Streams that would create the file `flag` (or run some other code) if they were unpickled."""
    code = f"open({flag!r}, 'w').close()"
    touch = f"touch {flag}".encode()
    array = pickle.dumps(trajectory(np.random.default_rng(0)), protocol=2)
    rows = np.empty((1, 4), object)
    rows[0] = [np.zeros(3), np.zeros(2), Bomb(os.system, f"touch {flag}"), np.zeros(3)]
    return {
        "REDUCE": pickle.dumps(Bomb(os.system, f"touch {flag}"), protocol=2),
        "REDUCE protocol 0": b"cos\nsystem\n(S'" + touch + b"'\ntR.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(touch)]) + touch + b"\x85R.",
        "eval in an item": pickle.dumps(rows, protocol=4),
        "exec": pickle.dumps(Bomb(exec, code), protocol=4),
        "INST": b"(S'" + touch + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + touch + b"'\no.",
        "NEWOBJ": b"\x80\x02cos\nsystem\n(S'x'\nt\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n)}\x92.",
        "BUILD": pickle.dumps(State(), protocol=2),
        "BUILD on a function": array[:-1] + b"cnumpy.core.multiarray\n_reconstruct\n}b.",
        "BUILD with attributes": b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00xK\x01sb.",
        "EXT1": b"\x80\x02\x82\x01(S'" + touch + b"'\ntR.",
        "EXT2": b"\x80\x02\x83\x01\x00.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
        "PERSID": b"Pos.system\n.",
        "BINPERSID": b"K\x01Q.",
        "numpy load": b"cnumpy\nload\n(S'x'\ntR.",
        "numpy attribute path": b"\x80\x04\x8c\x05numpy\x8c\x0ecore.os.system\x93.",
        "numpy testing": b"cnumpy.testing._private.utils\nrunstring\n(S'"
        + code.replace("'", '"').encode()
        + b"'\n}tR.",
        "getattr": b"c__builtin__\ngetattr\n(cnumpy\nndarray\nS'mro'\ntR.",
        "encode with another codec": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
        "object dtype from bytes": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'AAAAAAAA'\ntR.",
        "subclass": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(K\x00tC\x01btR.",
        "dtype with fields": pickle.dumps(np.zeros(3, [("a", "f4")]), protocol=2),
        "dictionary": pickle.dumps({"a": 1}, protocol=4),
        "set": pickle.dumps({1, 2}, protocol=4),
        "plain array": pickle.dumps(np.zeros(3), protocol=4),
        "huge integer": b"\x80\x02\x8b\x00\x00\x00\x40" + b"a" * 64 + b".",
        "self-reference": b"]q\x00h\x00a.",
    }


@pytest.mark.parametrize("name", streams("x"))
def test_nothing_can_be_smuggled_in(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stream = streams(str(tmp_path / "flag"))[name]
    ran = []
    for attack in ("system", "popen"):
        monkeypatch.setattr(os, attack, lambda *a: ran.append(a))
    monkeypatch.setitem(copyreg._inverted_registry, 1, ("os", "system"))  # type: ignore[attr-defined]
    monkeypatch.setitem(copyreg._extension_cache, 1, os.system)  # type: ignore[attr-defined]
    hooks = []
    watching = [True]
    sys.addaudithook(lambda event, args: hooks.append(event) if watching[0] else None)
    before = set(sys.modules)
    hooks.clear()
    try:
        with pytest.raises(Refused) as caught:
            array_rows(stream)
        bad = {"os.system", "exec", "compile", "import", "pickle.find_class", "subprocess.Popen", "open"} & set(hooks)
    finally:
        watching[0] = False
    assert not bad
    assert set(sys.modules) == before
    assert not ran
    assert os.listdir(tmp_path) == []
    assert str(caught.value)


def test_the_smuggled_streams_are_live(tmp_path, monkeypatch):
    """The control: Python's own unpickler does run them, so the test above would notice."""
    monkeypatch.chdir(tmp_path)
    made = streams("flag")
    ran = []
    monkeypatch.setattr(os, "system", lambda *a: ran.append(a))
    for name in ("REDUCE protocol 0", "STACK_GLOBAL", "INST", "OBJ"):
        pickle.loads(made[name])
    pickle.loads(made["exec"])
    assert len(ran) == 4
    assert (tmp_path / "flag").exists()


def test_only_known_opcodes_have_a_meaning():
    """Of all opcodes that import, call or build, none but GLOBAL, STACK_GLOBAL, REDUCE and BUILD is understood."""
    from merpo.data.exchange.unpickle import TABLE

    understood = {o.name for o in pickletools.opcodes if ord(o.code) in TABLE}
    dangerous = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"}
    assert not understood & dangerous
    assert {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"} <= understood


def test_a_malicious_folder_is_refused_and_nothing_is_stored(tmp_path):
    write_focal(tmp_path / "focal")
    rows = trajectory(np.random.default_rng(0))
    rows[3, 1] = Bomb(os.system, f"touch {tmp_path / 'flag'}")
    np.save(tmp_path / "focal/goal_idx1/trj_evalsample1_step200.npy", rows, allow_pickle=True)
    with pytest.raises(DataError, match=r"refused, nothing was executed: the name (posix|nt).system"):
        import_set([str(tmp_path / "focal")], "focal", "a/b", root=str(tmp_path / "s"))
    assert not (tmp_path / "flag").exists()
    assert not (tmp_path / "s/a/b").exists()
    assert not list((tmp_path / "s/a").glob(".tmp-*"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda rows: rows[:, :3], "one row per step with the 4 columns"),
        (lambda rows: rows[:0], None),
        (lambda rows: np.zeros((4, 4)), "an array of float64, expected an object array"),
        (lambda rows: _put(rows, (2, 0), np.zeros(4)), "obs has 3 numbers in row 0 and 4 in row 2"),
        (lambda rows: _put(rows, (1, 2), np.zeros(2)), "reward has 1 numbers in row 0 and 2 in row 1"),
        (lambda rows: _put(rows, (0, 1), "left"), "action in row 0 is str"),
        (lambda rows: _put(rows, (slice(None), 3), [np.zeros(2)] * len(rows)), "obs has 3 numbers, next_obs 2"),
    ],
)
def test_files_of_another_make_are_explained(tmp_path, change, match):
    np.save(tmp_path / "x.npy", change(trajectory(np.random.default_rng(0))), allow_pickle=True)
    if match is None:
        assert read_trajectory(tmp_path / "x.npy") is None
        return
    with pytest.raises(MerpoError, match=match):
        read_trajectory(tmp_path / "x.npy")


def _put(rows, where, what):
    if isinstance(what, list):
        for i, x in enumerate(what):
            rows[i, where[1]] = x
    else:
        rows[where] = what
    return rows
