"""Tables and figures for people."""

from merpo.report.figures import (
    adaptation_figure,
    learning_curve_figure,
    returns_figure,
    trajectories_figure,
)
from merpo.report.store import load_results, save_results
from merpo.report.tables import markdown_table, plain_table, print_table

__all__ = [
    "adaptation_figure",
    "learning_curve_figure",
    "load_results",
    "markdown_table",
    "plain_table",
    "print_table",
    "returns_figure",
    "save_results",
    "trajectories_figure",
]
