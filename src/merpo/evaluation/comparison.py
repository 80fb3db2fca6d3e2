"""Several runs on the tasks that they share: each run's scores, and the probability that one improves on another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from merpo.errors import ConfigError, DataError
from merpo.evaluation.statistics import Interval, bootstrap_interval, probability_of_improvement
from merpo.evaluation.table import BEHAVIOUR, Results


@dataclass(frozen=True)
class Compared:
    """One run, by one of its methods, on the common tasks."""

    run: str
    seeds: int
    mean: Interval
    """Mean return."""
    iqm: Interval | None
    """Interquartile mean of the normalised scores (0 random, 1 expert), where both are known."""
    above_behaviour: float
    """Share of tasks with a mean return above the logged behaviour's."""


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    family: str
    method: str
    tasks: tuple[str, ...]
    """The tasks that all runs were evaluated on."""
    runs: tuple[Compared, ...]
    better: tuple[tuple[Interval | None, ...], ...]
    """better[i][j]: probability that a run of i returns more than one of j on a task; None on the diagonal."""
    cautions: tuple[str, ...]
    """What makes the runs unlike each other."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; numbers that are not finite are null."""

        def plain(x: Any) -> Any:
            if isinstance(x, dict):
                return {k: plain(v) for k, v in x.items()}
            if isinstance(x, list | tuple):
                return [plain(v) for v in x]
            return None if isinstance(x, float) and not math.isfinite(x) else x

        return {"format": "merpo-comparison", "format_version": 1, **plain(asdict(self))}


def compare(results: Mapping[str, Results], method: str = "merpo", resamples: int = 2000) -> Comparison:
    """Compare runs by name. DataError where families differ or no task is common, ConfigError for an unknown method."""
    if len(results) < 2:
        raise ConfigError(f"results: expected at least two runs to compare, got {len(results)}.")
    names, found = list(results), list(results.values())
    families = {r.family for r in found}
    if len(families) > 1:
        raise DataError(f"runs are of different families: {', '.join(sorted(families))}. Compare runs of one family.")
    for name, r in results.items():
        if method not in (BEHAVIOUR, *r.returns):
            raise ConfigError(f"method={method!r}: run {name!r} has {', '.join(r.returns)}. Choose one that all have.")
    tasks = tuple(t for t in found[0].tasks if all(t in r.tasks for r in found))
    if not tasks:
        raise DataError(f"runs {', '.join(names)} share no task: evaluate them on the same test tasks.")
    returns = [_on(r, method, tasks) for r in found]
    rows = [_row(name, r, method, tasks, resamples) for name, r in results.items()]
    better = tuple(
        tuple(None if i == j else probability_of_improvement(a, b, resamples=resamples) for j, b in enumerate(returns))
        for i, a in enumerate(returns)
    )
    return Comparison(found[0].family, method, tasks, tuple(rows), better, _cautions(results, tasks))


def _index(r: Results, tasks: Sequence[str]) -> list[int]:
    return [r.tasks.index(t) for t in tasks]


def _on(r: Results, method: str, tasks: Sequence[str]) -> np.ndarray:
    array = r.behaviour[None, :, None] if method == BEHAVIOUR else r.returns[method]
    return np.asarray(array, np.float64)[:, _index(r, tasks)]


def _row(name: str, r: Results, method: str, tasks: Sequence[str], resamples: int) -> Compared:
    own = _on(r, method, tasks)
    iqm = None
    if r.normalisable:
        iqm = bootstrap_interval(r.normalised(method)[:, _index(r, tasks)], "iqm", resamples=resamples)
    above = np.mean(own.mean((0, 2)) > r.behaviour[_index(r, tasks)])
    return Compared(name, len(own), bootstrap_interval(own, resamples=resamples), iqm, float(above))


def _cautions(results: Mapping[str, Results], tasks: Sequence[str]) -> tuple[str, ...]:
    found = list(results.values())
    said = []
    if any(len(r.tasks) > len(tasks) for r in found):
        said.append(f"only the {len(tasks)} tasks that all runs share are compared")
    for what, values in (
        ("data quality", {r.quality for r in found}),
        ("physics", {r.protocol.physics for r in found}),
        ("episodes per task and seed", {str(r.protocol.episodes) for r in found}),
        ("number of seeds", {str(len(r.protocol.seeds)) for r in found}),
        ("budget", {r.protocol.budget for r in found}),
    ):
        if len(values) > 1:
            said.append(f"runs differ in {what}: {' | '.join(sorted(values))}")
    if any(len(r.protocol.seeds) == 1 for r in found):
        said.append("a run of one seed says nothing about how results vary from seed to seed")
    return tuple(said)
