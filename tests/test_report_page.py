"""The report's page: what it says, that it says it of hostile names too, and how a real browser sees it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

import browser
import toys
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.commands import traces as traces_module
from merpo.data import TaskSet, info
from merpo.dynamics.calibration import LEVELS, ModelCheck
from merpo.evaluation import Interval, Protocol, Results, compare, task_id
from merpo.guarantee import Certificate
from merpo.guarantee.bounds import Comparison as Bound
from merpo.report.page import RunView, Trace, Traces, page
from merpo.report.page.svg import number, ticks
from merpo.report.page.text import percent
from merpo.runs import config_hash, to_json
from merpo.tasks import generate, get_family

rng = np.random.default_rng(0)
TASKS = ("task-1", "task-2", "task-3")


def results(shift=0.0, seeds=2, tasks=TASKS):
    n = len(tasks)
    base = rng.normal(-6, 0.3, (seeds, n, 4))
    returns = {"meta-policy": base, "bc": base - 2, "rac": base + 0.5, "merpo": base + 1 + shift}
    references = {"random": np.full(n, -20.0), "expert": np.full(n, -3.0)}
    protocol = Protocol(4, tuple(range(seeds)), budget="few", versions={"jax": "0"})
    return Results("point-robot-goal", "medium", tasks, returns, np.full(n, -9.0), protocol, **references)


def model_check():
    logged = np.sort(rng.normal(size=(5, 2)), axis=0)
    coverage = np.stack([LEVELS, LEVELS**0.5, LEVELS**2])
    drift = np.sort(rng.uniform(0.01, 0.5, (12, 3)), axis=1)
    unexplained = np.asarray([[0.2, 0.1, 0.0004]] * 3)
    return ModelCheck(unexplained, coverage, 120, drift, 12, logged + np.asarray([0.0, 0.4]), logged, 60)


def certificate(task, lower, reasons=()):
    bound = Bound(lower + 1.0, lower, 0.5, "bootstrap")
    return Certificate(task, not reasons, 0.95, -5.0, -9.0, bound, None, 10, 100, 90.0, 0.0, reasons).to_json()


def view(name="first", **changes):
    config = MerPOConfig()
    data = TaskSet(toys.linear_info(), tuple(toys.linear_task(t, 3, i, split="test") for i, t in enumerate(TASKS)))

    def path():
        return np.cumsum(rng.normal(size=(15, 2)), axis=0)

    traces = tuple(Trace(t, (path(), path()), {"merpo": path()}, (1.0, 2.0)) for t in TASKS)
    names = ("critic/td", "actor/q", "actor/clone", "rac/lambda", "rac/temperature")
    curves = {s: {n: rng.uniform(1, 2, (6, 2, 3)) for n in names} for s in ("train", "merpo")}
    certificates = {
        "merpo": {"0": [certificate("task-1", 0.7), certificate("task-2", -0.2, ("improvement not proven",))]}
    }
    whole = RunView(
        name, "point-robot-goal/medium", (0, 1), 7, {"tasks": list(TASKS), "certified": True, "insisted": False},
        {"train": 12.5}, to_json(config), config_hash(config), {"merpo": "0.1.0", "jax": "0.10"}, results(), info(data),
        {"task-1": Interval(-9.0, -9.5, -8.5, 0.95, "")}, curves, 50, certificates, rng.uniform(0.01, 1, (1, 3, 5)), 10,
        model_check(), Traces("paths", traces),
    )  # fmt: skip
    return replace(whole, **changes)


@pytest.fixture(scope="module")
def first():
    return view()


class Reader(HTMLParser):
    """Tags with their attributes, and whether every one is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_says_what_came_of_the_run(first):
    text = page([first])
    r = first.results
    own, meta = r.returns["merpo"].mean(), r.returns["meta-policy"].mean()
    plain = re.sub(r"<[^>]+>", "", text)
    assert f"return {number(own)} per episode" in plain
    assert "behaviour's −9.00: better on 3 of 3 tasks" in plain  # noqa: RUF001
    assert f"the meta-policy returns {number(meta)}; adapting helped on 3 of 3" in plain
    assert "1 of 2 policies are certified" in plain
    assert f"{100 * (own + 20) / 17:.0f} %" in plain
    assert "explains 85 % of how states change and 99.9 % of the reward" in plain
    assert "Learned with few." in plain
    assert first.config_hash[:12] in text
    for heading in ("Returns on new tasks", "What the policies do", "Certificates", "Learning", "The model of the system", "The data", "How it was made"):  # fmt: skip
        assert f"<h3>{heading}</h3>" in text
    # lambda moves: a curve of it, not a constant
    assert text.count("<h4>lambda</h4>") == 2
    settled = replace(first, curves={"merpo": {"rac/lambda": np.full((6, 2, 3), 0.25)}})
    assert "Constant throughout: alpha 0.40; lambda 0.25" in page([settled])
    assert "<h4>lambda</h4>" not in page([settled])


