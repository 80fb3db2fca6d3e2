"""Bad input on the command line: exit status 2 and a line that says what to do."""

import pytest

from merpo import cli
from merpo.cli import main
from merpo.commands import session
from merpo.commands.stages import Stages


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MERPO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MERPO_CACHE_DIR", "off")
    monkeypatch.delenv("MERPO_DEBUG", raising=False)


def complaint(capsys, args):
    assert main([str(a) for a in args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    return err


def test_unknown_names(tmp_path, capsys):
    out = tmp_path / "never"
    assert "point-robot-goal" in complaint(capsys, ["data", "generate", "point-robot-gaol"])
    assert "expected one of random, medium, expert, mixed" in complaint(
        capsys, ["data", "generate", "point-robot-goal", "--quality", "good"]
    )
    assert "no-family" in complaint(capsys, ["train", "no-family/medium", "--out", out])
    assert "good" in complaint(capsys, ["train", "point-robot-goal/good", "--out", out])
    assert "no-family" in complaint(capsys, ["behaviour", "train", "no-family", "--out", out, "--updates", "1"])
    assert not out.exists()


def test_wrong_usage_and_settings(tmp_path, capsys):
    assert main(["trian"]) == 2
    assert main([]) == 2
    capsys.readouterr()
    base = ["train", "point-robot-wind/medium", "--episodes", "2", "--out", tmp_path / "x"]
    assert "alpha=1.5" in complaint(capsys, [*base, "--alpha", "1.5"])
    assert "train_updates=7" in complaint(capsys, [*base, "--train-updates", "7"])
    assert "distinct" in complaint(capsys, [*base, "--seeds", "1", "1"])
    (tmp_path / "bad.json").write_text('{"rac": {"alhpa": 0.3}}')
    assert "alhpa" in complaint(capsys, [*base, "--config", tmp_path / "bad.json"])
    (tmp_path / "bad.json").write_text("{")
    assert "not JSON" in complaint(capsys, [*base, "--config", tmp_path / "bad.json"])
    assert "cannot be read" in complaint(capsys, [*base, "--config", tmp_path / "absent.json"])


def test_missing_or_foreign_run(tmp_path, capsys):
    assert "no finished run" in complaint(capsys, ["adapt", tmp_path / "absent"])
    assert "no finished run" in complaint(capsys, ["evaluate", tmp_path])
    (tmp_path / "run.json").write_text('{"format": "other"}')
    assert "not a record" in complaint(capsys, ["adapt", tmp_path])


def test_interrupt_and_missing_extra(monkeypatch, capsys):
    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", stop)
    assert main([]) == 130

    def lack(args):
        raise ModuleNotFoundError("No module named 'mujoco'", name="mujoco")

    monkeypatch.setattr(cli, "_run", lack)
    assert main([]) == 2
    assert "merpo[tasks]" in capsys.readouterr().err


def test_the_compilation_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MERPO_CACHE_DIR", "off")
    assert session.cache_folder() is None
    monkeypatch.delenv("MERPO_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert session.cache_folder() == tmp_path / "merpo"


def test_plain_progress_lines(capsys):
    with Stages(every=0.0) as bars:
        bars.report("learning", 1, 2, {"critic/td": 0.5, "unlisted": 1.0})
        bars.report("learning", 2, 2, {"critic/td": 0.25})
    first, second = capsys.readouterr().out.splitlines()
    assert first == "learning: 1/2  td 0.5"
    assert second.startswith("learning: 2/2")
    assert "took" in second
    assert second.endswith("td 0.25")
