"""From cells to what is published of a study: rows with intervals, one table per family, quality and size of log."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from merpo.bench.folder import Folder
from merpo.bench.plan import Cell, Series, code_version
from merpo.bench.study import ADAPTIVE, METHODS, Study
from merpo.evaluation import BEHAVIOUR, Interval, Protocol, Results, probability_of_improvement, summarise
from merpo.report.study import FORMAT, FORMAT_VERSION


@dataclass(frozen=True)
class Outcome:
    """What came of a study."""

    content: dict[str, Any]
    """`results.json`: the same bytes whenever the study is run."""
    times: dict[str, Any]
    """`times.json`: seconds and machine of every cell and meta-training."""
    failed: Mapping[str, str]
    """Cells whose learning diverged: title and reason."""

    def text(self, part: str) -> str:
        """`content` or `times` as it is written."""
        return json.dumps(getattr(self, part), indent=1, allow_nan=False) + "\n"


def summarise_study(study: Study, series: Sequence[Series], folder: Folder, failed: Mapping[str, str]) -> Outcome:
    """Read the cells and make the tables."""
    cells = {c.hash: c for s in series for c in s.cells}
    groups = []
    keyed = sorted(series, key=lambda s: _key(study, s))
    for key, rows in itertools.groupby(keyed, key=lambda s: _key(study, s)):
        groups.append(_group(study, key, list(rows), folder))
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": study.name,
        "about": study.about,
        "study": study.to_json(),
        "code": code_version(),
        "groups": groups,
    }
    reasons = {cells[h].title: why for h, why in failed.items() if h in cells}
    return Outcome(content, _times(cells.values(), folder), reasons)


def _key(study: Study, s: Series) -> tuple[int, int, int]:
    return study.families.index(s.family), study.qualities.index(s.quality), s.variant.logs or 0


def _group(study: Study, key: tuple[int, int, int], series: list[Series], folder: Folder) -> dict[str, Any]:
    family, quality, logs = study.families[key[0]], study.qualities[key[1]], key[2] or None
    series.sort(key=lambda s: METHODS.index(s.method))
    missing = [s for s in series if not all(folder.done(c) for c in s.cells)]
    found = {s.variant.label(s.method): s for s in series if s not in missing}
    head: dict[str, Any] = {"family": family, "quality": quality, "logs": logs, "budget": budget(study, family)}
    head |= {"missing": [s.variant.label(s.method) for s in missing]}
    if not found:
        return head | {"tasks": [], "rows": []}
    read = {label: [folder.read(c) for c in s.cells] for label, s in found.items()}
    one = next(iter(read.values()))[0]
    results = Results(
        family=family,
        quality=quality,
        tasks=tuple(one["tasks"]),
        returns={label: np.asarray([c["returns"] for c in cells], np.float64) for label, cells in read.items()},
        behaviour=np.asarray(one["behaviour"], np.float64),
        protocol=Protocol(episodes=study.starts, seeds=study.seeds),
        random=None if one["random"] is None else np.asarray(one["random"], np.float64),
        expert=None if one["expert"] is None else np.asarray(one["expert"], np.float64),
    )
    ours = reference([s for s in found.values() if s.method == "merpo"])
    rows = []
    for row in summarise(results):
        entry: dict[str, Any] = {"label": row.method, "mean": _interval(row.mean), "score": _interval(row.iqm)}
        if row.method == BEHAVIOUR:
            theirs = results.behaviour[None, :, None]
            entry |= {"method": BEHAVIOUR, "cells": [], "returns": [results.behaviour.tolist()]}
        else:
            s, theirs = found[row.method], results.returns[row.method]
            entry |= {"method": s.method, **asdict(s.variant), "cells": [c.hash for c in s.cells]}
            entry |= {"returns": theirs.mean(-1).tolist()}
        compared = ours is not None and row.method != ours
        better = probability_of_improvement(results.returns[ours], theirs) if ours is not None and compared else None
        rows.append(entry | {"merpo_better": _interval(better)})
    references = {"random": one["random"], "expert": one["expert"], "train_tasks": one["train_tasks"]}
    return head | {"tasks": one["tasks"], **references, "reference": ours, "rows": rows}


def reference(series: Sequence[Series]) -> str | None:
    """The row of MerPO that the others are compared with: the only one, or of several the adaptive one."""
    if len(series) > 1:
        series = [s for s in series if s.variant.alpha == ADAPTIVE and s.variant.trained_on is None]
    return series[0].variant.label(series[0].method) if len(series) == 1 else None


def budget(study: Study, family: str) -> str:
    """What every method was given, in one line."""
    config = study.config(family)
    total = config.train_updates + config.adapt_updates
    fewer = ", merpo fewer of those with small logs" if config.full_log else ""
    return (
        f"{config.train_updates} updates of each training task and {config.adapt_updates} of each test task{fewer}"
        f" ({config.bc_updates} bc; context learners {total})"
    )


def _times(cells: Iterable[Cell], folder: Folder) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {"cells": {}, "stages": {}}
    for cell in cells:
        if folder.done(cell):
            found["cells"][cell.hash] = {"title": cell.title, **folder.time_of(cell)}
        if cell.fit is not None and folder.done(cell.fit):
            found["stages"][cell.fit.hash] = {"title": cell.fit.title, **folder.time_of(cell.fit)}
    return found


def _interval(x: Interval | None) -> dict[str, Any] | None:
    if x is None:
        return None
    whole = {"value": x.value, "low": x.low, "high": x.high}
    return {k: None if math.isnan(v) else v for k, v in whole.items()} | {"resampled": x.resampled}
