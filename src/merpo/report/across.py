"""A study's cases taken together: one row per method over the test tasks of all families and qualities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from merpo.evaluation import (
    Interval,
    bootstrap_interval,
    interquartile_mean,
    normalised_score,
    probability_of_improvement,
)
from merpo.report.tables import counted, interval_text

HEADINGS = ("method", "score (IQM)", "P(MerPO better)")


@dataclass(frozen=True)
class Across:
    """A method in all cases."""

    label: str
    score: Interval | None
    """Interquartile mean of the normalised score over the tasks of all cases; None where a case has no references."""
    better: Interval | None
    """Probability that MerPO returns more on a task of these; None for MerPO itself, and where it did not run."""


def across(study: Mapping[str, Any]) -> list[Across]:
    """What can be said of all cases together, the best score first: the methods that all of them have.

    Nothing where there is a single case, where cases differ in the size of the log, and where there is a single seed,
    whose episodes an interval would need and `results.json` does not have.
    """
    groups = [g for g in study["groups"] if g["rows"]]
    if len(groups) < 2 or len(study["study"]["seeds"]) < 2 or len({g["logs"] for g in groups}) > 1:
        return []
    rows = [{r["label"]: np.asarray(r["returns"], np.float64)[..., None] for r in g["rows"]} for g in groups]
    shared = [label for label in rows[0] if all(label in r for r in rows)]
    returns = {label: np.concatenate([r[label] for r in rows], axis=1) for label in shared}
    names = {g["reference"] for g in groups}
    ours = returns.get(names.pop() or "") if len(names) == 1 else None
    scored = all(g["random"] is not None and g["expert"] is not None for g in groups)
    found = []
    for label, own in returns.items():
        score = _score(own, groups) if scored else None
        better = None if ours is None or own is ours else probability_of_improvement(ours, own)
        found.append(Across(label, score, better))
    return sorted(found, key=lambda row: -(row.score.value if row.score else 0.0))


def _score(returns: Float[np.ndarray, "run task 1"], groups: Sequence[Mapping[str, Any]]) -> Interval:
    low, high = (np.concatenate([g[name] for g in groups]) for name in ("random", "expert"))
    scores = normalised_score(returns, low, high)
    if len(scores) > 1:
        return bootstrap_interval(scores, "iqm")
    return Interval(float(interquartile_mean(scores.ravel())), math.nan, math.nan, 0.95, "")  # the data's: given


def across_markdown(study: Mapping[str, Any]) -> list[str]:
    """The table, with its heading; no lines where there is none."""
    rows = across(study)
    if not rows:
        return []
    groups = [g for g in study["groups"] if g["rows"]]
    tasks = counted(sum(len(g["tasks"]) for g in groups), "test task")
    lines = [f"**All {len(groups)} cases together**, {tasks}, the best score first.", ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|:---|---:|---:|"]
    for row in rows:
        cells = ("" if x is None else interval_text(x, 2) for x in (row.score, row.better))
        lines.append("| " + " | ".join((row.label, *cells)) + " |")
    return [*lines, ""]
