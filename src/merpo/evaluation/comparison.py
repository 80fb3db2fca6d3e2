"""Several runs on the tasks that they share: scores of each, by one or several of its methods, and the probability that
one improves on another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from merpo.errors import ConfigError, DataError
from merpo.evaluation.statistics import Interval, bootstrap_interval, probability_of_improvement
from merpo.evaluation.table import BEHAVIOUR, Results

MERPO = "merpo"


@dataclass(frozen=True)
class Compared:
    """One run, by one of its methods, on the common tasks."""

    run: str
    method: str
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
    tasks: tuple[str, ...]
    """The tasks that all runs were evaluated on."""
    runs: tuple[Compared, ...]
    better: tuple[tuple[Interval | None, ...], ...]
    """better[i][j]: probability that a run of i returns more than one of j on a task; None on the diagonal."""
    cautions: tuple[str, ...]
    """What makes the runs unlike each other."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of the rows, each once."""
        return tuple(dict.fromkeys(r.method for r in self.runs))

    @property
    def labels(self) -> tuple[str, ...]:
        """What to call each row: by its run; where runs appear by different methods by these, or by both."""
        if len(self.methods) == 1:
            return tuple(r.run for r in self.runs)
        return tuple(r.method if len(self.methods) == len(self.runs) else f"{r.run}: {r.method}" for r in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; numbers that are not finite are null."""

        def plain(x: Any) -> Any:
            if isinstance(x, dict):
                return {k: plain(v) for k, v in x.items()}
            if isinstance(x, list | tuple):
                return [plain(v) for v in x]
            return None if isinstance(x, float) and not math.isfinite(x) else x

        return {"format": "merpo-comparison", "format_version": 1, **plain(asdict(self))}


def compare(results: Mapping[str, Results], methods: Sequence[str] = (), resamples: int = 2000) -> Comparison:
    """Compare runs by name, each by those of `methods` that it has: by default merpo, or the one method it knows.
    A single run is compared by several of its methods.

    DataError where families differ or no task is common, ConfigError where a run has none of the methods, and where
    there is nothing to compare with.
    """
    if not results:
        raise ConfigError("results: none given, expected at least two runs, or two methods of one.")
    names, found = list(results), list(results.values())
    families = {r.family for r in found}
    if len(families) > 1:
        raise DataError(f"runs are of different families: {', '.join(sorted(families))}. Compare runs of one family.")
    tasks = tuple(t for t in found[0].tasks if all(t in r.tasks for r in found))
    if not tasks:
        raise DataError(f"runs {', '.join(names)} share no task: evaluate them on the same test tasks.")
    entries = [(name, r, method) for name, r in results.items() for method in _chosen(name, r, methods)]
    if len(methods) > 1:
        entries = _once(entries, tasks)
    if len(entries) < 2:
        name, run, method = entries[0]
        raise ConfigError(
            f"results: only {method} of run {name!r}, expected at least two runs, or two methods of one. "
            f"This run has {', '.join(run.returns)}, and {BEHAVIOUR}."
        )
    returns = [_on(r, method, tasks) for _, r, method in entries]
    rows = [_row(name, r, method, tasks, resamples) for name, r, method in entries]
    better = tuple(
        tuple(None if i == j else probability_of_improvement(a, b, resamples=resamples) for j, b in enumerate(returns))
        for i, a in enumerate(returns)
    )
    return Comparison(found[0].family, tasks, tuple(rows), better, _cautions(results, tasks))


def _chosen(name: str, r: Results, methods: Sequence[str]) -> list[str]:
    if not methods and (MERPO in r.returns or len(r.returns) == 1):
        return [MERPO] if MERPO in r.returns else list(r.returns)
    chosen = [m for m in methods if m in (BEHAVIOUR, *r.returns)]
    if not chosen:
        asked = f"methods={' '.join(methods)}" if methods else "methods: none given"
        raise ConfigError(f"{asked}: run {name!r} has {', '.join(r.returns)}. Give some of these, or {BEHAVIOUR}.")
    return chosen


def _once(entries: list[tuple[str, Results, str]], tasks: Sequence[str]) -> list[tuple[str, Results, str]]:
    """Without what an earlier run has too: the same data's behaviour, or the same policies."""
    seen: set[tuple[str, bytes]] = set()
    kept = []
    for entry in entries:
        what = (entry[2], _on(entry[1], entry[2], tasks).tobytes())
        if what not in seen:
            kept.append(entry)
        seen.add(what)
    return kept


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
    return Compared(name, method, len(own), bootstrap_interval(own, resamples=resamples), iqm, float(above))


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
