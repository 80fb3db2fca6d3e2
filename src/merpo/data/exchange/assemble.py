"""From the rows of one task, as some file or table gave them, to transitions with episode bounds.

What cannot be decided is an error; what can be mended is mended and noted (`Notes`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from merpo.data.exchange.notes import Notes
from merpo.data.types import Transitions
from merpo.errors import ConfigError, DataError

GAP = 1.5
"""A step further apart in time than this many usual steps is a gap."""
IRREGULAR = 0.05
"""Share of such steps in a task from which its time counts as irregular, not as having gaps."""


@dataclass(frozen=True)
class Rows:
    """Rows of one task in the order of the file. Missing numbers are NaN, also in the flags."""

    obs: Float[np.ndarray, "n obs"]
    action: Float[np.ndarray, "n act"]
    reward: Float[np.ndarray, " n"]
    next_obs: Float[np.ndarray, "n obs"] | None = None
    terminated: Float[np.ndarray, " n"] | None = None
    truncated: Float[np.ndarray, " n"] | None = None
    episode: Int[np.ndarray, " n"] | None = None
    """A number per episode."""
    time: Shaped[np.ndarray, " n"] | None = None
    """int64 or float64."""
    row: Int[np.ndarray, " n"] | None = None
    """Where each row stood in its source, for messages; default 0, 1, ..."""

    def __len__(self) -> int:
        return len(self.reward)

    def take(self, index: np.ndarray) -> Rows:
        """The rows at these positions, or where a mask is True."""
        arrays: dict[str, Any] = {k: None if v is None else v[index] for k, v in vars(self).items()}
        return Rows(**arrays)


def assemble(
    task: str,
    rows: Rows,
    notes: Notes,
    missing: str = "error",
    place: Callable[[int], str] = "row {}".format,
    names: tuple[str, ...] = (),
) -> tuple[Transitions, Int[np.ndarray, " episodes_plus_1"]]:
    """Order, mend and cut the rows of `task`.

    Episodes come from `episode`, else from time running backwards and the end flags, else from the flags alone.
    Rows are sorted by time within their episode; exact repetitions are dropped; gaps in time cut an episode
    (unless `next_obs` is given); a last row with an observation and neither action nor reward is the final
    observation; without that and without `next_obs` the last step of an episode is dropped. `missing`: `error`,
    or `drop` to cut episodes at rows with missing or infinite values. `place` and `names` (the number columns:
    obs, action, reward, next_obs) word messages.

    Raises `DataError` for what cannot be decided, `ConfigError` for another `missing`.
    """
    if missing not in ("error", "drop"):
        raise ConfigError(f"missing={missing!r}: expected 'error' or 'drop'. Choose one of the two.")
    if not len(rows):
        raise DataError(f"task {task!r}: no rows; expected at least one step. Leave the task out, or log some data.")
    rows = rows if rows.row is not None else replace(rows, row=np.arange(len(rows)))

    def at(i: int) -> str:
        assert rows.row is not None
        return place(int(rows.row[i]))

    notes.add("no-terminated", int(rows.terminated is None), task)
    rows, begins = _episodes(task, rows, notes, at)
    rows, begins = _without_repeats(task, rows, begins, notes, at)
    final = _final_rows(rows, begins)
    notes.add("final-row", int(final.sum()), task)
    rows, begins, final, cut = _without_missing(task, rows, begins, final, notes, missing, at, names)
    if not len(rows):
        raise DataError(f"task {task!r}: every row has missing or infinite values. Mend the log.")
    gaps = _gaps(task, rows, begins, notes)
    cut[np.flatnonzero(gaps) - 1] = True
    begins = begins | gaps
    terminated, truncated = _flags(task, rows, begins, final, at)

    # successors: the next row of the same episode, which may be a final observation
    last = np.append(begins[1:], True)
    if rows.next_obs is None:
        following = np.concatenate([rows.obs[1:], rows.obs[:1]])
        keep = ~last & ~final
    else:
        following, keep = rows.next_obs, ~final
    cut = cut & last
    # a step whose successor is the final observation is the last of its episode
    ends = last | np.append(final[1:], False)
    lost = ~keep & ~final
    notes.add("last-step", int(lost.sum()), task)
    notes.add("last-step-terminated", int((lost & terminated).sum()), task)
    shortened = np.append(lost[1:], False) & ~last  # the step before a dropped one ends its episode now
    if not keep.any():
        raise DataError(
            f"task {task!r}: every episode has a single step, whose next observation is unknown. Correct the episode"
            " column, or give next_obs columns."
        )
    given = rows.truncated is not None
    truncated = truncated | shortened | (cut & ends)
    if not given:
        truncated = truncated | (ends & ~terminated)
    episode = np.cumsum(begins)[keep]
    start = np.concatenate([[0], np.flatnonzero(np.diff(episode)) + 1, [len(episode)]]).astype(np.int64)
    terminated, truncated = terminated[keep], truncated[keep]
    tail = start[1:] - 1
    if not given:
        notes.add("truncated", int((truncated & ~terminated)[tail].sum()), task)
    notes.add("open-end", int((~terminated & ~truncated)[tail].sum()), task)
    _no_flag_inside(task, terminated | truncated, tail, rows.take(keep), place)
    arrays = (rows.obs, rows.action, rows.reward, following)
    obs, action, reward, following = (np.ascontiguousarray(x[keep], np.float32) for x in arrays)
    return Transitions(obs, action, reward, following, terminated, truncated), start


def _episodes(task: str, rows: Rows, notes: Notes, at: Callable[[int], str]) -> tuple[Rows, Bool[np.ndarray, " n"]]:
    """Rows in order, and where episodes begin."""
    time = rows.time
    if time is not None and not np.isfinite(time).all():
        i = int(np.flatnonzero(~np.isfinite(time))[0])
        raise DataError(f"task {task!r}: the time is missing or infinite ({at(i)}); expected a number in every row.")
    if rows.episode is None:
        if time is None and rows.terminated is None and rows.truncated is None:
            raise DataError(
                f"task {task!r}: nothing says where episodes end; expected a column for episode, time, terminated or"
                " truncated. Name one, e.g. --episode COLUMN."
            )
        begins = np.zeros(len(rows), bool)
        begins[0] = True
        if rows.terminated is not None or rows.truncated is not None:
            ended = np.zeros(len(rows), bool)
            for flag in (rows.terminated, rows.truncated):
                ended |= False if flag is None else flag == 1
            begins[1:] |= ended[:-1]
        if time is not None:
            back = np.diff(time) < 0
            notes.add("from-time", int((back & ~begins[1:]).sum()), task)
            begins[1:] |= back
        return rows, begins
    codes = rows.episode
    runs = np.concatenate([[True], codes[1:] != codes[:-1]])
    if time is None:
        values, first, count = np.unique(codes[runs], return_index=True, return_counts=True)
        if (count > 1).any():
            where = np.flatnonzero(runs)[np.flatnonzero(codes[runs] == values[count > 1][0])[1]]
            raise DataError(
                f"task {task!r}: an episode comes back after another one ({at(int(where))}); expected each episode's"
                " rows together. Name a time column (--time) to sort by, or correct the episode column."
            )
        return rows, runs
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    rank = first[inverse]  # episodes stay in the order of their first row
    step_back = (np.diff(rank) < 0) | ((np.diff(rank) == 0) & (np.diff(time) < 0))
    if step_back.any():
        order = np.lexsort((time, rank))
        notes.add("sorted", int((order != np.arange(len(order))).sum()), task)
        rows = rows.take(order)
        rank = rank[order]
    return rows, np.concatenate([[True], rank[1:] != rank[:-1]])


def _numbers(rows: Rows) -> np.ndarray:
    parts = [rows.obs, rows.action, rows.reward[:, None]]
    parts += [] if rows.next_obs is None else [rows.next_obs]
    return np.concatenate(parts, axis=1)


def _without_repeats(
    task: str, rows: Rows, begins: Bool[np.ndarray, " n"], notes: Notes, at: Callable[[int], str]
) -> tuple[Rows, Bool[np.ndarray, " kept"]]:
    """Drop rows that say the same as the one before for the same time; two rows that disagree are an error."""
    if rows.time is None:
        return rows, begins
    same_time = np.concatenate([[False], rows.time[1:] == rows.time[:-1]]) & ~begins
    if not same_time.any():
        return rows, begins
    again = np.flatnonzero(same_time)
    columns = [_numbers(rows), *(f[:, None] for f in (rows.terminated, rows.truncated) if f is not None)]
    table = np.concatenate(columns, axis=1)
    equal = ((table[again] == table[again - 1]) | (np.isnan(table[again]) & np.isnan(table[again - 1]))).all(axis=1)
    if not equal.all():
        i = int(again[~equal][0])
        raise DataError(
            f"task {task!r}: two different rows have the same episode and time ({at(i - 1)} and {at(i)}, time"
            f" {rows.time[i]}); expected one row per step. Correct the episode or time column."
        )
    keep = np.ones(len(rows), bool)
    keep[again] = False
    notes.add("repeated", len(again), task)
    return rows.take(keep), begins[keep]


def _final_rows(rows: Rows, begins: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Last rows of episodes with an observation and neither action nor reward."""
    last = np.append(begins[1:], True) & ~begins
    if rows.next_obs is not None:
        return np.zeros(len(rows), bool)
    empty = np.isnan(rows.reward) & np.isnan(rows.action).all(axis=1)
    return last & empty & np.isfinite(rows.obs).all(axis=1)


