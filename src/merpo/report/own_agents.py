"""Agents of a task's own beside the family's one expert (`merpo.tasks.own_agents`), as a page for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from merpo.evaluation.statistics import paired_difference
from merpo.report.behaviour import number


def own_markdown(record: Mapping[str, Any]) -> str:
    """The page: commands, a row per task, the differences with their intervals."""
    runs = record["runs"]
    starts = len(runs[0]["own"])
    lines = [
        "# Agents of a task's own",
        "",
        "What a SAC trained on one task alone reaches, beside the expert that is shipped for all tasks of the family,"
        " which is trained on all of them and sees which one it is in. Both with deterministic actions on the same"
        f" {starts} fresh starts; in brackets the bootstrap's 95 % interval of the difference, starts drawn anew.",
        "",
        *(f"    {command}" for command in commands(record)),
        "",
        "| family | task | environment steps | updates | best after | own agent | shipped expert | own - shipped |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        own, expert = np.asarray(run["own"]), np.asarray(run["expert"])
        cells = [
            run["family"], run["task"], run["all_env_steps"], run["asked"], run["updates"],
            number(float(own.mean())), number(float(expert.mean())),
            paired_difference(own[None, None], expert[None, None]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [""]
    for family in dict.fromkeys(run["family"] for run in runs):
        mine = [run for run in runs if run["family"] == family]
        share = np.mean([np.mean(run["expert"]) for run in mine]) / np.mean([np.mean(run["own"]) for run in mine])
        over = f"over {len(mine)} task{'s' * (len(mine) > 1)}"
        lines.append(f"- {family}: {over} the shipped expert has {share:.0%} of what an own agent has.")
    lines += [
        "",
        f"One run per task, seed {', '.join(map(str, sorted({run['seed'] for run in runs})))}; an agent is its run's"
        " best checkpoint on eight other starts. Numbers: [own_agents.json](own_agents.json). Made from them by"
        " `merpo behaviour compare`.",
        "",
    ]
    return "\n".join(lines)


def commands(record: Mapping[str, Any]) -> list[str]:
    """The command lines of training."""
    return [
        f"merpo behaviour train {run['family']} --tasks {run['task']} --out runs/{run['family']}-{run['task']}"
        f" --updates {run['asked']} --every {run['every']} --seed {run['seed']}"
        for run in record["runs"]
    ]
