from __future__ import annotations

import errno
import io
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from merpo.errors import ConfigError, StorageError
from merpo.runs import Progress, RunFolder, read_config, read_metrics, versions


@dataclass(frozen=True)
class Config:
    seed: int = 0
    alpha: float = 0.4


@dataclass(frozen=True)
class Other:
    seed: int = 0


def test_a_run_from_start_to_resume(tmp_path):
    path = tmp_path / "runs" / "first"
    with RunFolder.create(path, Config(), {"mujoco": "3.4.0"}) as run:
        run.log(0, loss=jnp.asarray(1.5), value=np.float32(2.0))
        run.log(10, loss=math.nan, value=-math.inf)
        assert not run.has_checkpoint()
        run.save({"w": jnp.arange(3.0)}, {"step": 10})
        run.log(20, loss=0.5)
    assert read_config(path, Config) == Config()
    made_with = json.loads((path / "versions.json").read_text())
    assert made_with["mujoco"] == "3.4.0"
    assert {"python", "jax", "merpo", "numpy", "platform", "cpu_count", "matmul_precision"} <= set(made_with)
    rows = read_metrics(path)
    assert rows[0] == {"step": 0, "loss": 1.5, "value": 2.0}
    assert math.isnan(rows[1]["loss"])
    assert rows[1]["value"] == -math.inf

    with RunFolder.create(path, Config(), existing="resume") as run:
        tree, meta = run.load({"w": jnp.zeros(3)})
        assert meta["step"] == 10
        assert tree["w"].tolist() == [0.0, 1.0, 2.0]
        run.rewind(meta["step"])
        run.log(20, loss=0.25)
    assert [(r["step"], r["loss"]) for r in read_metrics(path)[::2]] == [(0, 1.5), (20, 0.25)]
    assert len(read_metrics(path)) == 3


def test_an_existing_run_is_refused_resumed_or_overwritten(tmp_path):
    with RunFolder.create(tmp_path, Config()) as run:
        run.log(1, loss=1.0)
        run.save(jnp.zeros(2), {})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"already holds a run.*resume or overwrite"):
        RunFolder.create(tmp_path, Config())
    with pytest.raises(ConfigError, match=r"seed: 0 -> 3, alpha: 0\.4 -> 0\.5"):
        RunFolder.create(tmp_path, Config(3, 0.5), existing="resume")
    with pytest.raises(ConfigError, match="it is a Config, not a Other"):
        RunFolder.create(tmp_path, Other(), existing="resume")
    with pytest.raises(ConfigError, match="holds a Config, expected a Other"):
        read_config(tmp_path, Other)
    with RunFolder.create(tmp_path, Config(3), existing="overwrite") as run:
        assert run.metrics() == []
        assert not run.has_checkpoint()
    assert read_config(tmp_path, Config) == Config(3)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="existing="):
        RunFolder.create.__wrapped__(RunFolder, tmp_path, Config(), None, "maybe")


@pytest.mark.parametrize("policy", ["refuse", "overwrite", "resume"])
def test_a_foreign_folder_is_left_alone(tmp_path, policy):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StorageError, match=r"holds thesis.tex but no config.json"):
        RunFolder.create(tmp_path, Config(), existing=policy)
    (tmp_path / "config.json").write_text('{"theirs": 1}')
    with pytest.raises(StorageError, match="of a merpo run"):
        RunFolder.create(tmp_path, Config(), existing=policy)
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(StorageError, match="is not JSON"):
        RunFolder.create(tmp_path, Config(), existing=policy)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "thesis.tex"]


def test_a_half_written_line_is_tolerated_then_cut(tmp_path):
    with RunFolder.create(tmp_path, Config()) as run:
        run.log(1, loss=1.0)
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"step": 2, "lo')
    assert [r["step"] for r in read_metrics(tmp_path)] == [1]
    with RunFolder.create(tmp_path, Config(), existing="resume") as run:
        run.log(2, loss=2.0)
    assert [r["loss"] for r in read_metrics(tmp_path)] == [1.0, 2.0]
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write("garbage\n")
    with pytest.raises(StorageError, match="line 3: b'garbage'"):
        read_metrics(tmp_path)


def test_one_process_at_a_time(tmp_path):
    code = (
        "import sys\nfrom dataclasses import dataclass\nfrom merpo.runs import RunFolder\n"
        "@dataclass(frozen=True)\nclass Config:\n    seed: int = 0\n    alpha: float = 0.4\n"
        "try:\n    RunFolder.create(sys.argv[1], Config(), existing='resume')\n    print('opened')\n"
        "except OSError as e:\n    print(type(e).__name__, e)\n"
    )

    def other() -> str:
        return subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout

    with RunFolder.create(tmp_path, Config()) as run:
        run.log(1, loss=1.0)
        with pytest.raises(StorageError, match="in use by another process"):
            RunFolder.create(tmp_path, Config(), existing="overwrite")
        assert "StorageError" in other()
        assert run.metrics() == [{"step": 1, "loss": 1.0}]
    assert other() == "opened\n"
    run.close()


def test_a_disk_that_fills_while_logging_leaves_whole_lines(tmp_path, monkeypatch):
    real = os.write
    with RunFolder.create(tmp_path, Config()) as run:
        run.log(1, loss=1.0)

        def nearly_full(handle, data):
            if data.startswith(b'{"step"'):
                return real(handle, data[:5])  # takes a part, then raises on the rest
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", nearly_full)
        with pytest.raises(StorageError, match="disk is full"):
            run.log(2, loss=2.0)
        monkeypatch.undo()
        run.log(3, loss=3.0)
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 3]


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"a file, not a folder|Check the path"):
        RunFolder.create(tmp_path / "file" / "run", Config())
    real = os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(StorageError, match="read-only: choose another folder"):
        RunFolder.create(tmp_path / "run", Config())
    monkeypatch.undo()
    with pytest.raises(StorageError, match="does not exist"):
        read_config(tmp_path / "nothing", Config)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="permission"):
        RunFolder.create(tmp_path / "run", Config())


def test_versions_are_json():
    assert json.loads(json.dumps(versions()))["cpu_count"] >= 1


def test_progress_prints_plain_lines_without_a_terminal():
    out = io.StringIO()
    with Progress(4, "fitting", every=0.0, stream=out) as p:
        p.update(1, loss=jnp.asarray(0.5))
        p.update(3, loss=0.25, value=1.0)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("fitting: 1/4 (25 %)")
    assert "updates/s" in lines[0]
    assert "left" in lines[0]
    assert lines[0].endswith("loss 0.5")
    assert lines[-1].startswith("fitting: 4/4 (100 %)")
    assert lines[-1].endswith("loss 0.25  value 1")
    assert len(lines) == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("rich", [True, False])
def test_progress_on_a_terminal(monkeypatch, rich):
    if rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with Progress(4, "fitting", stream=out) as p:
        p.update(4, loss=0.25)
    assert "fitting" in out.getvalue()
    assert "loss 0.25" in out.getvalue()
    assert ("━" in out.getvalue()) == rich


def test_progress_lets_errors_through():
    with pytest.raises(ZeroDivisionError), Progress(4, "fitting", stream=io.StringIO()):
        _ = 1 / 0
