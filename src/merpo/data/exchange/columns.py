"""Which column of a table is what: names or patterns per role, resolved against the columns that are there."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from merpo.errors import DataError

ALIASES: Mapping[str, tuple[str, ...]] = {
    "task": ("task", "task_id"),
    "episode": ("episode", "episode_id"),
    "time": ("step", "time", "t", "timestep", "timestamp"),
    "reward": ("reward", "rewards"),
    "terminated": ("terminated", "terminal", "terminals", "terminations"),
    "truncated": ("truncated", "timeout", "timeouts", "truncations"),
    "split": ("split",),
    "obs": ("obs_*", "observation_*"),
    "action": ("action_*", "act_*"),
    "next_obs": ("next_obs_*", "next_observation_*"),
}
"""What is looked for, in this order, where a role is not given. Not `done`: it does not tell the end of a task from
a time limit.
"""
VECTORS = ("obs", "action", "next_obs")
SINGLES = ("task", "episode", "time", "reward", "terminated", "truncated", "split")
ABSENT = "-"
"""Given as a role's column: the table has none, do not look for one."""


@dataclass(frozen=True)
class Columns:
    """Columns by role; None or () looks for the usual names (`ALIASES`), `"-"` says that there is none."""

    task: str | None = None
    """Names the task of each row. Without it, each file is one task, named by the file."""
    episode: str | None = None
    """Names the episode of each row, within its task."""
    time: str | None = None
    """Orders the steps of an episode: a number or a time stamp."""
    obs: Sequence[str] = ()
    """Observation: names or patterns (`obs_*`, `joint_[0-6]`), in order; a pattern's columns in the table's order."""
    action: Sequence[str] = ()
    """Action, likewise."""
    reward: str | None = None
    """Reward of the step."""
    terminated: str | None = None
    """Whether the task ended with this step: booleans or 0/1."""
    truncated: str | None = None
    """Whether the episode was cut after this step, e.g. by a time limit: booleans or 0/1."""
    next_obs: Sequence[str] = ()
    """Observation after the step, as many as `obs`; without it, the next row's observation."""
    split: str | None = None
    """`train` or `test`, the same in all rows of a task."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in VECTORS:
                if isinstance(value, str):
                    object.__setattr__(self, f.name, (value,))
                elif not isinstance(value, Sequence) or not all(isinstance(v, str) and v for v in value):
                    raise DataError(f"columns.{f.name}={value!r}: expected a list of column names or patterns.")
                else:
                    object.__setattr__(self, f.name, tuple(value))
            elif value is not None and (not isinstance(value, str) or not value):
                raise DataError(f"columns.{f.name}={value!r}: expected the name of one column.")


@dataclass(frozen=True)
class Resolved:
    """Columns found in a table, by role."""

    single: Mapping[str, str]
    """Role to column name, for the roles that the table has."""
    obs: tuple[str, ...]
    action: tuple[str, ...]
    next_obs: tuple[str, ...]
    """As long as `obs`, or empty."""
    unused: tuple[str, ...]
    """The table's other columns."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """All columns that hold numbers to learn from."""
        return (*self.obs, *self.action, self.single["reward"], *self.next_obs)

    @property
    def used(self) -> tuple[str, ...]:
        """All columns to read."""
        return (*self.numbers, *(name for role, name in self.single.items() if role != "reward"))


