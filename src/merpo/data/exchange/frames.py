"""A table in memory (pandas, polars, Arrow, or a mapping of arrays) as a task set."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import UTC
from typing import Any

import numpy as np

from merpo.data.exchange.assemble import Rows
from merpo.data.exchange.columns import Columns, resolve
from merpo.data.exchange.importing import tasks_of
from merpo.data.exchange.notes import Notes
from merpo.data.exchange.source import Known, Settings, Source
from merpo.data.exchange.totals import Totals
from merpo.data.types import TaskSet
from merpo.data.validation import validate
from merpo.errors import DataError, DataWarning

WHERE = "table"


def from_table(
    table: Any, *, family: str, columns: Columns | None = None, on_constant: str = "error", **settings: Any
) -> TaskSet:
    """A task set from a table with one row per step: a pandas or polars DataFrame, an Arrow table, or a mapping from
    column name to array.

    `columns` says which column is what (default: the usual names, see `Columns`); without a task column all rows are
    one task. Further keyword arguments are those of `Settings` (`gamma`, `test`, `action_low`, ...). Rows are sorted
    by time, repetitions dropped and gaps cut as `merpo data import` does; each such change is a `DataWarning`.

    Raises `DataError` for what cannot be understood, and for what `validate` refuses.

    >>> import numpy as np
    >>> from merpo.data import Columns, from_table
    >>> rng = np.random.default_rng(0)
    >>> log = {"machine": np.repeat(["a", "b"], 6), "run": np.repeat(np.arange(4), 3), "t": np.tile(np.arange(3), 4),
    ...        "x": rng.normal(size=12), "u": rng.uniform(-1, 1, 12), "cost": rng.normal(size=12)}
    >>> names = Columns(task="machine", episode="run", time="t", obs="x", action="u", reward="cost")
    >>> data = from_table(log, family="machines", columns=names, test=["b"])
    >>> [(task.name, task.split, len(task)) for task in data]  # the last step of an episode has no successor
    [('a', 'train', 4), ('b', 'test', 4)]
    """
    chosen, notes = Settings(family=family, **settings), Notes()
    names_there = _names(table)
    found = resolve(columns or Columns(), [str(n) for n in names_there], WHERE)
    table = {str(n): table[n] for n in names_there if str(n) in found.used}
    notes.add("unused", len(found.unused), ", ".join(found.unused[:12]) if found.unused else None)
    numbers = {name: _number(table, name) for name in found.numbers}
    rows = len(numbers[found.single["reward"]])
    for name in found.used:
        if (n := len(table[name])) != rows:
            raise DataError(f"{WHERE}: column {name!r} has {n} rows, the reward {rows}; expected as many.")
    optional: dict[str, Any] = {"row": np.arange(rows)}
    for role in ("terminated", "truncated"):
        if role in found.single:
            optional[role] = _number(table, found.single[role])
    if "episode" in found.single:
        optional["episode"] = _labels(table, found.single["episode"])[1].astype(np.int64)
    if "time" in found.single:
        optional["time"] = _time(table, found.single["time"])
    names, codes = ["task"], np.zeros(rows, np.int64)
    if "task" in found.single:
        names, codes = _labels(table, found.single["task"])
    splits = {}
    if "split" in found.single:
        values, split = _labels(table, found.single["split"])
        for i, name in enumerate(names):
            own = {values[c] for c in np.unique(split[codes == i])}
            if len(own) > 1 or not own <= {"train", "test"}:
                raise DataError(f"{WHERE}: split of task {name!r} is {sorted(own)}; expected 'train' or 'test'.")
            splits[name] = own.pop()
    everything = Rows(
        _stack(numbers, found.obs),
        _stack(numbers, found.action),
        numbers[found.single["reward"]],
        _stack(numbers, found.next_obs) if found.next_obs else None,
        **optional,
    )
    order = {name: i for i, name in enumerate(names)}
    source = Source(
        tuple(names), lambda name: everything.take(codes == order[name]), columns=found.numbers, splits=splits
    )
    totals = Totals(chosen, Known(), notes, family)
    tasks = []
    for task in tasks_of(source, chosen, notes):
        totals.add(task)
        tasks.append(task)
    made = TaskSet(totals.info(), tuple(tasks))
    validate(made, on_constant)
    for finding in notes.findings():
        if finding.severity == "warning":
            warnings.warn(finding.text, DataWarning, stacklevel=2)
    return made


def _names(table: Any) -> list[Any]:
    for attribute in ("column_names", "columns"):  # Arrow has both, and means data by the second
        if hasattr(table, attribute):
            return list(getattr(table, attribute))
    if hasattr(table, "keys"):
        return list(table.keys())
    raise DataError(
        f"table of type {type(table).__name__}: expected a DataFrame, an Arrow table or a mapping of arrays."
        " Convert it, e.g. with dict(zip(names, array.T))."
    )


def _number(table: Any, name: str) -> np.ndarray:
    try:
        x = np.asarray(table[name])
        if x.dtype == object:  # nullable columns of pandas have an object of their own for what is missing
            x = np.asarray([np.nan if _missing(v) else v for v in x]).astype(np.float64)
        if x.ndim != 1 or x.dtype.kind not in "biuf":
            raise TypeError(f"shape {x.shape}, dtype {x.dtype}")
    except (TypeError, ValueError) as error:
        raise DataError(f"{WHERE}: column {name!r} is not a column of numbers ({error}). Convert it first.") from error
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


def _labels(table: Any, name: str) -> tuple[list[str], np.ndarray]:
    """Distinct values as text in the order of their first row, and each row's position among them."""
    x = np.asarray(table[name])
    missing = [_missing(v) for v in x] if x.dtype == object else (x != x)
    if x.ndim != 1 or np.any(missing):
        raise DataError(f"{WHERE}: column {name!r} has missing values; expected a name in every row.")
    if x.dtype.kind == "f" and np.array_equal(x, np.floor(x)):
        x = x.astype(np.int64)
    values, first, codes = np.unique(x.astype(str), return_index=True, return_inverse=True)
    order = np.argsort(first)
    return [str(v) for v in values[order]], np.argsort(order)[codes]


def _time(table: Any, name: str) -> np.ndarray:
    x = np.asarray(table[name])
    if x.dtype == object:
        x = _plain_times(x)
    if x.dtype.kind in "mM":
        if np.isnat(x).any():
            raise DataError(f"{WHERE}: the time column {name!r} has missing values; expected one in every row.")
        return x.astype(f"{x.dtype.kind}8[ns]").astype(np.int64)
    if x.dtype.kind not in "iuf":
        raise DataError(f"{WHERE}: the time column {name!r} holds {x.dtype}, expected numbers or time stamps.")
    return x.astype(np.int64 if x.dtype.kind in "iu" else np.float64)


def _missing(value: Any) -> bool:
    """None, NaN, NaT, or pandas' NA, of which nothing can be asked."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def _plain_times(x: np.ndarray) -> np.ndarray:
    """Objects as numbers or as time stamps: those with a time zone as UTC."""

    def stamp(value: Any) -> Any:
        if _missing(value):
            return np.datetime64("NaT")
        if hasattr(value, "to_datetime64"):  # pandas: UTC already, and finer than datetime
            return value.to_datetime64()
        return np.datetime64(value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None))

    if x.size and all(hasattr(v, "tzinfo") or _missing(v) for v in x):
        return np.asarray([stamp(v) for v in x], "datetime64[ns]")
    try:
        return x.astype(np.float64)
    except (TypeError, ValueError):
        return x


def _stack(numbers: dict[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    return np.stack([numbers[n] for n in names], axis=1)
