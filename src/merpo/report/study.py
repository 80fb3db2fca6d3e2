"""Studies for people: tables, a figure, and the page of all results, from what `merpo bench` has written."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from merpo.errors import StorageError
from merpo.evaluation import BEHAVIOUR, Interval
from merpo.report.across import across_markdown
from merpo.report.overview import content_of, overview
from merpo.report.style import INK, colour, figure, label
from merpo.report.tables import counted, digits, interval_text
from merpo.runs import read_json

FORMAT, FORMAT_VERSION = "merpo-study", 1
RESULTS, TIMES, TABLE, FIGURE = "results.json", "times.json", "table.md", "figure.png"
HEADINGS = ("method", "mean return", "score (IQM)", "P(MerPO better)")
Study = Mapping[str, Any]
"""The content of a study's `results.json`."""
Group = Mapping[str, Any]
"""One table of it: a family, a quality, a size of log."""
COLUMNS = (
    "Raw undiscounted return and interquartile mean of the score (0 random, 1 expert) on the unseen test tasks, with"
    " 95 % stratified bootstrap intervals over seeds, or over tasks and episodes where there is one seed. P:"
    " probability that MerPO returns more than the row on a task, ties one half."
)


def read_results(path: Path) -> dict[str, Any]:
    """A study's `results.json`. StorageError for a missing or damaged file, or another one."""
    content: dict[str, Any] = read_json(path, "Run the study again.")
    if not is_study(content):
        raise StorageError(f"{str(path)!r} is not a study's results that this version of merpo reads.")
    return content


def is_study(content: Any) -> bool:
    """Whether this is the content of a study's `results.json`."""
    known = isinstance(content, dict) and content.get("format") == FORMAT
    return known and content.get("format_version") == FORMAT_VERSION


def study_markdown(study: Study, times: Mapping[str, Any] | None = None) -> str:
    """All tables of a study, and what they were made with."""
    lines = []
    for group in study["groups"]:
        lines += [f"**{group_title(study, group)}**: {group['budget']}.", ""]
        lines += _table(group)
        if group["missing"]:
            lines += [f"Diverged, so not in the table: {', '.join(group['missing'])}.", ""]
    lines += across_markdown(study)
    lines += [f"{COLUMNS} Code {study['code'].partition('+')[0]}, {study['code'].partition('+')[2][:12]}.", ""]
    if spent := _spent(times or {}):
        lines += [spent, ""]
    return "\n".join(lines)


def group_title(study: Study, group: Group) -> str:
    """Which data, how many tasks and seeds."""
    asked = study["study"]
    logs = counted(group["logs"] or asked["episodes"], "logged episode")
    return (
        f"{group['family']}/{group['quality']}, {logs}, {counted(len(group['tasks']), 'test task')},"
        f" {counted(len(asked['seeds']), 'seed')}"
    )


def _table(group: Group) -> list[str]:
    if not group["rows"]:
        return []
    best = max(row["mean"]["value"] for row in group["rows"])
    lines = ["| " + " | ".join(HEADINGS) + " |", "|:---|---:|---:|---:|"]
    for row in group["rows"]:
        cells = cells_of(row)
        name = f"**{cells[0]}**" if row["mean"]["value"] == best else cells[0]
        lines.append("| " + " | ".join((name, *cells[1:])) + " |")
    for name in ("random", "expert"):
        if group[name] is not None:
            mean = sum(group[name]) / len(group[name])
            lines.append(f"| *{name}* | {mean:.{digits(mean)}f} | {float(name == 'expert'):.2f} | |")
    return [*lines, ""]


