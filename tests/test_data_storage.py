"""Sets on disk: written whole or not at all, read exactly as written, every fault a clear StorageError."""

from __future__ import annotations

import builtins
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from merpo.data import Bounds, TaskSet, default_root, disk, list_sets, load, remove, save, storage
from merpo.errors import DataError, StorageError
from test_data_makers import INFO, changed, make_set, make_task, same

NAME = "walk/medium"


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def leftovers(root: Path) -> list[Path]:
    return list(root.glob("*/.tmp-*"))


def test_what_is_loaded_is_what_was_saved(tmp_path):
    data = make_set()
    assert save(data, NAME, tmp_path) == tmp_path / NAME
    assert same(load(NAME, tmp_path), data)
    assert same(load(NAME, tmp_path, verify=False), data)
    assert not leftovers(tmp_path)


def test_the_minari_files_alone_give_the_same(tmp_path):
    data = make_set()
    (save(data, NAME, tmp_path) / "flat.npz").unlink()
    assert same(load(NAME, tmp_path), data)


def test_a_stale_flat_copy_is_passed_over(tmp_path):
    data = make_set()
    folder = save(data, NAME, tmp_path)
    save(TaskSet(INFO, (make_task(seed=9),)), "walk/other", tmp_path)
    (folder / "flat.npz").write_bytes((tmp_path / "walk/other/flat.npz").read_bytes())
    assert same(load(NAME, tmp_path), data)


@pytest.mark.parametrize("flat", [True, False])
def test_successors_that_are_not_the_next_row_and_bad_values_survive(tmp_path, flat):
    data = make_set()
    odd = changed(changed(data[0], "next_obs", 2, 7.0), "obs", 4, np.nan)
    data = replace(data, tasks=(odd, *data.tasks[1:]))
    folder = save(data, NAME, tmp_path)
    if not flat:
        (folder / "flat.npz").unlink()
    assert same(load(NAME, tmp_path), data)


def test_every_field_of_the_description_survives(tmp_path):
    info = replace(
        INFO,
        action_low=(-1.0, -2.5),
        action_high=(1.0, 0.1),
        termination="bounds",
        healthy=(Bounds(0, 0.2, 1.0), Bounds(2, -float("inf"), 3.0)),
        physics="legacy",
        versions=(("mujoco", "3.4.0"), ("numpy", "2.0")),
    )
    task = make_task("left leg / 1.5 x")
    # NumPy values and integers come back as plain floats
    object.__setattr__(task, "parameters", {"inertia": np.ones(3), "n": np.float32(0.1), "d": -1})
    save(TaskSet(info, (task,)), NAME, tmp_path)
    again = load(NAME, tmp_path)
    assert again.info == info
    assert again[0].name == "left leg / 1.5 x"
    assert again[0].parameters == {"inertia": [1.0] * 3, "n": float(np.float32(0.1)), "d": -1}


def test_the_same_content_gives_the_same_bytes(tmp_path):
    save(make_set(), NAME, tmp_path / "one")
    time.sleep(1.1)  # HDF5 would stamp whole seconds
    save(make_set(), NAME, tmp_path / "two")
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert len(one) == 2 * 3 + 4
    assert one == two


def test_one_step_episodes_and_tasks(tmp_path):
    data = TaskSet(replace(INFO, horizon=1), (make_task(lengths=(1,)), make_task("b", lengths=(1, 1), seed=2)))
    folder = save(data, NAME, tmp_path)
    assert same(load(NAME, tmp_path), data)
    (folder / "flat.npz").unlink()
    assert same(load(NAME, tmp_path), data)


def test_long_episodes(tmp_path):
    data = TaskSet(INFO, (make_task(lengths=(40_000,)),))  # beyond a compact data set, and 16 bits
    (save(data, NAME, tmp_path) / "flat.npz").unlink()
    assert same(load(NAME, tmp_path), data)