def test_the_page_stands_alone(first):
    text = page([first, view("second")], compare({"first": first.results, "second": results(1.0)}))
    read = Reader(text)
    assert read.open == []
    assert not [t for t, _ in read.tags if t in ("script", "img", "iframe", "object", "embed")]
    targets = [a[k] for _, a in read.tags for k in ("src", "href", "data") if k in a]
    assert targets
    assert all(t.startswith(("#", "data:")) for t in targets)
    assert "url(" not in text
    assert "@import" not in text
    assert [a["id"] for _, a in read.tags if "id" in a] == ["run-0", "run-1"]


def test_names_from_files_are_not_markup(first):
    bad = '<script>alert("x")</script>'
    r = replace(first.results, tasks=(bad, "a&b", "c"))
    made = {"merpo": {"0": [certificate(bad, -1.0, (bad,))]}}
    text = page([replace(first, name=bad, data=bad, results=r, certificates=made, versions={"merpo": bad, bad: bad})])
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert Reader(text).open == []


def test_what_is_missing_is_said(first):
    bare = replace(
        first, results=None, summary=None, curves={}, certificates={}, model=None, model_error=None, traces=None,
        notes=("data: 'x': no such data set.", "model: its data are not available."),
    )  # fmt: skip
    text = page([bare])
    assert "not been simulated" in text
    assert "run `merpo evaluate` on it" in text
    assert "its data are not available" in text
    assert "no such data set" in text
    assert "<svg" not in text
    assert "yet" in page([replace(bare, adapted={})])


def test_policies_over_time_where_there_is_no_plane(first):
    """Returns so far and a state column: the log's as logged, the policy's to where its episode ended."""
    tasks = TaskSet(toys.linear_info(), tuple(toys.linear_task(t, 3, i, split="test") for i, t in enumerate(TASKS)))
    shape = (3, 1, 6)
    run = SimpleNamespace(
        obs=rng.normal(size=(*shape, 2)),
        reward=np.where(np.arange(6) < 4, 2.0, 0.0) * np.ones(shape),
        length=np.full((3, 1), 4),
    )
    found = traces_module._returns(tasks, {"merpo": run}, [0, 2])
    assert [t.task for t in found.tasks] == ["task-1", "task-3"]
    own, logged = found.tasks[0].policies["merpo"], found.tasks[1].logged
    np.testing.assert_array_equal(own[:, 0], np.arange(4))
    np.testing.assert_array_equal(own[:, 1], [2, 4, 6, 8])
    np.testing.assert_allclose([line[-1, 1] for line in logged], tasks[2].returns(), rtol=1e-6)
    text = page([replace(first, traces=found)])
    assert f"<h4>task-3: {found.columns[2]}</h4>" in text
    assert "no simulator" not in text


def test_a_mujoco_family_is_shown_by_one_real_episode_of_each_policy(first):
    """On hoppers: the log's own uniform actions beside a policy that only falls, which differs from task to task."""
    family = get_family("hopper-params")
    data = generate("hopper-params", "random", 2, 0)
    tasks = replace(data, tasks=tuple(data.test)[:2])
    idle = SimpleNamespace(seeds=(0,), act=lambda seed: lambda obs, step: np.zeros((*obs.shape[:2], 3), np.float32))
    found = traces_module.traces(tasks, {"merpo": idle})
    assert found.kind == "returns"
    assert [t.task for t in found.tasks] == [t.name for t in tasks]
    for shown, task in zip(found.tasks, tasks, strict=True):
        run = family.rollout(idle.act(0), [task_id(task.name)], 1, 0)
        line = shown.policies["merpo"]
        assert line[-1, 0] == run.length[0, 0] - 1 < 200
        np.testing.assert_allclose(line[-1, 1], run.returns[0, 0], rtol=1e-5)
        np.testing.assert_allclose([own[-1, 1] for own in shown.logged], task.returns(), rtol=1e-5)
    assert len({t.policies["merpo"][-1, 1] for t in found.tasks}) == 2
    text = page([replace(first, traces=found)])
    assert f"<h4>{tasks[1].name}: {found.columns[2]}</h4>" in text


