"""The whole page: one self-contained HTML document of one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from urllib.parse import quote

import numpy as np

from merpo.evaluation import Comparison
from merpo.report.page.material import RunView
from merpo.report.page.sections import run_section
from merpo.report.page.svg import DASH, Series, panel
from merpo.report.page.text import card, figure, interval, note, table, title
from merpo.report.tables import share_above
from merpo.runs.config import flatten

LINES = 6
"""Colours for runs in common figures."""


def page(runs: Sequence[RunView], comparison: Comparison | None = None, why_not: str = "") -> str:
    """The HTML text. `comparison` is of the runs' common tasks; without one `why_not` says why."""
    names = [r.name for r in runs]
    first = runs[0]
    one = len(runs) == 1
    family = first.results.family if first.results else first.data.partition("/")[0]
    families = {r.results.family if r.results else r.data.partition("/")[0] for r in runs}
    heading = title(family) if one or len(families) == 1 else f"{len(runs)} runs"
    mark = (
        f"merpo report · {escape(first.data)} · run {escape(first.name)}" if one else f"merpo report · {len(runs)} runs"
    )
    links = (
        "" if one else "<nav>" + "".join(f'<a href="#run-{i}">{escape(n)}</a>' for i, n in enumerate(names)) + "</nav>"
    )
    sections = [
        ("" if one else f"<h2>{escape(run.name)}</h2>{note(escape(run.data))}", run_section(run, f"run-{i}"))
        for i, run in enumerate(runs)
    ]
    body = "".join(f"<div>{head}{section}</div>" for head, section in sections)
    above = "" if one else _compared(runs, comparison, why_not)
    style = resources.files("merpo.report.page").joinpath("style.css").read_text()
    # a data URI for the icon: without one, browsers ask the server for /favicon.ico
    icon = "data:image/svg+xml," + quote(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="#0072b2"/></svg>'
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(heading)} · merpo report</title>
<link rel="icon" href="{icon}">
<style>
{style}</style>
</head>
<body>
<div class="wrap{"" if one else " wide"}">
<header><p class="mark">{mark}</p><h1>{escape(heading)}</h1>{links}</header>
{above}
<div class="{"" if one else "runs"}">{body}</div>
<footer>Made by merpo {escape(str(first.versions.get("merpo", "")))} from the run folder's own files.
Nothing on this page comes from the network.</footer>
</div>
</body>
</html>
"""


def _compared(runs: Sequence[RunView], c: Comparison | None, why_not: str) -> str:
    if c is None:
        return card("Comparison", note(escape(why_not))) + _settings(runs)
    best = int(np.argmax([r.mean.value for r in c.runs]))
    rows = [
        (escape(label), interval(r.mean), interval(r.iqm, 2), share_above(r), str(r.seeds))
        for label, r in zip(c.labels, c.runs, strict=True)
    ]
    pairs = [
        (escape(label), *("·" if v is None else interval(v, 2) for v in line))
        for label, line in zip(c.labels, c.better, strict=True)
    ]
    said = "".join(f"<li>{escape(x[0].upper() + x[1:])}.</li>" for x in c.cautions)
    return card(
        f"Comparison on {len(c.tasks)} common tasks",
        table(["run", "mean return", "score (IQM)", "tasks above logged", "seeds"], rows, best),
        "<h4>Probability that the row's run returns more than the column's on a task</h4>",
        table(["", *c.labels], pairs),
        note(
            f"By {escape(', '.join(c.methods))}; 95 % bootstrap intervals. An interval that holds 0.50 tells nothing."
        ),
        f'<ul class="note">{said}</ul>' if said else "",
        _common_curves(runs),
    ) + _settings(runs)


def _common_curves(runs: Sequence[RunView]) -> str:
    figures = []
    for name, head in (
        ("actor/q", "Value of the policy while adapting"),
        ("critic/td", "Bellman error while adapting"),
    ):
        series = []
        for i, run in enumerate(runs):
            values = run.curves.get("merpo", {}).get(name)
            if values is not None:
                flat = np.asarray(values, np.float64).reshape(len(values), -1)
                low, middle, high = np.quantile(flat, [0.1, 0.5, 0.9], axis=1)
                x = (np.arange(len(flat)) + 1.0) * run.every
                series.append(Series(run.name, f"line-{i % LINES}", x, middle, low, high))
        if series:
            figures.append(figure(panel(head, series, "gradient updates", 190.0, name == "critic/td"), "", head))
    if not figures:
        return ""
    names = "".join(
        f'<li><i class="line-{i % LINES}"></i>{escape(r.name)}</li>' for i, r in enumerate(runs) if "merpo" in r.curves
    )
    return f'<ul class="legend">{names}</ul><div class="grid pair">{"".join(figures)}</div>'


def _settings(runs: Sequence[RunView]) -> str:
    """The settings in which runs differ, one column per run."""
    flat = [flatten(r.config) | {"data": r.data, "seeds": list(r.seeds)} for r in runs]
    names = list(dict.fromkeys(n for f in flat for n in f))
    differing = [n for n in names if len({str(f.get(n)) for f in flat}) > 1]
    if not differing:
        return card("Settings", note("All runs have the same settings, data and seeds."))
    rows = [(escape(n), *(escape(str(f.get(n, DASH))) for f in flat)) for n in differing]
    return card("Settings that differ", table(["", *(r.name for r in runs)], rows))
