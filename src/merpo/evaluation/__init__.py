"""Simulated returns, off-policy estimates, statistics over few runs, and the results that tables and figures show."""

from merpo.evaluation.anchors import Anchors, Share, over_anchors
from merpo.evaluation.comparison import Compared, Comparison, compare
from merpo.evaluation.estimates import ESTIMATORS, agreement, agreement_markdown, estimates
from merpo.evaluation.features import OneHot, Smooth
from merpo.evaluation.imagined import imagined_return
from merpo.evaluation.offpolicy import (
    Problem,
    Target,
    doubly_robust,
    estimate_behaviour,
    fitted_q,
    importance_sampling,
)
from merpo.evaluation.posterior import Systems
from merpo.evaluation.simulate import evaluate_policies, task_id
from merpo.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    interquartile_mean,
    normalised_score,
    paired_difference,
    probability_of_improvement,
)
from merpo.evaluation.stitched import rollouts
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
    "ESTIMATORS",
    "META",
    "Anchors",
    "Compared",
    "Comparison",
    "Interval",
    "OneHot",
    "Problem",
    "Protocol",
    "Results",
    "Row",
    "Share",
    "Smooth",
    "Systems",
    "Target",
    "agreement",
    "agreement_markdown",
    "bootstrap_interval",
    "compare",
    "doubly_robust",
    "estimate_behaviour",
    "estimates",
    "evaluate_policies",
    "fitted_q",
    "imagined_return",
    "importance_sampling",
    "interquartile_mean",
    "normalised_score",
    "over_anchors",
    "paired_difference",
    "probability_of_improvement",
    "results_from_json",
    "results_to_json",
    "rollouts",
    "summarise",
    "task_id",
]
