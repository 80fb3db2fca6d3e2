"""Figures for people: returns per unseen task, trajectories, learning curves, adaptation."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from merpo.errors import DataError
from merpo.evaluation import BEHAVIOUR, Results, Row, summarise
from merpo.report.style import BLUE, INK, LINES, VERMILION, colour, figure, label, spread


def returns_figure(
    results: Results, path: str | os.PathLike[str], rows: Sequence[Row] | None = None, most_tasks: int = 24
) -> None:
    """Dot plot of every method's return per test task, and beside it the summary score of each method.

    Tasks are ordered by the last method's gain over the logged behaviour; a line joins the two. Whiskers span
    the runs (seeds), or with one run the episodes. Of more than `most_tasks` tasks an even choice is shown.
    """
    rows = summarise(results) if rows is None else rows
    methods = [r.method for r in rows]
    focus = methods[-1]
    gain = results.task_means(focus) - results.behaviour
    order = np.argsort(gain)
    if len(order) > most_tasks:
        order = order[np.unique(np.linspace(0, len(order) - 1, most_tasks).round().astype(int))]
    height = max(3.2, 1.7 + 0.34 * len(order))
    with figure(path, 10.5, height) as fig:
        left, right = fig.subplots(1, 2, width_ratios=[1.75, 1.0])
        _returns_per_task(left, results, methods, order)
        _summary_bars(right, rows)
        shown = "" if len(order) == len(gain) else f" ({len(order)} of {len(gain)} tasks shown)"
        left.set_title(f"Return on each test task{shown}")
        fig.suptitle(f"{results.family} · {results.quality} data", x=0.01, ha="left", fontsize=13, fontweight="bold")
        handles, _ = left.get_legend_handles_labels()
        fig.legend(handles=handles, loc="outside lower left", ncols=len(methods), handletextpad=0.2, fontsize=9.5)


def _returns_per_task(ax: Any, results: Results, methods: Sequence[str], order: np.ndarray) -> None:
    y = np.arange(len(order))
    focus = results.task_means(methods[-1])[order]
    ax.hlines(y, results.behaviour[order], focus, color="#D5D5D5", linewidth=2.2, zorder=1)
    for i, method in enumerate(methods):
        x = results.task_means(method)[order]
        shade = colour(method, tuple(methods))
        last = i == len(methods) - 1
        if method == BEHAVIOUR:
            ax.scatter(x, y, marker="|", s=170, linewidths=2.4, color=shade, label=label(method), zorder=3)
            continue
        array = results.returns[method]
        parts = array.mean(2) if len(array) > 1 else array[0].T
        ax.hlines(y, parts.min(0)[order], parts.max(0)[order], color=shade, linewidth=1.2, alpha=0.55, zorder=2)
        dot = {"s": 62 if last else 34, "edgecolor": "white", "linewidth": 0.8, "zorder": 4 + last}
        ax.scatter(x, y, color=shade, label=label(method), **dot)
    ax.set_yticks(y, [results.tasks[i] for i in order])
    ax.set_ylim(-0.7, len(order) - 0.3)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.set_xlabel("return (undiscounted)")


def _summary_bars(ax: Any, rows: Sequence[Row]) -> None:
    scored = all(r.iqm is not None for r in rows)
    y = np.arange(len(rows))[::-1]
    names = tuple(r.method for r in rows)
    values = [r.iqm if scored else r.mean for r in rows]
    ends = [v.value if math.isnan(v.high) else v.high for v in values if v is not None]
    low = min(0.0, min(v.value if math.isnan(v.low) else v.low for v in values if v is not None))
    span = max(1.0 if scored else 0.0, *ends) - low or 1.0
    for position, row, x in zip(y, rows, values, strict=True):
        assert x is not None
        ax.barh(position, x.value, height=0.62, color=colour(row.method, names), alpha=0.92, linewidth=0)
        if not math.isnan(x.low):
            ax.hlines(position, x.low, x.high, color=INK, linewidth=1.3)
        text = f"{x.value:.2f}" if abs(x.value) < 100 else f"{x.value:.0f}"
        ax.text(low + 1.2 * span, position, text, va="center", ha="right", fontsize=9.5, fontweight="bold")
    ax.set_yticks(y, [label(r.method) for r in rows])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlim(low - (0.02 * span if low < 0 else 0.0), low + 1.21 * span)
    ax.set_xticks([t for t in ax.get_xticks() if low <= t <= low + 1.02 * span])
    ax.grid(axis="x")
    ax.axvline(0.0, color="#888888", linewidth=0.8)
    confidence = f"{100 * rows[-1].mean.confidence:g} %"
    if scored:
        ax.axvline(1.0, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        ax.set_title("Normalised score")
        ax.set_xlabel(f"0 random, 1 expert\ninterquartile mean, {confidence} interval")
    else:
        ax.set_title("Mean return")
        ax.set_xlabel(f"mean over tasks and seeds, {confidence} interval")


def trajectories_figure(
    path: str | os.PathLike[str],
    logged: Mapping[str, Sequence[Float[np.ndarray, "_ 2"]]],
    policies: Mapping[str, Mapping[str, Float[np.ndarray, "episode step 2"]]],
    goals: Mapping[str, Sequence[float]],
    title: str = "",
    most_tasks: int = 6,
) -> None:
    """Paths of 2-D point robots on a few unseen tasks, one small panel each.

    `logged[task]` are the positions [step, 2] of logged episodes; `policies[method][task]` the paths of a
    policy [episode, step, 2]; `goals[task]` the goal (x, y). Positions include the last one reached.
    """
    tasks = [t for t in logged if t in goals]
    if not tasks:
        raise DataError("logged and goals share no task: expected at least one task with both.")
    if len(tasks) > most_tasks:
        tasks = [tasks[i] for i in np.linspace(0, len(tasks) - 1, most_tasks).round().astype(int)]
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    points = [np.asarray(goals[t], float)[None] for t in tasks]
    points += [np.reshape(p[t], (-1, 2)) for p in policies.values() for t in tasks if t in p]
    points += [np.reshape(e, (-1, 2)) for t in tasks for e in logged[t]]
    low, high = _limits(np.concatenate(points))
    panel = 2.9
    aspect = float(np.clip((high[1] - low[1]) / (high[0] - low[0]), 0.4, 1.6))
    with figure(path, panel * columns + 0.6, (panel * aspect + 0.3) * lines + 1.0, "compressed") as fig:
        axes = np.atleast_1d(fig.subplots(lines, columns, sharex=True, sharey=True)).ravel()
        names = tuple(policies)
        for ax, task in zip(axes, tasks, strict=False):
            for i, episode in enumerate(logged[task]):
                ax.plot(*np.asarray(episode).T, color="#BDBDBD", linewidth=0.7, zorder=1,
                        label="logged behaviour" if i == 0 else None)  # fmt: skip
            for method, paths in policies.items():
                for i, episode in enumerate(paths.get(task, ())):
                    ax.plot(*np.asarray(episode).T, color=colour(method, names), linewidth=1.9, zorder=3,
                            marker="o", markersize=2.6, label=label(method) if i == 0 else None)  # fmt: skip
            start = np.asarray(logged[task][0])[0]
            ax.scatter(*start, s=34, facecolor="white", edgecolor=INK, linewidth=1.2, zorder=4, label="start")
            star = {"s": 190, "marker": "*", "color": VERMILION, "edgecolor": "white", "linewidth": 0.9}
            ax.scatter(*goals[task], zorder=5, label="goal", **star)
            ax.set_title(task, fontweight="normal", fontsize=10, pad=5)
            ax.set_xlim(low[0], high[0])
            ax.set_ylim(low[1], high[1])
            ax.set_aspect("equal")
            ax.locator_params(nbins=5)
            ax.grid(True)
            ax.tick_params(length=0)
            for side in ("left", "bottom"):
                ax.spines[side].set_visible(False)
        for ax in axes[len(tasks) :]:
            ax.set_visible(False)
        if title:
            fig.suptitle(title, x=0.02, ha="left", fontsize=12.5, fontweight="bold")
        handles, texts = axes[0].get_legend_handles_labels()
        fig.legend(handles, texts, loc="outside lower left", ncols=len(handles), handletextpad=0.5, columnspacing=1.3)


def _limits(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square-ish limits around all but the most extreme half percent, goals and starts always inside."""
    low, high = np.quantile(points, [0.005, 0.995], axis=0)
    margin = 0.08 * max(float((high - low).max()), 1e-6)
    # a motion along one axis only would give a panel of no height
    thin = np.maximum(0.35 * (high - low).max() - (high - low), 0.0) / 2
    return low - margin - thin, high + margin + thin


