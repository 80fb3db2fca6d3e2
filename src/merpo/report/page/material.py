"""What a page shows of one run: plain data, gathered by `merpo report`, drawn by the rest of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from merpo.data import Summary
from merpo.dynamics.calibration import ModelCheck
from merpo.evaluation import Interval, Results


@dataclass(frozen=True)
class Trace:
    """Behaviour beside policies on one task: lines [step, column] of logged episodes and of one episode per policy."""

    task: str
    logged: tuple[Float[np.ndarray, "_ column"], ...]
    policies: Mapping[str, Float[np.ndarray, "_ column"]]
    goal: tuple[float, float] | None = None
    """Of point robots."""


@dataclass(frozen=True)
class Traces:
    """The picture of what policies do."""

    kind: Literal["paths", "returns", "actions"]
    """`paths`: positions in the plane. `returns`: step, return so far, a state column. `actions`: step, the logged
    action and those the policies would have taken, along a logged episode (no simulator)."""
    tasks: tuple[Trace, ...]
    columns: tuple[str, ...] = ()
    """What the columns are."""


@dataclass(frozen=True)
class RunView:
    """One run."""

    name: str
    data: str
    """Name of the training data."""
    seeds: tuple[int, ...]
    train_tasks: int
    adapted: Mapping[str, Any]
    """As in `run.json`."""
    seconds: Mapping[str, float]
    config: Mapping[str, Any]
    config_hash: str
    versions: Mapping[str, Any]
    results: Results | None = None
    summary: Summary | None = None
    """The data set in figures."""
    logged: Mapping[str, Interval] = field(default_factory=dict)
    """Mean logged return by test task."""
    curves: Mapping[str, Mapping[str, Float[np.ndarray, "round seed task"]]] = field(default_factory=dict)
    """By stage (`train`, or a method), then by metric."""
    every: int = 1
    """Gradient updates per round of the curves."""
    certificates: Mapping[str, Mapping[str, list[Mapping[str, Any]]]] = field(default_factory=dict)
    """As in `certificates.json`: method, seed, one per task."""
    model_error: Float[np.ndarray, "first tasks checks"] | None = None
    check_every: int = 1
    model: ModelCheck | None = None
    traces: Traces | None = None
    notes: tuple[str, ...] = ()
    """What could not be shown, and why."""
