"""The state of unfinished work on the disk: whose it is, what a kill or a full disk leaves, how often it is saved."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from merpo.algorithms.health import Where, check_figures, check_state
from merpo.errors import ConfigError, DivergenceError, StorageError, VersionWarning
from merpo.runs import Checkpoints, locked
from merpo.runs import state as module
from test_api_fit import TINY

WORK = {"kind": "fit", "seeds": [0, 1], "config": {"rac": {"lam": 0.1}}, "data": "ab"}


def tree(value: float):
    return {"w": np.full((2, 3), value, np.float32), "n": jnp.asarray(3, jnp.int32)}


@pytest.fixture
def folder(tmp_path):
    """A folder with the state of round 5."""
    with Checkpoints(tmp_path / "state").of(WORK) as states:
        states.save("slot", 5, tree(1.0))
    return tmp_path / "state"


def taken_up(folder, work=WORK):
    with Checkpoints(folder).of(work) as states:
        done, found = states.load("slot", lambda done: tree(float(done)))
        return done, float(found["w"][0, 0])


def test_what_was_saved_is_taken_up_with_the_time_it_took(folder):
    states = Checkpoints(folder)
    with states.of(WORK):
        assert states.load("other", lambda done: tree(0.0)) is None
        done, found = states.load("slot", lambda done: tree(0.0))
        states._begun -= 100.0  # as if this process had worked for 100 s
        states.save("slot", done + 1, found)
    with Checkpoints(folder).of(WORK) as later:
        assert later.load("slot", lambda done: tree(0.0))[0] == 6
        assert 100.0 < later.seconds < 200.0
    states.clear()
    assert not folder.exists()
    states.clear()  # harmless twice


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "cd"}, "data: 'ab' -> 'cd'"),
        ({"seeds": [0]}, r"seeds: \[0, 1\] -> \[0\]"),
        ({"config": {"rac": {"lam": 0.2}}}, r"config.rac.lam: 0.1 -> 0.2"),
        ({"kind": "adapt", "learned": "ef"}, r"kind: 'fit' -> 'adapt', learned: \(absent\) -> 'ef'"),
    ],
)
def test_other_work_is_refused_by_name(folder, change, message):
    with pytest.raises(ConfigError, match=message):
        taken_up(folder, WORK | change)
    assert taken_up(folder) == (5, 1.0)


def test_a_state_from_another_folder_is_refused(folder, tmp_path):
    with Checkpoints(tmp_path / "other").of(WORK | {"data": "cd"}) as states:
        states.save("slot", 7, tree(2.0))
    os.replace(tmp_path / "other" / "slot.safetensors", folder / "slot.safetensors")
    with pytest.raises(StorageError, match="the state of other work"):
        taken_up(folder)


def test_other_code_is_warned_of(folder, monkeypatch):
    monkeypatch.setattr(module, "code_hash", lambda: "0" * 16)
    with pytest.warns(VersionWarning, match=r"code: '[0-9a-f]{16}' -> '0{16}'.*last bits"):
        assert taken_up(folder) == (5, 1.0)


def test_one_process_at_a_time_and_no_foreign_folder(folder, tmp_path):
    with locked(folder):
        with pytest.raises(StorageError, match="in use by another process"):
            taken_up(folder)
        with pytest.raises(StorageError, match="in use by another process"):
            Checkpoints(folder).clear()
    assert taken_up(folder) == (5, 1.0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(StorageError, match=r"holds thesis.tex but no work.json"):
        taken_up(tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_leaves_the_old_state(folder, monkeypatch, code):
    with Checkpoints(folder).of(WORK) as states:

        def fail(*args):
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(StorageError, match="disk is full" if code == errno.ENOSPC else "read-only"):
                states.save("slot", 6, tree(2.0))
    assert taken_up(folder) == (5, 1.0)
    assert sorted(os.listdir(folder)) == [".lock", "slot.safetensors", "work.json"]


def test_a_damaged_state_says_what_to_delete(folder):
    path = folder / "slot.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"damaged.*begin this stage anew, delete that file"):
        taken_up(folder)
    path.unlink()
    with Checkpoints(folder).of(WORK) as states:
        assert states.load("slot", lambda done: tree(0.0)) is None


def test_a_kill_while_saving_leaves_the_old_state(folder):
    code = (
        "import json, os, signal, sys, numpy as np\nfrom merpo.runs import Checkpoints\n"
        "with Checkpoints(sys.argv[1]).of(json.loads(sys.argv[2])) as states:\n"
        "    os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    states.save('slot', 6, {'w': np.zeros((2, 3), np.float32), 'n': np.int32(1)})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, folder, json.dumps(WORK)], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert len(list(folder.glob(".*.tmp"))) == 1
    assert taken_up(folder) == (5, 1.0)
    assert not list(folder.glob(".*.tmp"))


def test_saving_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def slow(*args):
        now[0] += 4.0

    monkeypatch.setattr(module, "save_checkpoint", slow)
    states, saves = Checkpoints(tmp_path / "s", every=60.0), []
    with states.of(WORK):
        for _ in range(1000):
            now[0] += 1.0
            if states.due("slot"):
                saves.append(now[0])
                states.save("slot", 1, tree(0.0))
    assert saves[:2] == [61.0, 61.0 + 4.0 + 200.0]  # the first a minute in, then 4 s of every 200
    assert states.saves == len(saves)
    assert states.spent == 4.0 * len(saves)
    eager = Checkpoints(tmp_path / "e", every=0.0)
    with eager.of(WORK):
        eager.save("slot", 1, tree(0.0))
        assert eager.due("slot")
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="every="):
            Checkpoints(tmp_path, every=bad)
    with pytest.raises(ConfigError, match="slot="):
        eager.save("../up", 1, tree(0.0))


WHERE = Where("meta-training", (3, 5), ("a", "b", "c"), TINY)


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("critic/td", np.nan, r"Lower rac.critic_lr \(now 0.001\)"),
        ("critic/q_data", 2e6, "Lower rac.critic_lr"),
        ("actor/clone", -np.inf, r"Lower rac.actor_lr \(now 0.0003\)"),
        ("meta/kl", 1e13, r"Lower meta_lr \(now 0.001\)"),
        ("dynamics/nll", np.inf, r"Lower dynamics.learning_rate \(now 0.001\)"),
    ],
)
def test_divergence_names_task_seed_figure_and_what_to_lower(name, value, advice):
    figures = {"actor/q": np.zeros((2, 6)), name: np.zeros((2, 6))}
    check_figures(figures, WHERE, "updates 1 to 8 of 8")
    figures[name][1, 4] = value
    match = rf"meta-training diverged, updates 1 to 8 of 8: {name} of task 'b', seed 5 is .*{advice}.*merpo data check"
    with pytest.raises(DivergenceError, match=match):
        check_figures(figures, WHERE, "updates 1 to 8 of 8")
    with pytest.raises(DivergenceError, match="of task 'c', seed 3"):
        check_figures({name: np.asarray([0.0, value])}, WHERE, "now", jobs=[0, 2])


def test_large_but_sane_figures_pass():
    check_figures({"critic/td": np.full((1, 6), 1e9), "actor/q": np.full((1, 6), 1e4)}, WHERE, "now")


def test_a_state_with_nan_names_the_parameter_and_whose_it_is():
    state = {"learners": {"critic": np.zeros((6, 4))}, "metas": {"actor": np.zeros((2, 3))}, "step": np.zeros(6, int)}
    check_state(state, WHERE, "now")
    state["learners"]["critic"][5, 1] = np.nan
    with pytest.raises(DivergenceError, match=r"learners.critic of task 'c', seed 5 holds NaN.*critic_lr"):
        check_state(state, WHERE, "now")
    state["learners"]["critic"][5, 1] = 0.0
    state["metas"]["actor"][1, 0] = np.inf
    with pytest.raises(DivergenceError, match=r"metas.actor of seed 5 holds NaN.*meta_lr"):
        check_state(state, WHERE, "now")
