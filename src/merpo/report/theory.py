"""The map of the improvement theorem: where its conditions hold, and how often policies improve there and elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from merpo.report.style import BLUE, GREEN, INK, VERMILION, figure


def theory_figure(summary: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the summary of a sweep (`merpo.guarantee.summarise`) as a PNG.

    Two maps over (alpha, lambda): how often the conditions hold, and how often the policy is truly better than both
    anchors. Beside them the second by alpha, with the conditions, without them, and for the practical KL form.
    """
    grid = summary["map"]
    alphas, lambdas = (sorted({row[name] for row in grid}) for name in ("alpha", "lambda"))
    held, better = (np.full((len(lambdas), len(alphas)), np.nan) for _ in range(2))
    for row in grid:
        at = lambdas.index(row["lambda"]), alphas.index(row["alpha"])
        held[at] = row["conditions"]
        better[at] = _overall(row)
    with figure(path, 12.5, 4.3) as fig:
        axes = fig.subplots(1, 3, width_ratios=[1.0, 1.0, 1.15])
        for ax, shares, title in (
            (axes[0], held, "The conditions hold"),
            (axes[1], better, "Truly better than both anchors"),
        ):
            _map(ax, shares, alphas, lambdas)
            ax.set_title(title)
        axes[0].set_ylabel("lambda")
        _by_alpha(axes[2], summary["by"]["alpha"])
        fig.suptitle(
            f"{summary['instances_tried']} instances on {summary['mdps']} random MDPs: the conditions hold in"
            f" {summary['instances']}, violations {summary['violations']}",
            x=0.01, ha="left", fontsize=13, fontweight="bold",
        )  # fmt: skip


def _overall(row: Mapping[str, Any]) -> float:
    """The share over all instances, from those with and without the conditions."""
    parts = ((row["conditions"], row["true_conclusion_with"]), (1 - row["conditions"], row["true_conclusion_without"]))
    return float(sum(weight * share for weight, share in parts if share is not None))


def _map(ax: Any, shares: np.ndarray, alphas: list[float], lambdas: list[float]) -> None:
    ax.imshow(shares, origin="lower", aspect="auto", cmap="Blues", vmin=0.0, vmax=1.0)
    for (i, j), share in np.ndenumerate(shares):
        ax.text(j, i, f"{100 * share:.0f}", ha="center", va="center", color="white" if share > 0.6 else INK, fontsize=9)
    ax.set_xticks(range(len(alphas)), [f"{a:g}" for a in alphas])
    ax.set_yticks(range(len(lambdas)), [f"{x:g}" for x in lambdas])
    ax.tick_params(length=0)
    ax.set_xlabel("alpha  (per cent of instances)")
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _by_alpha(ax: Any, rows: list[Mapping[str, Any]]) -> None:
    lines = {
        "conditions hold": ("true_conclusion_with", BLUE, "o"),
        "they do not": ("true_conclusion_without", VERMILION, "s"),
        "KL form, all": ("kl_true_conclusion", GREEN, "^"),
    }
    for name, (key, shade, marker) in lines.items():
        points = [(row["alpha"], 100 * row[key]) for row in rows if row[key] is not None]
        if points:
            x, y = zip(*points, strict=True)
            ax.plot(x, y, color=shade, marker=marker, markersize=5, linewidth=1.8, label=name)
    ax.axvspan(0.0, 0.5, color="#F3F3F3", zorder=0)
    ax.set_xlabel("alpha")
    ax.set_ylabel("truly better than both, %")
    ax.set_title("By alpha")
    ax.grid(axis="y")
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.25 * (high - low), high)
    ax.legend(loc="lower right", fontsize=9)
