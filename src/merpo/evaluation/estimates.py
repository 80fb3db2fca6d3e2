"""All off-policy estimates of one policy side by side, and how well each agrees with simulated returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from merpo.evaluation.features import Smooth
from merpo.evaluation.offpolicy import (
    Density,
    Problem,
    Target,
    doubly_robust,
    fitted_q,
    importance_sampling,
    task_arrays,
)
from merpo.evaluation.posterior import Systems
from merpo.evaluation.stitched import rollouts

SYSTEMS, ENSEMBLE = "drawn systems", "ensemble rollouts"
ESTIMATORS = (
    SYSTEMS,
    ENSEMBLE,
    "fitted Q",
    "stitched rollouts",
    "weighted IS",
    "per-decision IS",
    "doubly robust",
    "weighted DR",
)
"""In the order of tables; the first is for low-dimensional systems, the second needs a learned ensemble."""


def estimates(
    problem: Problem,
    act: Callable[[np.ndarray], np.ndarray],
    features: Smooth,
    behaviour: Density,
    systems: Systems | None = None,
    imagined: float | None = None,
) -> dict[str, float]:
    """J of a deterministic policy on continuous states, by every estimator there is what it needs for.

    `behaviour` is from `estimate_behaviour`; `imagined` is the policy's return in the learned ensemble.
    """
    target, found = Target(act), {}
    if systems is not None:
        found[SYSTEMS] = systems.returns(target).value
    if imagined is not None:
        found[ENSEMBLE] = imagined
    fitted, t = fitted_q(problem, target, features), task_arrays(problem.task)
    # importance sampling needs support: the policy with noise of the behaviour's own size
    noisy = Target(act, spread=float(np.sqrt(np.mean((t.action - act(t.obs)) ** 2)) * 0.5 + 0.05))
    return found | {
        "fitted Q": fitted.value,
        "stitched rollouts": rollouts(problem, target, features).value,
        "weighted IS": float(importance_sampling(problem, noisy, behaviour, weighted=True).mean()),
        "per-decision IS": float(importance_sampling(problem, noisy, behaviour).mean()),
        "doubly robust": float(doubly_robust(problem, noisy, behaviour, features, fitted).mean()),
        "weighted DR": float(doubly_robust(problem, noisy, behaviour, features, fitted, weighted=True).mean()),
    }


def ranks(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ranks from 1, ties shared."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Per estimator: Spearman's rank correlation with the true returns, bias and root mean squared error, and n.

    Each row is one policy: its `true` return, its estimates by name, and perhaps its `task`. With three policies of a
    task or more there is `rank_within_tasks`, too, the mean over tasks of the rank correlation among their policies:
    whether an estimator can choose one. The first also says whether it tells good tasks from bad ones.
    """
    true, found = np.array([r["true"] for r in rows], np.float64), {}
    tasks = [r.get("task") for r in rows]
    places = [np.array([t == name for t in tasks]) for name in dict.fromkeys(tasks) if name is not None]
    for name in (n for n in ESTIMATORS if all(n in r for r in rows)):
        value = np.array([r[name] for r in rows], np.float64)
        error = value - true
        numbers = {"rank_correlation": _rank_correlation(value, true)}
        if within := [_rank_correlation(value[p], true[p]) for p in places if p.sum() > 2]:
            numbers["rank_within_tasks"] = float(np.mean(within))
        numbers |= {"bias": float(error.mean()), "rmse": float(np.sqrt((error**2).mean()))}
        found[name] = {k: round(v, 3) for k, v in numbers.items()} | {"n": len(rows)}
    return found


def _rank_correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def agreement_markdown(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A table of `agreement` by case."""
    names = [n for n in ESTIMATORS if any(n in row for row in found.values())]
    lines = ["| data | n | " + " | ".join(names) + " |", "|:---|---:|" + "---:|" * len(names)]
    for case, row in found.items():
        cells = [_agreement_text(c) if (c := row.get(n)) else "" for n in names]
        lines.append(f"| {case} | {next(iter(row.values()))['n']} | " + " | ".join(cells) + " |")
    within = " (within a task)" if any("rank_within_tasks" in c for row in found.values() for c in row.values()) else ""
    head = f"Off-policy estimates against simulated returns: rank correlation{within} / bias / root mean squared error."
    return head + "\n\n" + "\n".join(lines) + "\n"


def _agreement_text(found: Mapping[str, float]) -> str:
    within = f" ({found['rank_within_tasks']:.2f})" if "rank_within_tasks" in found else ""
    numbers = (
        f"{found[k]:{'+' if k == 'bias' else ''}{'.3g' if abs(found[k]) > 1e5 else '.2f'}}" for k in ("bias", "rmse")
    )
    return " / ".join((f"{found['rank_correlation']:.2f}{within}", *numbers))
