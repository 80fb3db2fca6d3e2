"""Results of several methods on the same tasks, and the summary row of each: what tables and figures show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from merpo.errors import ConfigError, DataError
from merpo.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    normalised_score,
    probability_of_improvement,
)

FORMAT = "merpo-results"
FORMAT_VERSION = 1
BEHAVIOUR, META = "behaviour", "meta-policy"
"""Names with a meaning: the policy that logged the data, and the meta-policy before any adaptation."""


@dataclass(frozen=True)
class Protocol:
    """How the numbers were made; stands in every result."""

    episodes: int
    """Evaluation episodes per task and seed."""
    seeds: tuple[int, ...]
    """Training seeds: the runs."""
    context: str = "offline"
    """What a method sees of a test task: `offline`, its logged data only."""
    policy: str = "deterministic"
    """`deterministic` (the mean action) or `stochastic`."""
    checkpoint: str = "final"
    """Which checkpoint was evaluated; `final` means no selection by return."""
    physics: str = "none"
    """`none`, `modern` or `legacy`."""
    precision: str = "float32"
    """Number format and matmul precision of learning."""
    budget: str = ""
    """Gradient updates or the like that every method was given."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Packages the numbers were made with."""
    wall_time_s: float = 0.0
    """Seconds of training, adaptation and evaluation together, all seeds."""


@dataclass(frozen=True)
class Results:
    """Returns of every method on the same unseen tasks, with what they are measured against."""

    family: str
    """Task family."""
    quality: str
    """Quality of the logged data."""
    tasks: tuple[str, ...]
    """Names of the tasks, in the order of every task axis."""
    returns: Mapping[str, Float[np.ndarray, "run task episode"]]
    """Method name -> undiscounted returns; `meta-policy` is the meta-policy before adaptation."""
    behaviour: Float[np.ndarray, " task"]
    """Mean return of the logged episodes per task."""
    protocol: Protocol
    """How the numbers were made."""
    random: Float[np.ndarray, " _"] | None = None
    """Mean return of the random policy per task, if known: score 0."""
    expert: Float[np.ndarray, " _"] | None = None
    """Mean return of the expert per task, if known: score 1."""

    def __post_init__(self) -> None:
        n = len(self.tasks)
        if n == 0 or not self.returns:
            raise DataError("tasks and returns: expected at least one task and one method.")
        if BEHAVIOUR in self.returns:
            raise DataError(f"returns has a method {BEHAVIOUR!r}: give logged returns as `behaviour` instead.")
        for method, array in self.returns.items():
            shape = (len(self.protocol.seeds), n, self.protocol.episodes)
            if array.shape != shape:
                raise DataError(
                    f"returns[{method!r}] has shape {array.shape}, expected {shape}: seeds, tasks and "
                    "episodes as in the protocol."
                )
        vectors = {"behaviour": self.behaviour, "random": self.random, "expert": self.expert}
        for name, vector in vectors.items():
            if vector is not None and vector.shape != (n,):
                raise DataError(f"{name} has shape {vector.shape}, expected ({n},), one number per task.")
        arrays = {f"returns[{m!r}]": a for m, a in self.returns.items()}
        for name, vector in {**arrays, **{k: v for k, v in vectors.items() if v is not None}}.items():
            if not np.isfinite(vector).all():
                raise DataError(f"{name} holds NaN or infinite values: expected finite returns.")

    @property
    def normalisable(self) -> bool:
        """Whether both references are known, so that scores can be normalised."""
        return self.random is not None and self.expert is not None

    def task_means(self, method: str) -> Float[np.ndarray, " task"]:
        """Mean return per task over runs and episodes; `behaviour` gives the logged one."""
        return self.behaviour if method == BEHAVIOUR else self._of(method).mean((0, 2))

    def normalised(self, method: str) -> Float[np.ndarray, "run task episode"]:
        """Scores with 0 = random and 1 = expert per task; `behaviour` has one run and one episode."""
        if self.random is None or self.expert is None:
            raise DataError("random or expert is unknown: scores cannot be normalised. Use raw returns.")
        returns = self.behaviour[None, :, None] if method == BEHAVIOUR else self._of(method)
        return normalised_score(np.asarray(returns, np.float64), self.random, self.expert, self.tasks)

    def _of(self, method: str) -> np.ndarray:
        if method not in self.returns:
            known = ", ".join([BEHAVIOUR, *self.returns])
            raise ConfigError(f"method={method!r}: no such method in these results. Known: {known}.")
        return self.returns[method]


