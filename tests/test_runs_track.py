"""Metrics in TensorBoard's event files, and in W&B by a stand-in for its client."""

import json
import struct
import sys
from types import SimpleNamespace

import pytest

from merpo.runs.track import TensorBoard, WandB, follow, replay

LINES = [
    {"step": 10, "nll": 2.5},
    {"step": 20, "nll": 1.5},
    {"step": 5, "critic/td": 0.25, "critic/gap": "nan"},
]


def lines(rows):
    return "".join(json.dumps(r) + "\n" for r in rows)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(lines(LINES))
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "merpo.jsonl").write_text(lines([{"step": 50, "actor/q": -0.5}]))
    return tmp_path


class Stand:
    """A tracker that remembers."""

    def __init__(self):
        self.seen, self.closed = [], False

    def log(self, step, figures):
        self.seen.append((step, dict(figures)))

    def close(self):
        self.closed = True


def test_replay_sends_every_line_with_its_step(run):
    stand = Stand()
    assert replay(run, stand) == 4
    assert stand.seen[0] == (10, {"nll": 2.5})
    assert stand.seen[2][0] == 5
    assert stand.seen[2][1]["critic/td"] == 0.25
    assert stand.seen[3] == (50, {"adapt/merpo/actor/q": -0.5})


def test_follow_sends_lines_once_as_they_come_and_ends(run):
    stand, asked = Stand(), []

    def finished():
        asked.append(len(stand.seen))
        if len(asked) == 2:
            with open(run / "metrics.jsonl", "a") as f:
                f.write(lines([{"step": 30, "nll": 1.0}]) + '{"step": 40, "n')  # and half a line
        return len(asked) == 3

    assert follow(run, stand, finished, every=0.0) == 4
    assert asked == [0, 3, 4]
    assert [s for s, _ in stand.seen] == [10, 20, 5, 30]


def test_follow_waits_for_a_run_that_has_not_begun(tmp_path):
    answers = iter([False, True])
    assert follow(tmp_path, Stand(), lambda: next(answers), every=0.0) == 0


def records(path):
    """The records of an event file: length, checksum, bytes, checksum."""
    raw, at = path.read_bytes(), 0
    while at < len(raw):
        (size,) = struct.unpack("<Q", raw[at : at + 8])
        yield raw[at + 12 : at + 12 + size]
        at += 16 + size


def test_tensorboard_reads_back_what_was_logged(run, tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    tracker = TensorBoard(tmp_path / "events", {"rac": {"alpha": 0.4}})
    replay(run, tracker)
    tracker.close()
    (path,) = (tmp_path / "events").iterdir()
    events = [Event.FromString(r) for r in records(path)]
    values = [(v.tag, e.step, v.simple_value) for e in events for v in e.summary.value if v.HasField("simple_value")]
    assert ("nll", 20, 1.5) in values
    assert ("critic/td", 5, 0.25) in values
    assert ("adapt/merpo/actor/q", 50, -0.5) in values
    assert b"rac.alpha" in path.read_bytes()


def test_wandb_is_offline_and_keeps_the_run_s_own_steps(run, monkeypatch):
    calls = []

    class Run:
        def define_metric(self, name, step_metric):
            calls.append(("define", name, step_metric))

        def log(self, row):
            calls.append(("log", row))

        def finish(self):
            calls.append(("finish",))

    def init(**settings):
        calls.append(("init", settings))
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    tracker = WandB(run, {"context": 2}, "goal", "merpo")
    replay(run, tracker)
    tracker.close()
    assert calls[0][1]["mode"] == "offline"
    assert calls[0][1]["config"] == {"context": 2}
    assert calls[0][1]["name"] == "goal"
    assert calls[1] == ("define", "*", "step")
    assert calls[2] == ("log", {"nll": 2.5, "step": 10})
    assert calls[-1] == ("finish",)
    assert len([c for c in calls if c[0] == "log"]) == 4