def _without_missing(
    task: str,
    rows: Rows,
    begins: Bool[np.ndarray, " n"],
    final: Bool[np.ndarray, " n"],
    notes: Notes,
    missing: str,
    at: Callable[[int], str],
    names: tuple[str, ...],
) -> tuple[Rows, Bool[np.ndarray, " kept"], Bool[np.ndarray, " kept"], Bool[np.ndarray, " kept"]]:
    """Refuse rows that are not all numbers, or drop them and cut the episode there; the last mask says where."""
    table = _numbers(rows)
    bad = ~np.isfinite(table).all(axis=1) & ~final
    if not bad.any():
        return rows, begins, final, np.zeros(len(rows), bool)
    if missing == "error":
        i = int(np.flatnonzero(bad)[0])
        column = int(np.flatnonzero(~np.isfinite(table[i]))[0])
        name = f"column {names[column]!r}" if names else f"number {column} (of obs, action, reward, next_obs)"
        raise DataError(
            f"task {task!r}: missing or infinite values in {int(bad.sum())} of {len(rows)} rows (first: {at(i)},"
            f" {name}, value {table[i, column]}); expected finite numbers. Mend the log, or pass missing='drop'"
            " (--missing drop) to cut the episodes there."
        )
    notes.add("missing", int(bad.sum()), task)
    begins = begins | np.append(False, bad[:-1])
    keep = ~bad
    # a dropped first row hands its beginning on, a dropped last row its end
    group = np.cumsum(begins)[keep]
    cut = np.append(bad[1:], False)[keep]
    return rows.take(keep), np.concatenate([[True], group[1:] != group[:-1]])[: len(group)], final[keep], cut


