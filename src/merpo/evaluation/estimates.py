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

    Each row is one policy: its `true` return, and its estimates by name.
    """
    true, found = np.array([r["true"] for r in rows], np.float64), {}
    for name in (n for n in ESTIMATORS if all(n in r for r in rows)):
        value = np.array([r[name] for r in rows], np.float64)
        varied = len(rows) > 1 and np.ptp(value) > 0 and np.ptp(true) > 0
        rank = float(np.corrcoef(ranks(value), ranks(true))[0, 1]) if varied else 0.0
        error = value - true
        numbers = {"rank_correlation": rank, "bias": float(error.mean()), "rmse": float(np.sqrt((error**2).mean()))}
        found[name] = {k: round(v, 3) for k, v in numbers.items()} | {"n": len(rows)}
    return found


def agreement_markdown(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A table of `agreement` by case."""
    names = [n for n in ESTIMATORS if any(n in row for row in found.values())]
    lines = ["| data | n | " + " | ".join(names) + " |", "|:---|---:|" + "---:|" * len(names)]
    for case, row in found.items():
        cells = [
            f"{c['rank_correlation']:.2f} / {c['bias']:+.2f} / {c['rmse']:.2f}" if (c := row.get(n)) else ""
            for n in names
        ]
        lines.append(f"| {case} | {next(iter(row.values()))['n']} | " + " | ".join(cells) + " |")
    head = "Off-policy estimates against simulated returns: rank correlation / bias / root mean squared error."
    return head + "\n\n" + "\n".join(lines) + "\n"
