"""The figures of the page, one function each: plain data in, SVG text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from merpo.dynamics.calibration import LEVELS, ModelCheck
from merpo.evaluation import BEHAVIOUR, Interval, Results, bootstrap_interval
from merpo.report.page.material import Trace, Traces
from merpo.report.page.svg import PANEL, Axis, Chart, Series, number, panel, spanning
from merpo.report.style import label

SMALL = 250.0
"""Width of a learning curve: four stand side by side on a desk, one on a phone."""


def method_class(method: str) -> str:
    """The CSS class of a method's colour."""
    known = ("behaviour", "meta-policy", "bc", "rac", "merpo")
    return f"m-{method}" if method in known else "m-other"


def task_interval(results: Results, method: str, i: int, logged: Mapping[str, Interval]) -> Interval:
    """The mean return of a method on task i; without spread where there is one episode of one seed."""
    if method == BEHAVIOUR:
        value = float(results.behaviour[i])
        return logged.get(results.tasks[i], Interval(value, np.nan, np.nan, 0.95, "nothing: a given log"))
    own = np.asarray(results.returns[method], np.float64)[:, i : i + 1]
    found = bootstrap_interval(own, resamples=400)
    if own.size == 1:
        return Interval(found.value, np.nan, np.nan, found.confidence, found.resampled)
    return found


def returns_chart(results: Results, intervals: Mapping[str, Sequence[Interval]], most: int = 20) -> str:
    """Every method's return per task, tasks in the order of the adapted policy's gain over the logged behaviour."""
    methods = list(intervals)
    focus = [v.value for v in intervals[methods[-1]]]
    gain = np.asarray(focus) - results.behaviour
    order = np.argsort(-gain)
    if len(order) > most:
        order = order[np.unique(np.linspace(0, len(order) - 1, most).round().astype(int))]
    row, top, left = 26.0, 8.0, 74.0
    height = top + row * len(order) + 36
    chart = Chart("Return of every method on each test task", height)
    ends = [[v.value, v.low, v.high] for m in methods for v in (intervals[m][i] for i in order)]
    x = Axis(*spanning(ends), left, PANEL - 12)
    bottom = top + row * len(order)
    chart.x_axis(x, bottom, top, "return per episode")
    for place, i in enumerate(order):
        y = top + row * (place + 0.5)
        name = results.tasks[i].removesuffix("-test")
        chart.text(left - 8, y + 4, name if len(name) < 11 else name[:10] + "…", "tick", "end")
        from_, to = x(float(results.behaviour[i])), x(focus[i])
        chart.line([(from_, y), (to, y)], "gain" if focus[i] >= results.behaviour[i] else "gain loss")
        for k, method in enumerate(methods):
            v, cls = intervals[method][i], method_class(method)
            at = y + (0.0 if method in (BEHAVIOUR, methods[-1]) else (k - len(methods) / 2 + 0.5) * 3.0)
            if np.isfinite(v.low):
                chart.line([(x(v.low), at), (x(v.high), at)], f"whisker {cls}")
            about = f"{name}, {label(method)}: {_span(v)}"
            if method == BEHAVIOUR:
                chart.bar(x(v.value) - 1.5, y - 7, 3.0, 14.0, f"fill {cls}", 1.0)
            else:
                chart.dot(x(v.value), at, f"dot {cls}", 5.0 if method == methods[-1] else 3.2, about)
    return chart.done()


def _span(v: Interval) -> str:
    return number(v.value) if np.isnan(v.low) else f"{number(v.value)} [{number(v.low)}, {number(v.high)}]"


def curve_panel(
    title: str, values: np.ndarray, every: int, cls: str, x_title: str = "gradient updates", log: bool = False
) -> str:
    """A metric [round, seed, task]: median and the middle 80 % over seeds and tasks."""
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    low, middle, high = np.quantile(flat, [0.1, 0.5, 0.9], axis=1)
    x = (np.arange(len(flat)) + 1.0) * every
    return panel(title, [Series(title, cls, x, middle, low, high)], x_title, 160.0, log, SMALL)