def cells_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One row of a table as text."""
    mean, score, better = (None if row[k] is None else _read(row[k]) for k in ("mean", "score", "merpo_better"))
    assert mean is not None
    return (
        row["label"],
        interval_text(mean, digits(mean.value)),
        "" if score is None else interval_text(score, 2),
        "" if better is None else interval_text(better, 2),
    )


def _read(x: Mapping[str, Any]) -> Interval:
    low, high = (math.nan if x.get(k) is None else float(x[k]) for k in ("low", "high"))
    return Interval(float(x["value"]), low, high, 0.95, str(x.get("resampled", "")))


def _spent(times: Mapping[str, Any]) -> str:
    listed = [v for part in ("cells", "stages") for v in times.get(part, {}).values() if "seconds" in v]
    if not listed:
        return ""
    made_on = [v["machine"] for v in listed]
    machines = sorted({f"{m['cpu']}, {counted(m['cores'], 'core')}, jax {m['jax']}" for m in made_on})
    wall, core = (sum(v[k] for v in listed) / 60 for k in ("seconds", "cpu_seconds"))
    work = f"{counted(len(times['cells']), 'cell')} and {counted(len(times['stages']), 'meta-training')}"
    return f"{work}: {wall:.1f} minutes, {core:.1f} of one core, on {'; '.join(machines)}; one by one in `{TIMES}`."


def print_study(study: Study, stream: Any = None) -> None:
    """Print all tables of a study, with rich."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout if stream is None else stream)
    for group in study["groups"]:
        table = Table(title=group_title(study, group), title_justify="left")
        for i, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="right" if i else "left", no_wrap=True)
        best = max((row["mean"]["value"] for row in group["rows"]), default=0.0)
        for row in group["rows"]:
            # rich would read a bracket as markup
            cells = (Text(c.replace(" [", "\n[") if console.width < 96 else c) for c in cells_of(row))
            table.add_row(*cells, style="bold" if row["mean"]["value"] == best else None)
        console.print(table)


def study_figure(study: Study, path: str | os.PathLike[str]) -> None:
    """One panel per family and quality: returns by method; against alpha or the size of logs where these are varied."""
    asked = study["study"]
    rows, columns = len(asked["families"]), len(asked["qualities"])
    most = max(len(g["rows"]) for g in study["groups"])
    lined = bool(asked["alpha"] or asked["logs"])
    height = 2.9 if lined else max(1.6, 0.8 + 0.24 * most)
    with figure(path, max(5.0, 3.4 * columns + 1.2), rows * height + 0.7) as fig:
        axes = fig.subplots(rows, columns, squeeze=False)
        for i, family in enumerate(asked["families"]):
            for j, quality in enumerate(asked["qualities"]):
                ax = axes[i][j]
                groups = [g for g in study["groups"] if (g["family"], g["quality"]) == (family, quality) and g["rows"]]
                ax.set_title(f"{family}, {quality}", fontsize=9.5)
                if asked["logs"]:
                    _against_logs(ax, groups)
                elif groups and asked["alpha"]:
                    _against_alpha(ax, groups[0])
                elif groups:
                    _dots(ax, groups[0], names=j == 0)
                ax.tick_params(length=0, colors=INK)
        seen: dict[str, Any] = {}
        for ax in axes.ravel():
            for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
                seen.setdefault(name, handle)
        if seen:
            fig.legend(seen.values(), seen.keys(), loc="outside lower left", ncols=2 * columns + 1, fontsize=8.5)


def _whisker(x: Mapping[str, Any]) -> list[list[float]]:
    low, high = (x["value"] if x[k] is None else x[k] for k in ("low", "high"))
    return [[x["value"] - low], [high - x["value"]]]


def _methods(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r["method"] for r in rows))


def _dots(ax: Any, group: Group, names: bool) -> None:
    rows = group["rows"]
    for y, row in enumerate(rows):
        shade = colour(row["method"], _methods(rows))
        ax.errorbar(row["mean"]["value"], -y, xerr=_whisker(row["mean"]), fmt="o", color=shade, markersize=5)
    ax.set_yticks([-y for y in range(len(rows))], [label(r["label"]) for r in rows] if names else [])
    ax.set_xlabel("mean return")
    ax.grid(axis="x")