@dataclass(frozen=True)
class Row:
    """Summary of one method."""

    method: str
    """Its name."""
    mean: Interval
    """Mean raw return over runs and tasks."""
    iqm: Interval | None
    """Interquartile mean of the normalised scores; None without references."""
    at_least_behaviour: float | None
    """Share of tasks on which the method's mean return is at least that of the logged data."""
    above_meta: float | None
    """Share of tasks on which it is above the meta-policy's; None without a meta-policy."""
    improvement: Interval | None
    """Probability that a run's return on a task is above the logged mean (ties count one half)."""


def summarise(results: Results, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> list[Row]:
    """One row per method, the logged behaviour first. Its own row has no interval: it is a given log."""
    logged = np.asarray(results.behaviour, np.float64)
    score = _given(_iqm(results.normalised(BEHAVIOUR)), confidence) if results.normalisable else None
    meta = results.task_means(META) if META in results.returns else None
    above = None if meta is None else float(np.mean(logged > meta))
    rows = [Row(BEHAVIOUR, _given(float(logged.mean()), confidence), score, None, above, None)]
    for method, array in results.returns.items():
        returns = np.asarray(array, np.float64)
        means = returns.mean((0, 2))
        scores = results.normalised(method) if results.normalisable else None
        rows.append(
            Row(
                method=method,
                mean=bootstrap_interval(returns, "mean", confidence, resamples, seed),
                iqm=None if scores is None else bootstrap_interval(scores, "iqm", confidence, resamples, seed),
                at_least_behaviour=float(np.mean(means >= logged)),
                above_meta=None if meta is None or method == META else float(np.mean(means > meta)),
                improvement=probability_of_improvement(returns, logged[None, :, None], confidence, resamples, seed),
            )
        )
    return rows


def results_to_json(results: Results, rows: list[Row] | None = None) -> dict[str, Any]:
    """Everything as strict JSON values; the summary rows are there for people, numbers they lack are null."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "family": results.family,
        "quality": results.quality,
        "protocol": {**dataclasses.asdict(results.protocol), "seeds": list(results.protocol.seeds)},
        "summary": [_finite(dataclasses.asdict(r)) for r in (summarise(results) if rows is None else rows)],
        "tasks": list(results.tasks),
        "behaviour": results.behaviour.tolist(),
        "random": None if results.random is None else results.random.tolist(),
        "expert": None if results.expert is None else results.expert.tolist(),
        "returns": {method: array.tolist() for method, array in results.returns.items()},
    }


def results_from_json(data: Mapping[str, Any]) -> Results:
    """Rebuild the results; the summary is not read, it follows from the rest. Raises `DataError`."""
    if data.get("format") != FORMAT:
        raise DataError(f"format={data.get('format')!r}: expected {FORMAT!r}. Give a results file of merpo.")
    if data.get("format_version") != FORMAT_VERSION:
        raise DataError(f"format_version={data.get('format_version')!r}: expected {FORMAT_VERSION}.")
    try:
        protocol = Protocol(**{**data["protocol"], "seeds": tuple(data["protocol"]["seeds"])})
        vectors = {
            name: None if data[name] is None else np.asarray(data[name], np.float64)
            for name in ("behaviour", "random", "expert")
        }
        return Results(
            family=data["family"],
            quality=data["quality"],
            tasks=tuple(data["tasks"]),
            returns={method: np.asarray(a, np.float64) for method, a in data["returns"].items()},
            protocol=protocol,
            **vectors,  # type: ignore[arg-type]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"A results file without a valid {error}: write it again.") from error


def _iqm(scores: np.ndarray) -> float:
    return bootstrap_interval(scores, "iqm", resamples=1).value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _given(value: float, confidence: float) -> Interval:
    return Interval(value, math.nan, math.nan, confidence, "nothing: a given log")