def error_panel(errors: np.ndarray, every: int) -> str:
    """Hold-out error [seed, task, check] while the meta-model adapts."""
    flat = np.asarray(errors, np.float64).reshape(-1, errors.shape[-1])
    low, middle, high = np.quantile(flat, [0.1, 0.5, 0.9], axis=0)
    x = np.arange(flat.shape[1], dtype=float) * every
    return panel(
        "hold-out error", [Series("", "m-merpo", x, middle, low, high)], "gradient steps on the new log", 200.0, True
    )


def reliability_panel(check: ModelCheck) -> str:
    """Nominal against observed coverage: states column by column (thin), their mean, and the reward."""
    chart = Chart("Calibration: nominal and observed coverage of the model's intervals", 250.0)
    left, right, top, bottom = 46.0, PANEL - 10.0, 10.0, 216.0
    x, y = Axis(0.0, 1.0, left, right), Axis(0.0, 1.0, bottom, top)
    chart.y_axis(y, left, right)
    chart.x_axis(x, bottom, top, "probability that the model gives")
    chart.line([(x(0.0), y(0.0)), (x(1.0), y(1.0))], "diagonal")
    for column in check.coverage[:-1]:
        chart.line([(x(a), y(b)) for a, b in zip(LEVELS, column, strict=True)], "curve thin m-merpo")
    for cls, line in (("m-merpo", check.coverage[:-1].mean(0)), ("m-reward", check.coverage[-1])):
        chart.line([(x(a), y(b)) for a, b in zip(LEVELS, line, strict=True)], f"curve {cls}")
    chart.text(x(0.06), y(0.93), "too wide", "tick")
    chart.text(x(0.97), y(0.06), "too narrow: overconfident", "tick", "end")
    return chart.done()


def drift_panel(check: ModelCheck, used: int) -> str:
    """How far imagined states are from logged ones, by steps of imagination; `used` is how far learning goes."""
    steps = np.arange(1, len(check.drift) + 1, dtype=float)
    low, middle, high = check.drift.T
    chart = panel("drift", [Series("", "m-merpo", steps, middle, low, high)], "imagined steps", 250.0)
    if 0 < used < len(check.drift):
        at = 46 + (PANEL - 54) * (used - 1) / max(len(check.drift) - 1, 1)
        mark = f'<path class="diagonal" d="M{at:.1f} 10L{at:.1f} 216"/>'
        mark += f'<text class="tick" x="{at + 4:.1f}" y="20">used: {used}</text>'
        chart = chart.replace("</svg>", mark + "</svg>")
    return chart


def states_chart(check: ModelCheck, most: int = 12) -> str:
    """Quantiles of imagined and logged states by column, where they differ most first."""
    shift = np.abs(check.imagined - check.logged).max(0)
    order = np.argsort(-shift)[:most]
    row, top, left = 34.0, 6.0, 52.0
    bottom = top + row * len(order)
    chart = Chart("Imagined and logged states, by column", bottom + 36)
    x = Axis(*spanning([check.imagined[:, order], check.logged[:, order]]), left, PANEL - 10)
    chart.x_axis(x, bottom, top, "standardised state")
    for place, i in enumerate(order):
        y = top + row * place
        chart.text(left - 8, y + row / 2 + 4, f"obs[{i}]", "tick", "end")
        for at, quantiles, cls in (
            (y + 8, check.logged[:, i], "m-behaviour"),
            (y + 19, check.imagined[:, i], "m-merpo"),
        ):
            q = [x(float(v)) for v in quantiles]
            chart.line([(q[0], at + 3.5), (q[4], at + 3.5)], f"whisker {cls}")
            chart.bar(q[1], at, max(q[3] - q[1], 2.0), 7.0, f"fill {cls}")
            chart.bar(q[2] - 1, at - 1, 2.0, 9.0, "middle", 0.0)
    return chart.done()


