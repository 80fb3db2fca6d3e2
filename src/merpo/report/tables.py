"""The summary table: for a terminal (rich, or plain text without it) and as Markdown."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from merpo.evaluation import Compared, Comparison, Interval, Protocol, Results, Row, summarise
from merpo.evaluation.table import BEHAVIOUR

_HEADINGS = ("method", "mean return", "score (IQM)", "≥ data", "> meta", "P(better)")
_WIDE = 96  # columns from which a terminal holds value and interval side by side


def print_table(results: Results, rows: Sequence[Row] | None = None, stream: Any = None) -> None:
    """Print the summary to `stream` (standard output): a rich table if rich is installed, else plain text."""
    out: TextIO = sys.stdout if stream is None else stream
    rows = summarise(results) if rows is None else rows
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        print(plain_table(results, rows), file=out)
        return
    table = Table(
        title=_title(results),
        caption=_footnote(results.protocol, rows),
        title_justify="left",
        caption_justify="left",
    )
    for i, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=True)
    best = _best(rows)
    console = Console(file=out)
    for row in rows:
        cells = _cells(row) if console.width >= _WIDE else tuple(c.replace(" [", "\n[") for c in _cells(row))
        # rich would read a bracket as markup
        table.add_row(*(Text(c) for c in cells), style="bold" if row.method == best else None)
    console.print(table)


def print_comparison(c: Comparison, stream: Any = None) -> None:
    """Print several runs on their common tasks: one row each, and who improves on whom."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout if stream is None else stream)
    split = "[" if console.width >= _WIDE else "\n["
    table = Table(title=_compared(c), title_justify="left")
    for i, heading in enumerate(("run", "mean return", "score (IQM)", "> data", "seeds")):
        table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=i > 0)
    best = max(r.mean.value for r in c.runs)
    for label, r in zip(c.labels, c.runs, strict=True):
        score = "" if r.iqm is None else interval_text(r.iqm, 2)
        cells = (label, interval_text(r.mean, digits(r.mean.value)), score, share_above(r), str(r.seeds))
        # rich would read a bracket as markup
        table.add_row(*(Text(x.replace("[", split)) for x in cells), style="bold" if r.mean.value == best else None)
    console.print(table)
    pairs = Table(title="Probability that the row returns more than the column on a task", title_justify="left")
    pairs.add_column("")
    for label in c.labels:
        pairs.add_column(Text(label), justify="right")
    for label, line in zip(c.labels, c.better, strict=True):
        odds = tuple("." if v is None else interval_text(v, 2).replace(" [", "\n[") for v in line)
        pairs.add_row(Text(label), *(Text(x) for x in odds))
    console.print(pairs)
    confidence = f"{100 * c.runs[0].mean.confidence:g} %"
    console.print(f"{confidence} bootstrap intervals; one of P that holds 0.50 tells nothing.", highlight=False)
    for text in c.cautions:
        console.print(f"Caution: {text}.", highlight=False, markup=False)


def _compared(c: Comparison) -> str:
    by = f"{c.methods[0]} on " if len(c.methods) == 1 else ""  # else the rows name them
    return f"{c.family}: {by}{counted(len(c.tasks), 'common task')}"


def markdown_comparison(c: Comparison) -> str:
    """Several runs on their common tasks as Markdown; the last column is the first row's probability of improving on
    the row's."""
    first = c.labels[0]
    lines = [
        f"**{_compared(c)}**",
        "",
        f"| | mean return | score (IQM) | > data | seeds | P({first} > row) |",
        "|:---|---:|---:|---:|---:|---:|",
    ]
    for label, r, odds in zip(c.labels, c.runs, c.better[0], strict=True):
        score, better = ("" if x is None else interval_text(x, 2) for x in (r.iqm, odds))
        mean = interval_text(r.mean, digits(r.mean.value))
        lines.append(f"| {label} | {mean} | {score} | {share_above(r)} | {r.seeds} | {better} |")
    confidence = f"{100 * c.runs[0].mean.confidence:g} %"
    lines += [
        "",
        f"{confidence} bootstrap intervals; one of P that holds 0.50 tells nothing. Score: 0 random, 1 expert.",
    ]
    lines += [f"Caution: {text}." for text in c.cautions]
    return "\n".join(lines) + "\n"


def plain_table(results: Results, rows: Sequence[Row] | None = None) -> str:
    """The summary as aligned plain text."""
    rows = summarise(results) if rows is None else rows
    lines = [_HEADINGS, *(_cells(r) for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADINGS))]
    text = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(x, widths, strict=True)))
        for x in lines
    ]
    rule = "-" * len(text[0])
    return "\n".join([_title(results), rule, text[0], rule, *text[1:], rule, _footnote(results.protocol, rows)])


def markdown_table(results: Results, rows: Sequence[Row] | None = None) -> str:
    """The summary as a Markdown table, the best method in bold, the protocol below it."""
    rows = summarise(results) if rows is None else rows
    best = _best(rows)
    lines = [
        f"**{_title(results)}**",
        "",
        "| " + " | ".join(_HEADINGS) + " |",
        "|" + "|".join([":---"] + ["---:"] * (len(_HEADINGS) - 1)) + "|",
    ]
    for row in rows:
        cells = _cells(row)
        if row.method == best:
            cells = (f"**{cells[0]}**", *cells[1:])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _footnote(results.protocol, rows), ""])


def _cells(row: Row) -> tuple[str, ...]:
    better = "" if row.improvement is None else f"{row.improvement.value:.2f}"
    return (
        row.method,
        interval_text(row.mean, digits(row.mean.value)),
        "" if row.iqm is None else interval_text(row.iqm, 2),
        _share(row.at_least_behaviour),
        _share(row.above_meta),
        better,
    )


def interval_text(x: Interval, places: int) -> str:
    """The estimate and its interval with so many decimals; a given number alone."""
    value = f"{x.value:.{places}f}"
    return value if math.isnan(x.low) else f"{value} [{x.low:.{places}f}, {x.high:.{places}f}]"


def digits(value: float) -> int:
    """Enough decimals to tell the ends of an interval apart, without noise: 1287 but -4.97."""
    size = abs(value)
    return 0 if size >= 1000 else 1 if size >= 100 else 2


def share_above(run: Compared) -> str:
    """Of the tasks, those on which the run returns more than the log; nothing for the log itself."""
    return "" if run.method == BEHAVIOUR else _share(run.above_behaviour)


def _share(x: float | None) -> str:
    return "" if x is None else f"{100 * x:.0f} %"


def _best(rows: Sequence[Row]) -> str:
    return max(rows, key=lambda r: r.mean.value).method


def _title(results: Results) -> str:
    seeds, tasks = len(results.protocol.seeds), len(results.tasks)
    return f"{results.family}/{results.quality}: {counted(tasks, 'test task')}, {counted(seeds, 'seed')}"


def counted(n: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _footnote(p: Protocol, rows: Sequence[Row]) -> str:
    parts = [
        f"context {p.context}",
        f"policy {p.policy}",
        f"checkpoint {p.checkpoint}",
        f"{counted(p.episodes, 'episode')} per task and seed",
        f"physics {p.physics}",
        p.precision,
        *([p.budget] if p.budget else []),
        f"{100 * rows[-1].mean.confidence:g} % bootstrap intervals over {rows[-1].mean.resampled}",
    ]
    columns = (
        "score: 0 random, 1 expert; ≥ data, > meta: share of tasks at or above the logged behaviour, above "
        "the meta-policy; P(better): probability of beating the logged behaviour."
    )
    return f"Protocol: {'; '.join(parts)}.\nColumns: {columns}"