def _gaps(task: str, rows: Rows, begins: Bool[np.ndarray, " n"], notes: Notes) -> Bool[np.ndarray, " n"]:
    """Rows that follow a gap in time and therefore begin an episode of their own."""
    none = np.zeros(len(rows), bool)
    if rows.time is None:
        return none
    step = np.diff(rows.time)
    inner = ~begins[1:]
    if not inner.any():
        return none
    usual = np.median(step[inner])
    far = np.concatenate([[False], (step > GAP * usual) & inner])
    count = int(far.sum())
    if count > IRREGULAR * inner.sum() and count > 1:
        notes.add("irregular", count, task)
        return none
    if rows.next_obs is not None:
        notes.add("gap-kept", count, task)
        return none
    notes.add("gap", count, task)
    return far


def _flags(
    task: str, rows: Rows, begins: Bool[np.ndarray, " n"], final: Bool[np.ndarray, " n"], at: Callable[[int], str]
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Booleans of both flags; those of a final observation belong to the step before."""
    made = []
    for name in ("terminated", "truncated"):
        x = getattr(rows, name)
        if x is None:
            made.append(np.zeros(len(rows), bool))
            continue
        wrong = ~((x == 0) | (x == 1) | (final & np.isnan(x)))
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"task {task!r}: {name} is {x[i]:g} ({at(i)}); expected true, false, 0 or 1 in every row. Correct it,"
                f" or name another column with --{name}."
            )
        flag = x == 1
        flag[:-1] |= flag[1:] & final[1:]
        made.append(flag & ~final)
    return made[0], made[1]


def _no_flag_inside(
    task: str, flag: Bool[np.ndarray, " kept"], tail: Int[np.ndarray, " e"], rows: Rows, place: Callable[[int], str]
) -> None:
    inside = flag.copy()
    inside[tail] = False
    if inside.any():
        assert rows.row is not None
        i = int(np.flatnonzero(inside)[0])
        raise DataError(
            f"task {task!r}: terminated or truncated is set inside an episode ({place(int(rows.row[i]))}, and"
            f" {int(inside.sum()) - 1} more); expected only on an episode's last step. Correct the episode column, or"
            " leave it out (--episode -) so that the flags end the episodes."
        )