def resolve(columns: Columns, names: Sequence[str], where: str) -> Resolved:
    """Find every role's columns among `names`; `DataError`, naming `where`, for what is missing or ambiguous."""
    duplicated = sorted({n for n in names if list(names).count(n) > 1})
    if duplicated:
        raise DataError(f"{where}: column {duplicated[0]!r} appears more than once; expected unique names. Rename one.")
    single = {}
    for role in SINGLES:
        found = _single(role, getattr(columns, role), names, where)
        if found is not None:
            single[role] = found
    vectors = {role: _vector(role, getattr(columns, role), names, where) for role in VECTORS}
    for role, example in (("obs", "--obs 'obs_*'"), ("action", "--action 'act_*'")):
        if not vectors[role]:
            raise DataError(
                f"{where}: no {role} columns among {_listed(names)}. Name them, e.g. {example} (or columns.{role} in"
                " the mapping file)."
            )
    if "reward" not in single:
        raise DataError(f"{where}: no reward column among {_listed(names)}. Name it with --reward (columns.reward).")
    obs, following = vectors["obs"], vectors["next_obs"]
    if following and len(following) != len(obs):
        raise DataError(
            f"{where}: {len(following)} next_obs columns ({_listed(following)}) for {len(obs)} obs columns"
            f" ({_listed(obs)}); expected as many, in the same order. Correct the names, or pass --next-obs - to use"
            " the next row's observation."
        )
    roles: dict[str, str] = {}
    for role, chosen in [*vectors.items(), *((r, (n,)) for r, n in single.items())]:
        for name in chosen:
            if name in roles:
                raise DataError(
                    f"{where}: column {name!r} is taken for both {roles[name]} and {role}; expected one role per"
                    " column. Use narrower patterns."
                )
            roles[name] = role
    return Resolved(single, obs, vectors["action"], following, tuple(n for n in names if n not in roles))


def _single(role: str, given: str | None, names: Sequence[str], where: str) -> str | None:
    if given == ABSENT:
        return None
    if given is not None:
        if given in names:
            return given
        close = difflib.get_close_matches(given, names, n=1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise DataError(f"{where}: no column {given!r} (for {role}) among {_listed(names)}.{meant} Correct --{role}.")
    return next((alias for alias in ALIASES[role] if alias in names), None)


def _vector(role: str, given: Sequence[str], names: Sequence[str], where: str) -> tuple[str, ...]:
    if tuple(given) == (ABSENT,):
        return ()
    if not given:
        for pattern in ALIASES[role]:
            if found := _match(pattern, names):
                numbered = [n for n in found if n[-1].isdigit()]
                if numbered and len(numbered) < len(found):
                    odd = next(n for n in found if n not in numbered)
                    raise DataError(
                        f"{where}: {odd!r} among the {role} columns {_listed(found)} has no number like the others;"
                        f" expected {pattern} with numbers. Correct the name, or list the columns with"
                        f" --{role.replace('_', '-')}."
                    )
                return _numbered(role, found, where)
        return ()
    chosen: list[str] = []
    for pattern in given:
        found = (pattern,) if pattern in names else _match(pattern, names)
        if not found:
            close = difflib.get_close_matches(pattern, names, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            flag = role.replace("_", "-")
            raise DataError(
                f"{where}: no column matches {pattern!r} (for {role}) among {_listed(names)}.{meant} Correct --{flag}."
            )
        if pattern not in names:
            found = _numbered(role, found, where)
        if again := [n for n in found if n in chosen]:
            raise DataError(f"{where}: column {again[0]!r} is matched twice for {role}; use narrower patterns.")
        chosen += found
    return tuple(chosen)


def _match(pattern: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(n for n in names if fnmatch.fnmatchcase(n, pattern))


def _numbered(role: str, found: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Columns numbered with a gap are refused: one of them was lost or renamed, and a shorter vector would go
    unnoticed. Numbered columns are put into the order of their numbers."""
    parts = [re.fullmatch(r"(.*?)(\d+)", n) for n in found]
    if len(found) < 2 or not all(parts) or len({p.group(1) for p in parts if p}) > 1:
        return found
    numbers = sorted(int(p.group(2)) for p in parts if p)
    stem = parts[0].group(1) if parts[0] else ""
    missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
    if numbers[0] > 1:
        missing.insert(0, numbers[0] - 1)
    if missing:
        raise DataError(
            f"{where}: the {role} columns are numbered {numbers[0]} to {numbers[-1]}, but {stem}{missing[0]} is"
            f" missing; expected no gap. Restore it, or list the columns one by one with --{role.replace('_', '-')}."
        )
    return tuple(sorted(found, key=lambda n: int(n[len(stem) :])))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "") if names else "none"
