"""Simulated returns of policies, statistics over few runs, and the results that tables and figures show."""

from merpo.evaluation.simulate import evaluate_policies
from merpo.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    interquartile_mean,
    normalised_score,
    paired_difference,
    probability_of_improvement,
)
from merpo.evaluation.table import (
    BEHAVIOUR,
    META,
    Protocol,
    Results,
    Row,
    results_from_json,
    results_to_json,
    summarise,
)

__all__ = [
    "BEHAVIOUR",
    "META",
    "Interval",
    "Protocol",
    "Results",
    "Row",
    "bootstrap_interval",
    "evaluate_policies",
    "interquartile_mean",
    "normalised_score",
    "paired_difference",
    "probability_of_improvement",
    "results_from_json",
    "results_to_json",
    "summarise",
]