def learning_curve_figure(
    path: str | os.PathLike[str],
    metrics: Mapping[str, Sequence[Mapping[str, int | float]]],
    figures: Sequence[str],
    title: str = "Learning curves",
) -> None:
    """One panel per figure name, one line per run: `metrics[run]` is what `read_metrics` gives.

    Lines are labelled at their end. Raises `DataError` when no run logged a figure.
    """
    columns = 2 if len(figures) == 4 else min(3, len(figures))
    lines = -(-len(figures) // columns)
    with figure(path, 3.9 * columns + 0.8, 2.7 * lines + 0.5) as fig:
        axes = np.atleast_1d(fig.subplots(lines, columns)).ravel()
        for ax, name in zip(axes, figures, strict=False):
            curves = {}
            for run, rows in metrics.items():
                points = [(r["step"], r[name]) for r in rows if name in r and math.isfinite(r[name])]
                if points:
                    curves[run] = np.asarray(points, float)
            if not curves:
                known = sorted({k for rows in metrics.values() for r in rows for k in r} - {"step"})
                raise DataError(f"figures: no run logged {name!r}. Logged: {', '.join(known) or 'nothing'}.")
            _labelled_lines(ax, curves, show_labels=len(metrics) > 1)
            ax.set_title(name)
            ax.set_xlabel("gradient updates")
            ax.grid(axis="y")
        for ax in axes[len(figures) :]:
            ax.set_visible(False)
        if title:
            fig.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")


def _labelled_lines(ax: Any, curves: Mapping[str, np.ndarray], show_labels: bool) -> None:
    for i, points in enumerate(curves.values()):
        ax.plot(*points.T, color=LINES[i % len(LINES)], linewidth=1.7)
    ax.ticklabel_format(axis="y", style="plain", useOffset=False)
    ax.margins(x=0.01, y=0.08)
    if not show_labels:
        return
    low, high = ax.get_ylim()
    gap = 0.085 * (high - low)
    ends = spread([float(p[-1, 1]) for p in curves.values()], gap)
    shift = max(low + gap / 2 - min(ends), 0.0) or min(high - gap / 2 - max(ends), 0.0)
    ends = [at + shift for at in ends]
    edge = max(p[-1, 0] for p in curves.values())
    for i, (run, at) in enumerate(zip(curves, ends, strict=True)):
        ax.annotate(
            run, (edge, at), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9,
            color=LINES[i % len(LINES)], annotation_clip=False,
        )  # fmt: skip


def adaptation_figure(
    path: str | os.PathLike[str],
    steps: Sequence[int],
    from_meta: Float[np.ndarray, "task step"],
    from_scratch: Float[np.ndarray, "task step"],
    ylabel: str = "hold-out error",
    title: str = "Adapting the model to an unseen task's small log",
) -> None:
    """Hold-out error against gradient steps on a new task's log, from the meta-model and from scratch.

    Lines are medians over tasks, bands the middle half. An arrow says how many times more steps scratch needs
    for the error that the meta-model has after about ten. The error axis is logarithmic if all are positive.
    """
    x = np.asarray(steps, float)
    both = {"from the meta-model": (from_meta, BLUE), "from scratch": (from_scratch, VERMILION)}
    for name, (errors, _) in both.items():
        if errors.ndim != 2 or errors.shape[1] != len(x):
            raise DataError(f"{name}: errors have shape {errors.shape}, expected [task, {len(x)}] as in steps.")
    positive = all(np.min(e) > 0 for e, _ in both.values())
    with figure(path, 7.2, 4.2) as fig:
        ax = fig.subplots()
        medians = {}
        for name, (errors, shade) in both.items():
            low, middle, high = np.quantile(errors, [0.25, 0.5, 0.75], axis=0)
            ax.fill_between(x, low, high, color=shade, alpha=0.16, linewidth=0)
            ax.plot(x, middle, color=shade, linewidth=2.2)
            medians[name] = middle
        ax.set_xscale("symlog", linthresh=1.0, linscale=0.4)
        if positive:
            ax.set_yscale("log")
        ends = [float(m[-1]) for m in medians.values()]
        scale = np.log if positive else np.asarray
        back = np.exp if positive else np.asarray
        low, high = (float(scale(v)) for v in ax.get_ylim())
        placed = spread([float(scale(e)) for e in ends], 0.07 * (high - low))
        for (name, (_, shade)), at in zip(both.items(), placed, strict=True):
            place = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
            look = {"color": shade, "fontweight": "bold", "annotation_clip": False}
            ax.annotate(name, (x[-1], float(back(at))), **place, **look)
        meta, scratch = medians.values()
        _steps_saved(ax, x, meta, scratch, scale)
        whole = [s for s in (0, 1, 10, 100, 1000, 10_000, 100_000) if x[0] <= s <= x[-1]]
        ax.set_xticks(whole, [f"{s:,}".replace(",", " ") for s in whole])
        ax.minorticks_off()
        ax.set_xlim(x[0], x[-1])
        ax.grid(True)
        ax.set_xlabel("gradient steps on the new task's log")
        ax.set_ylabel(ylabel)
        ax.set_title(title)


def _steps_saved(ax: Any, x: np.ndarray, meta: np.ndarray, scratch: np.ndarray, scale: Any) -> None:
    """Arrow from the meta-model's error after about ten steps to where the line of scratch first has it."""
    near = sorted(np.flatnonzero(x > 0), key=lambda i: abs(math.log(x[i] / 10.0)))
    for i in near:
        reached = np.flatnonzero(scratch <= meta[i])
        if len(reached) == 0 or reached[0] == 0 or x[reached[0]] < 2 * x[i]:
            continue
        j = reached[0]
        # along the straight line that the figure draws between the two measured points
        before, level, after = (scale(v) for v in (scratch[j - 1], meta[i], scratch[j]))
        crossing = x[j - 1] * (x[j] / x[j - 1]) ** ((before - level) / (before - after))
        arrow = {"arrowstyle": "<->", "color": INK, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (crossing, meta[i]), (x[i], meta[i]), arrowprops=arrow)
        place = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center", "fontsize": 9}
        ax.annotate(f"{crossing / x[i]:.0f} times the steps", (math.sqrt(x[i] * crossing), meta[i]), **place)
        return