def certificate_chart(certificates: Sequence[Mapping[str, Any]], most: int = 24) -> str:
    """Estimated improvement per task and its lower bound, one line per seed; certified where it is right of zero."""
    known: dict[str, list[Mapping[str, Any]]] = {}
    for c in certificates:
        over = c.get("over_behaviour") or {}
        if over.get("lower") is not None and over.get("estimate") is not None:
            known.setdefault(str(c["task"]), []).append(c)
    rows = list(known.items())[:most]
    if not rows:
        return ""
    row, top, left = 24.0, 8.0, 74.0
    bottom = top + row * len(rows)
    chart = Chart("Certificates: estimated improvement and its lower bound", bottom + 36)
    ends = [[c["over_behaviour"][k] for k in ("lower", "estimate")] for _, own in rows for c in own]
    x = Axis(*spanning([*ends, [0.0]]), left, PANEL - 12)
    chart.x_axis(x, bottom, top, "improvement per episode over what was logged")
    chart.line([(x(0.0), top), (x(0.0), bottom)], "zero")
    for place, (task, own) in enumerate(rows):
        chart.text(left - 8, top + row * (place + 0.5) + 4, task.removesuffix("-test")[:10], "tick", "end")
        gap = min(7.0, 16.0 / len(own))
        for k, c in enumerate(own):
            y, cls = (
                top + row * (place + 0.5) + (k - (len(own) - 1) / 2) * gap,
                "granted" if c["certified"] else "refused",
            )
            lower, estimate = x(c["over_behaviour"]["lower"]), x(c["over_behaviour"]["estimate"])
            chart.line([(lower, y), (estimate, y)], f"bound {cls}")
            chart.line([(lower, y - 3), (lower, y + 3)], f"bound {cls}")
            chart.dot(estimate, y, f"dot {cls}", 3.6, str(c["sentence"]))
    return chart.done()


def trace_charts(traces: Traces) -> list[tuple[str, str]]:
    """(task, SVG) of every task's picture."""
    if traces.kind == "paths":
        boxes = [_box(t) for t in traces.tasks]
        half = 0.56 * max(float((high - low).max()) for low, high in boxes)  # one scale for all, each centred
        return [(t.task, _paths(t, (a + b) / 2, half)) for t, (a, b) in zip(traces.tasks, boxes, strict=True)]
    columns = range(1, len(traces.columns))
    return [(f"{t.task}: {traces.columns[c]}", _over_time(t, traces, c)) for c in columns for t in traces.tasks]


def _box(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Corners around a task's paths (but their most extreme per cent), where they start and should end."""
    lines = [np.asarray(p, float)[:, :2] for p in (*trace.logged, *trace.policies.values())]
    low, high = np.quantile(np.concatenate(lines), [0.01, 0.99], axis=0)
    fixed = [lines[0][0], *([np.asarray(trace.goal)] if trace.goal else [])]
    return np.minimum(low, np.min(fixed, axis=0)), np.maximum(high, np.max(fixed, axis=0))


def _paths(trace: Trace, middle: np.ndarray, half: float) -> str:
    size = 220.0
    chart = Chart(f"Paths on {trace.task}", size, size)
    x = Axis(middle[0] - half, middle[0] + half, 6.0, size - 6)
    y = Axis(middle[1] - half, middle[1] + half, size - 6, 6.0)
    for value in x.ticks(5):
        chart.line([(x(value), 6.0), (x(value), size - 6)], "grid")
    for value in y.ticks(5):
        chart.line([(6.0, y(value)), (size - 6, y(value))], "grid")
    for path in trace.logged:
        chart.line([(x(float(a)), y(float(b))) for a, b in np.asarray(path)[:, :2]], "path m-behaviour")
    for method, path in trace.policies.items():
        points = [(x(float(a)), y(float(b))) for a, b in np.asarray(path)[:, :2]]
        chart.line(points, f"curve {method_class(method)}")
        chart.dot(*points[-1], f"dot {method_class(method)}", 3.4, f"{label(method)}: where it ends")
    start = next(iter((*trace.policies.values(), *trace.logged)))[0]
    chart.dot(x(float(start[0])), y(float(start[1])), "start", 4.0, "start")
    if trace.goal:
        chart.star(x(trace.goal[0]), y(trace.goal[1]), "goal", 8.0)
    return chart.done()


def _over_time(trace: Trace, traces: Traces, column: int) -> str:
    lines = [Series("", "m-behaviour thin", *np.asarray(p, float)[:, [0, column]].T) for p in trace.logged]
    for method, p in trace.policies.items():
        lines.append(Series(label(method), method_class(method), *np.asarray(p, float)[:, [0, column]].T))
    return panel(f"{traces.columns[column]} on {trace.task}", lines, "step", 180.0)