def test_without_a_simulator_actions_are_shown(first):
    """An imported family: what the policy would have done in the logged states."""
    tasks = TaskSet(toys.linear_info(), (toys.linear_task("task-1", 3, 0, split="test"),))
    policies = SimpleNamespace(policy=lambda i: lambda obs: obs[:, :1] * 10, seeds=(0,), act=lambda seed: None)
    found = traces_module.traces(tasks, {"merpo": policies})
    t = tasks[0].transitions
    assert found.kind == "actions"
    np.testing.assert_allclose(found.tasks[0].logged[0][:, 1], t.action[:6, 0])
    np.testing.assert_allclose(found.tasks[0].policies["merpo"][:, 1], 10 * t.obs[:6, 0], rtol=1e-6)
    assert "no simulator" in page([replace(first, traces=found)])


def test_several_runs_are_compared(first):
    second = view("second", results=results(2.0), config=first.config | {"train_updates": 77})
    text = page([first, second], compare({"first": first.results, "second": second.results}))
    assert "Comparison on 3 common tasks" in text
    assert "<td>train_updates</td>" in text
    assert "<td>77</td>" in text
    assert "<td>meta_every</td>" not in text
    assert "share no task" in page([first, second], None, "runs share no task")
    both = compare({"first": first.results, "second": second.results}, ("merpo", "behaviour"))
    with_log = page([first, second], both)
    label = next(x for x in both.labels if "behaviour" in x)
    row = re.search(rf"<tr[^>]*><t[dh][^>]*>{re.escape(label)}</t[dh]>.*?</tr>", with_log)
    assert row is not None
    assert "%" not in row[0]  # a log has no share above itself


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-13.2, -4.1), (1e-7, 9e-7), (-3e5, 2e6), (5.0, 5.0)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-9 * abs(low) <= t <= high + 1e-9 * abs(high) for t in found)
    steps = np.diff(found)
    if len(steps):
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
        assert f"{steps[0]:.0e}"[0] in "1235"


def test_figures_read_as_people_write_them():
    assert [number(x) for x in (0.0, 3.14159, -1234.5, 42.06, 5e-4, 2.5e7)] == ["0.00", "3.14", "−1234", "42.1", "5e−4", "2.5e7"]  # fmt: skip # noqa: RUF001
    assert [percent(x) for x in (0.5, 0.9996, 1.0, -0.2)] == ["50 %", "99.9 %", "100.0 %", "−20 %"]  # noqa: RUF001


needs_browser = pytest.mark.skipif(
    browser.chromium() is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def shown(first, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    second = view("a-second-run-with-a-rather-long-name-as-folders-have-them", results=results(2.0))
    out.write_text(page([first, second], compare({first.name: first.results, second.name: second.results})))
    return out


@needs_browser
@pytest.mark.parametrize("size", [browser.DESK, browser.PHONE], ids=["desk", "phone"])
def test_a_browser_shows_it_whole(shown, size):
    seen = browser.look(shown, size)
    assert seen.console == ()
    facts = seen.facts
    assert facts["inner"] == size[0]
    assert facts["scroll"] == size[0]  # no sideways scrolling
    assert facts["wide"] == []
    assert facts["resources"] == []
    assert len(facts["figures"]) == len(facts["marks"]) > 25
    assert all(w > 100 and h > 50 for w, h in facts["figures"])
    assert min(facts["marks"]) > 3
    assert facts["text"] > 8  # px: labels in figures
    assert facts["body"] >= 13


@needs_browser
def test_dark_mode_turns_the_colours(shown):
    def brightness(rgb):
        return sum(map(int, re.findall(r"\d+", rgb)[:3]))

    facts = browser.look(shown, browser.PHONE, "--blink-settings=preferredColorScheme=0").facts
    assert brightness(facts["back"]) < 150
    assert brightness(facts["ink"]) > 600


@needs_browser
def test_the_browser_sees_what_is_wrong(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><body><p>x</p><div style="width:600px">wide</div><svg width="10" height="0"></svg>'
        '<script>console.error("gone wrong")</script></body>'
    )
    seen = browser.look(page, browser.PHONE)
    assert "gone wrong" in seen.console[0]
    assert seen.facts["scroll"] > 390
    assert seen.facts["wide"]
    assert seen.facts["figures"] == [[10, 0]]


def test_comparison_as_json_holds_the_same(first):
    found = compare({"a": first.results, "b": results(5.0)})
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["better"][1][0]["value"] == 1.0
    assert data["better"][0][0] is None
    assert data["runs"][1]["mean"]["value"] > data["runs"][0]["mean"]["value"]
