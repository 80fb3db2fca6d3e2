"""The record of a behaviour policy's training (`merpo.tasks.training_record`) for people: a page and a curve."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from merpo.report.style import BLUE, INK, VERMILION, figure

FEW_TASKS = 4
"""Up to so many tasks each has its own column."""


def behaviour_markdown(record: Mapping[str, Any]) -> str:
    """The page of one family: commands, settings, a row per checkpoint, what its expert reaches."""
    name, expert = record["family"], _expert(record)
    tasks = len(record["expert"])
    lines = [
        f"# Behaviour policies of {name}",
        "",
        f"One privileged SAC for {_all(tasks)} tasks (it sees the true task){_time(record)}; a single seed,"
        f" {record['seed']}.",
        "",
        f"![Return against updates, over the tasks of {name}]({name}.png)",
        "",
        *(f"    {command}" for command in commands(record)),
        "",
        f"Settings that differ from the default (`SACConfig`): {_settings(record['changed'])}.",
        "" if record["whole"] else "Only the shipped checkpoints are on record.",
        "",
        *_expertise(record, expert),
        "",
        f"Deterministic return, {'per task' if tasks <= FEW_TASKS else f'over the {tasks} tasks'}, on the few starts on"
        " which checkpoints were chosen; the best of them is therefore optimistic:",
        "",
        *_table(record["checkpoints"], tasks),
        "",
        f"Numbers per task: [{name}.json]({name}.json). This page is made from them by `merpo behaviour record`.",
        "",
    ]
    return "\n".join(line for line, before in zip(lines, ["", *lines], strict=False) if line or before)


def commands(record: Mapping[str, Any]) -> list[str]:
    """The command lines of training and selection."""
    name = record["family"]
    made = []
    for leg in record["legs"]:
        line = f"merpo behaviour train {name} --out runs/{name} --updates {leg['updates']} --every {record['every']}"
        made.append(f"{line} --seed {record['seed']}{' --resume' if leg['from'] else ''}")
    return [*made, f"merpo behaviour select runs/{name}"]


def _expert(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(row for row in record["checkpoints"] if "expert" in row["qualities"])


def _all(tasks: int) -> str:
    return "both" if tasks == 2 else f"all {tasks}"


def _time(record: Mapping[str, Any]) -> str:
    return (
        "" if record["seconds"] is None else f", {record['seconds'] / 60:.0f} minutes on one core of a shared machine"
    )


def _settings(changed: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in changed.items()) or "none"


def _figures(returns: Sequence[float]) -> str:
    if len(returns) <= FEW_TASKS:
        return " and ".join(number(r) for r in returns)
    return f"mean {number(float(np.mean(returns)))}, lowest {number(min(returns))}, highest {number(max(returns))}"


def number(value: float) -> str:
    """A return with as many digits as mean something."""
    return f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def _expertise(record: Mapping[str, Any], expert: Mapping[str, Any]) -> list[str]:
    reached = (
        f"The expert ({expert['updates']} updates, {expert['env_steps']} environment steps) on {record['fresh_starts']}"
        f" fresh starts per task returns {_figures(record['expert'])}; uniform actions {_figures(record['random'])}."
    )
    if record["train_tasks"] != record["test_tasks"]:
        train, test = (float(np.mean([record["expert"][t] for t in record[k]])) for k in ("train_tasks", "test_tasks"))
        reached += (
            f" That is {number(train)} over the training tasks and {number(test)} over the test tasks; it was trained"
            " on all of them."
        )
    if record["published"]:
        level = f"Published expert level: {record['published']['text']}."
    else:
        level = "No published level is known for this family as it is defined here."
    own = "What a SAC of a task's own reaches, where that was measured: [own_agents.md](own_agents.md)."
    return [reached, level, own]


def _table(rows: Sequence[Mapping[str, Any]], tasks: int) -> list[str]:
    columns = [f"task {t}" for t in range(tasks)] if tasks <= FEW_TASKS else ["mean", "lowest", "highest"]
    lines = [
        f"| updates | environment steps | {' | '.join(columns)} | in |",
        f"|---:|---:|{'---:|' * len(columns)}---|",
    ]
    for row in rows:
        r = row["returns"]
        values = r if tasks <= FEW_TASKS else [row["mean_return"], min(r), max(r)]
        cells = [str(row["updates"]), str(row["env_steps"]), *map(number, values), ", ".join(row["qualities"])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def behaviour_figure(record: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Mean, lowest and highest return over tasks against updates; uniform actions and the published level as lines."""
    rows = record["checkpoints"]
    x = np.asarray([row["updates"] for row in rows]) / 1000
    returns = np.asarray([row["returns"] for row in rows])
    expert = _expert(record)
    with figure(path, 7.2, 4.2) as fig:
        ax = fig.subplots()
        ax.fill_between(
            x, returns.min(1), returns.max(1), color=BLUE, alpha=0.16, linewidth=0, label="lowest to highest task"
        )
        ax.plot(x, returns.mean(1), color=BLUE, linewidth=2.2, marker="o", markersize=3.2, label="mean over tasks")
        ax.plot(
            expert["updates"] / 1000, expert["mean_return"], color=BLUE, marker="*", markersize=14, linestyle="",
            markeredgecolor="white", label="expert", zorder=4,
        )  # fmt: skip
        uniform = float(np.mean(record["random"]))
        ax.axhline(
            uniform, color="#888888", linewidth=1.2, linestyle=(0, (1, 2)), label=f"uniform actions, {number(uniform)}"
        )
        if record["published"]:
            level = float(np.mean(record["published"]["returns"]))
            name = f"published expert, mean {number(level)}"
            ax.axhline(level, color=VERMILION, linewidth=1.4, linestyle=(0, (4, 3)), label=name)
        ax.set_xlim(0.0, None)
        ax.set_xlabel("gradient updates, thousands")
        ax.set_ylabel("deterministic return")
        ax.set_title(f"{record['family']}: one privileged SAC for {_all(returns.shape[1])} tasks")
        ax.grid(axis="y")
        ax.tick_params(length=0, colors=INK)
        fig.legend(loc="outside lower left", ncols=3, fontsize=9)