def test_listing_and_removing(tmp_path):
    assert list_sets(tmp_path / "nowhere") == []
    save(make_set(), NAME, tmp_path)
    save(make_set(), "walk/expert", tmp_path)
    entries = list_sets(tmp_path)
    assert [e.name for e in entries] == ["walk/expert", NAME]
    e = entries[0]
    assert (e.info, e.train_tasks, e.test_tasks, e.episodes, e.steps) == (INFO, 2, 1, 9, 39)
    assert e.bytes == sum(len(b) for b in files(tmp_path / "walk/expert").values())
    (tmp_path / "walk/expert/merpo.json").write_text("{")
    assert "not valid JSON" in str(list_sets(tmp_path)[0].damage)
    remove("walk/expert", tmp_path)
    assert [e.name for e in list_sets(tmp_path)] == [NAME]
    assert not leftovers(tmp_path)


def test_the_default_root(tmp_path, monkeypatch):
    monkeypatch.delenv("MERPO_DATA_DIR", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".merpo/datasets"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert default_root() == tmp_path / "xdg/merpo/datasets"
    monkeypatch.setenv("MERPO_DATA_DIR", str(tmp_path / "mine"))
    save(make_set(), NAME)
    assert same(load(NAME), make_set())
    assert (tmp_path / "mine/walk/medium/merpo.json").is_file()
    assert len(list_sets()) == 1


def test_a_missing_set_names_what_there_is(tmp_path):
    with pytest.raises(StorageError, match="Present: none"):
        load(NAME, tmp_path)
    save(make_set(), NAME, tmp_path)
    with pytest.raises(StorageError, match=r"no such data set.*Did you mean 'walk/medium'\? Present: walk/medium"):
        load("walk/medum", tmp_path)
    with pytest.raises(StorageError, match="no such data set"):
        remove("walk/expert", tmp_path)
    (tmp_path / "walk/foreign").mkdir()
    with pytest.raises(StorageError, match="not a merpo data set"):
        load("walk/foreign", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "medium",
        "/etc/passwd",
        "../up",
        "walk/..",
        "walk/../../up",
        "a/b/c",
        "walk/",
        "walk\\x",
        "-a/b",
        "wa lk/m",
        "walk/m\n",
        "walk/.tmp-x",
    ],
)
def test_names_that_are_not_allowed(tmp_path, name):
    for act in (
        lambda: save(make_set(), name, tmp_path),
        lambda: load(name, tmp_path),
        lambda: remove(name, tmp_path),
    ):
        with pytest.raises(StorageError, match="expected 'namespace/name'"):
            act()
    assert not list(tmp_path.iterdir())


def test_overwriting_is_asked_for(tmp_path):
    first, second = make_set(), TaskSet(INFO, (make_task(seed=7),))
    save(first, NAME, tmp_path)
    with pytest.raises(StorageError, match=r"already at .* overwrite=True"):
        save(second, NAME, tmp_path)
    assert same(load(NAME, tmp_path), first)
    save(second, NAME, tmp_path, overwrite=True)
    assert same(load(NAME, tmp_path), second)
    assert not leftovers(tmp_path)


def test_unsound_sets_are_not_stored(tmp_path):
    twice = TaskSet(INFO, (make_task(), make_task()))
    with pytest.raises(DataError, match="used 2 times"):
        save(twice, NAME, tmp_path)
    for bad in ({"m": float("nan")}, {"m": "heavy"}, {"m": [1.0, [2.0]]}, {"m": [[1.0]]}):
        task = make_task()
        object.__setattr__(task, "parameters", bad)
        with pytest.raises(DataError, match=r"parameters\['m'\]"):
            save(TaskSet(INFO, (task,)), NAME, tmp_path)
    assert list_sets(tmp_path) == []
    assert not leftovers(tmp_path)


def test_changed_minari_files_are_noticed(tmp_path):
    folder = save(make_set(), NAME, tmp_path)
    path = folder / "task-001-train-v2/data/main_data.hdf5"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(StorageError, match=r"task-001.*SHA-256 differs.*verify=False"):
        load(NAME, tmp_path)
    assert same(load(NAME, tmp_path, verify=False), make_set())
    (folder / "flat.npz").unlink()
    with pytest.raises(StorageError, match="SHA-256 differs"):
        load(NAME, tmp_path, verify=False)
    path.unlink()
    with pytest.raises(StorageError, match="does not exist: check the path, or restore"):
        load(NAME, tmp_path)


