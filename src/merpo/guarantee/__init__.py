"""Improvement that is proved on finite MDPs, and certified from logs elsewhere (docs/guarantee.md)."""

from merpo.guarantee.certificate import Certificate, CertificateConfig, Comparison, certify, choose, split_log
from merpo.guarantee.exact import (
    Balance,
    Log,
    conservative_values,
    improve,
    improve_clone,
    meta_policy,
    nu,
    read_log,
    regularised_policy,
)
from merpo.guarantee.maximiser import Maximum, distance, maximise, objective
from merpo.guarantee.mdp import (
    MDP,
    TaskPrior,
    action_values,
    behaviour_policy,
    draw_counts,
    occupancy,
    optimal_policy,
    state_values,
    value,
)
from merpo.guarantee.sweep import SweepConfig, summarise, sweep
from merpo.guarantee.theorem import Judgement, judge, sampling_bound

__all__ = [
    "MDP",
    "Balance",
    "Certificate",
    "CertificateConfig",
    "Comparison",
    "Judgement",
    "Log",
    "Maximum",
    "SweepConfig",
    "TaskPrior",
    "action_values",
    "behaviour_policy",
    "certify",
    "choose",
    "conservative_values",
    "distance",
    "draw_counts",
    "improve",
    "improve_clone",
    "judge",
    "maximise",
    "meta_policy",
    "nu",
    "objective",
    "occupancy",
    "optimal_policy",
    "read_log",
    "regularised_policy",
    "sampling_bound",
    "split_log",
    "state_values",
    "summarise",
    "sweep",
    "value",
]