def _against_alpha(ax: Any, group: Group) -> None:
    rows = group["rows"]
    for method in _methods(rows):
        shade = colour(method, _methods(rows))
        fixed = [r for r in rows if r["method"] == method and isinstance(r.get("alpha"), float)]
        if fixed:
            value = [r["mean"]["value"] for r in fixed]
            spread = [[_whisker(r["mean"])[k][0] for r in fixed] for k in (0, 1)]
            ax.errorbar([r["alpha"] for r in fixed], value, yerr=spread, color=shade, marker="o", label=label(method))
        for row in rows:
            if row["method"] == method and row not in fixed:
                kind = (0, (4, 2)) if row.get("alpha") else (0, (1, 2))
                ax.axhline(row["mean"]["value"], color=shade, linestyle=kind, label=label(row["label"]))
    ax.set_xlabel("alpha")
    ax.set_ylabel("mean return")
    ax.grid(axis="y")


def _against_logs(ax: Any, groups: Sequence[Group]) -> None:
    names = list(dict.fromkeys(r["label"] for g in groups for r in g["rows"]))
    methods = {r["label"]: r["method"] for g in groups for r in g["rows"]}
    for name in names:
        points = [(g["logs"], r["mean"]) for g in groups for r in g["rows"] if r["label"] == name]
        spread = [[_whisker(m)[k][0] for _, m in points] for k in (0, 1)]
        kind = ":" if name == BEHAVIOUR else "-"
        shade = colour(methods[name], tuple(methods.values()))
        ax.errorbar(
            [n for n, _ in points], [m["value"] for _, m in points], yerr=spread, color=shade, marker="o", markersize=4,
            linestyle=kind, label=label(name),
        )  # fmt: skip
    sizes = [g["logs"] for g in groups]
    ax.set_xscale("log")
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("logged episodes of a test task")
    ax.set_ylabel("mean return")
    ax.grid(axis="y")


def results_page(root: str | os.PathLike[str], link: str = "../results") -> str:
    """The page of results: MerPO beside its anchors, a section per study stored below `root`, links to what else is
    there.

    `link` leads from the page to `root`. The same files give the same page; there may be none.
    """
    folders = sorted(p for p in Path(root).iterdir() if p.is_dir()) if Path(root).is_dir() else []
    studies = {p.name: read_results(p / RESULTS) for p in folders if _holds_study(p)}
    lines = [
        "# Results",
        "",
        "Made by `merpo results` from the files below `results/`; a test fails where this page says anything else. How",
        "studies are run: [commands](commands.md#studies); what the methods are: [rivals](rivals.md).",
        "",
    ]
    if table := overview(Path(root), link):
        lines += ["## MerPO beside its anchors", "", *table]
    if not studies:
        lines += ["No study is stored yet.", ""]
    for name, study in studies.items():
        lines += [f"## {study['name']}", ""]
        lines += [f"{study['about']}", ""] if study["about"] else []
        lines += [
            f"    merpo bench studies/{study['name']}.toml --out runs/{study['name']} --results results/{name}",
            "",
        ]
        if (Path(root) / name / FIGURE).exists():
            lines += [f"![{study['name']}]({link}/{name}/{FIGURE})", ""]
        lines += [study_markdown(study, _times(Path(root) / name / TIMES))]
    others = [p for p in folders if p.name not in studies and (p / "README.md").exists()]
    if others:
        lines += ["## Other results", ""]
        lines += [f"- [{_heading(p / 'README.md')}]({link}/{p.name}/README.md)" for p in others]
        lines += [""]
    return "\n".join(lines)


def _holds_study(folder: Path) -> bool:
    return is_study(content_of(folder / RESULTS))


def _times(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes()) if path.exists() else {}


def _heading(path: Path) -> str:
    lines = path.read_text().splitlines()
    return next((line.removeprefix("# ").strip() for line in lines if line.startswith("# ")), path.parent.name)