def test_descriptions_of_others(tmp_path):
    path = save(make_set(), NAME, tmp_path) / "merpo.json"
    good = json.loads(path.read_text())
    for text, match in [
        ("[1, 2]", "no format 'merpo-dataset'"),
        (json.dumps({**good, "format": "other"}), "no format"),
        (json.dumps({**good, "format_version": 2}), "format_version=2, expected 1: update merpo"),
        (json.dumps({**good, "flat_sha256": "0"}), "does not match its own SHA-256"),
        ("\ufeff{}", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("1" * 10_000, "not valid JSON"),
        ('{"format": "merpo-dataset", "format_version": 1, "x": NaN}', "does not match its own SHA-256"),
        ("", "not valid JSON"),
    ]:
        path.write_text(text)
        with pytest.raises(StorageError, match=match):
            load(NAME, tmp_path)


class Stop(BaseException):
    """Stands for a kill: no handler for ordinary errors sees it."""


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("error", [Stop(), OSError(errno.ENOSPC, "No space left on device")])
def test_stopping_at_any_write_leaves_the_earlier_set_or_none(tmp_path, monkeypatch, overwrite, error):
    first, second = make_set(), TaskSet(INFO, (make_task(seed=7), make_task("b", seed=8)))
    if overwrite:
        save(first, NAME, tmp_path)
    before = files(tmp_path)
    write, rename = disk.write, os.rename
    for stop_at in range(50):
        calls = 0

        def step(act, *args, stop_at=stop_at):
            nonlocal calls
            calls += 1
            if calls > stop_at:
                if act is write:  # half of it reaches the disk
                    write(args[0], args[1][: len(args[1]) // 2])
                raise error
            act(*args)

        with monkeypatch.context() as m:
            m.setattr(disk, "write", lambda *a: step(write, *a))
            m.setattr(disk, "append", lambda *a, act=disk.append: step(act, *a))
            m.setattr(disk, "archive", lambda *a, act=disk.archive: step(act, *a))
            m.setattr(storage.os, "rename", lambda *a: step(rename, *a))
            try:
                save(second, NAME, tmp_path, overwrite=overwrite)
                break
            except (Stop, StorageError) as caught:
                if isinstance(error, OSError):
                    assert "The disk is full" in str(caught)  # noqa: PT017
        now = {k: v for k, v in files(tmp_path).items() if not k.startswith("walk/namespace")}
        if overwrite and "walk/.tmp-old-medium/merpo.json" in now:  # stopped between the renames, all of them broken
            now = {k.replace(".tmp-old-medium", "medium"): v for k, v in now.items()}
        assert now == {k: v for k, v in before.items() if not k.startswith("walk/namespace")}
        if overwrite:
            assert same(load(NAME, tmp_path), first)
        else:
            assert list_sets(tmp_path) == []
    else:
        pytest.fail("never got through")
    assert stop_at >= 22
    assert same(load(NAME, tmp_path), second)
    assert not leftovers(tmp_path)


def child(tmp_path: Path, body: str) -> subprocess.Popen:
    code = textwrap.dedent(body)
    path = [str(Path(__file__).parent), *(p for p in sys.path if p)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "ROOT": str(tmp_path)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_nothing_that_is_taken_for_whole(tmp_path):
    save(make_set(), "walk/before", tmp_path)
    process = child(
        tmp_path,
        """
        import os, time
        from test_data_makers import make_set
        from merpo.data import disk, save
        write, count = disk.write, 0
        def slow(path, content):
            global count
            count += 1
            write(path, content[: len(content) // 2] if count == 5 else content)
            if count == 5:
                print("now", flush=True)
                time.sleep(60)
        disk.write = slow
        save(make_set(), "walk/medium", os.environ["ROOT"])
        """,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(leftovers(tmp_path)) == 1
    assert [e.name for e in list_sets(tmp_path)] == ["walk/before"]
    with pytest.raises(StorageError, match="no such data set"):
        load(NAME, tmp_path)
    save(make_set(), NAME, tmp_path)  # its lock died with it
    assert not leftovers(tmp_path)
    assert same(load(NAME, tmp_path), make_set())


def test_a_kill_between_the_renames_of_an_overwrite_keeps_the_earlier_set(tmp_path):
    folder = save(make_set(), NAME, tmp_path)
    os.rename(folder, tmp_path / "walk/.tmp-old-medium")
    assert same(load(NAME, tmp_path), make_set())
    assert [e.name for e in list_sets(tmp_path)] == [NAME]
    save(make_set(), "walk/other", tmp_path)  # any save in the namespace puts it back
    assert folder.is_dir()
    assert not leftovers(tmp_path)
    os.rename(folder, tmp_path / "walk/.tmp-old-medium")
    remove(NAME, tmp_path)
    assert [e.name for e in list_sets(tmp_path)] == ["walk/other"]


def test_a_real_write_that_fails_half_way(tmp_path):
    process = child(
        tmp_path,
        """
        import os, resource, signal
        from test_data_makers import make_set
        from merpo.data import save
        from merpo.errors import StorageError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            save(make_set(), "walk/medium", os.environ["ROOT"])
        except StorageError as error:
            os.write(1, str(error).encode())
        """,
    )
    out, _ = process.communicate(timeout=60)
    assert "Cannot save the data set 'walk/medium'" in out
    assert not leftovers(tmp_path)
    assert list_sets(tmp_path) == []


def test_roots_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="A part of the path is a file"):
        save(make_set(), NAME, tmp_path / "file")
    with pytest.raises(StorageError, match="A part of the path is a file"):
        list_sets(tmp_path / "file")
    save(make_set(), NAME, tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as m:
        m.setattr(storage.tempfile, "mkdtemp", refuse)
        for act in (lambda: save(make_set(), "walk/x", tmp_path), lambda: remove(NAME, tmp_path)):
            with pytest.raises(StorageError, match="You lack the permission"):
                act()
    with monkeypatch.context() as m:
        m.setattr(Path, "read_bytes", refuse)
        with pytest.raises(StorageError, match=r"Cannot read .* You lack the permission"):
            load(NAME, tmp_path)
    assert same(load(NAME, tmp_path), make_set())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_root(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="You lack the permission"):
            save(make_set(), NAME, tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_without_the_extra_the_error_says_what_to_install(tmp_path, monkeypatch):
    save(make_set(), NAME, tmp_path)
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] in ("h5py", "minari"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    for module in [m for m in sys.modules if m.split(".")[0] in ("h5py", "minari")]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(StorageError, match=r"h5py.*pip install 'merpo\[data\]'"):
        save(make_set(), "walk/other", tmp_path)
    assert same(load(NAME, tmp_path), make_set())  # the flat copy needs nothing
    assert not leftovers(tmp_path)


def test_the_data_room_imports_neither_minari_nor_gymnasium(tmp_path):
    process = child(
        tmp_path,
        """
        import os, sys
        from test_data_makers import make_set
        from merpo.data import save, load
        save(make_set(), "walk/medium", os.environ["ROOT"])
        load("walk/medium", os.environ["ROOT"])
        print(sorted({"minari", "gymnasium", "PIL", "mujoco"} & sys.modules.keys()))
        """,
    )
    out, _ = process.communicate(timeout=60)
    assert out == "[]\n"


def test_many_short_episodes_are_quick(tmp_path):
    """A quarter of 100 tasks x 50 episodes x 20 steps, for which 10 s and 3 s are allowed."""
    tasks = tuple(make_task(f"t{i}", lengths=(20,) * 50, seed=i) for i in range(25))
    clock = time.process_time()
    save(TaskSet(INFO, tasks), NAME, tmp_path)
    saved = time.process_time()
    load(NAME, tmp_path)
    loaded = time.process_time()
    assert saved - clock < 2.5
    assert loaded - saved < 0.75
