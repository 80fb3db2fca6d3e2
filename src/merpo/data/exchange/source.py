"""What every layout becomes first: tasks by name, each giving its rows, and what the files say of the whole set."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from merpo.data.exchange.assemble import Rows
from merpo.data.types import Bounds, SetInfo
from merpo.errors import DataError

Number = int | float | Sequence[int | float] | None


@dataclass(frozen=True)
class Settings:
    """What the files do not say. None takes it from the files where they say it (merpo's own exports do)."""

    family: str | None = None
    """Name of the family of tasks; default the data set's name."""
    gamma: int | float | None = None
    """Discount factor; default 0.99."""
    horizon: int | None = None
    """Steps after which an episode is truncated; default the longest episode."""
    action_low: Number = None
    """Lower action bound, one number or one per column; default -1."""
    action_high: Number = None
    """Upper action bound, likewise; default 1."""
    action_bounds: str = "given"
    """`given`, or `data` to take the range of the logged actions."""
    test: Sequence[str] = ()
    """Names or patterns of the tasks to adapt to; all others are training tasks."""
    test_share: int | float | None = None
    """Or the share of tasks to draw for it."""
    split_seed: int = 0
    """Seed of that draw."""
    missing: str = "error"
    """`error`, or `drop` to cut episodes at rows with missing or infinite values."""
    termination: str | None = None
    """`never` or `learned`; default `learned` if any episode terminated."""

    def __post_init__(self) -> None:
        def fail(name: str, expected: str) -> None:
            raise DataError(f"{name}={getattr(self, name)!r}: expected {expected}.")

        for name in ("action_low", "action_high"):
            value = getattr(self, name)
            values = [value] if isinstance(value, int | float) and not isinstance(value, bool) else value
            if value is None:
                continue
            if not isinstance(values, Sequence) or isinstance(values, str) or not values:
                fail(name, "a number, or one per action column")
            if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
                fail(name, "finite numbers")
            object.__setattr__(self, name, tuple(float(v) for v in values))  # one number becomes a tuple of one
        if self.gamma is not None and not (_number(self.gamma) and 0.0 <= self.gamma <= 1.0):
            fail("gamma", "a discount in [0, 1]")
        if self.horizon is not None and not (isinstance(self.horizon, int) and self.horizon >= 1):
            fail("horizon", "a whole number of at least 1")
        if self.action_bounds not in ("given", "data"):
            fail("action_bounds", "'given' or 'data'")
        if self.missing not in ("error", "drop"):
            fail("missing", "'error' or 'drop'")
        if self.termination not in (None, "never", "learned"):
            fail("termination", "'never' or 'learned'")
        if self.test_share is not None and not (_number(self.test_share) and 0.0 < self.test_share < 1.0):
            fail("test_share", "a share between 0 and 1, both excluded")
        if isinstance(self.test, str):
            object.__setattr__(self, "test", (self.test,))
        if not isinstance(self.test, Sequence) or not all(isinstance(t, str) for t in self.test):
            fail("test", "a list of task names or patterns")
        object.__setattr__(self, "test", tuple(self.test))
        if self.test and self.test_share is not None:
            fail("test", "either test or test_share, not both")
        if not isinstance(self.split_seed, int) or isinstance(self.split_seed, bool) or self.split_seed < 0:
            fail("split_seed", "a whole number of at least 0")


@dataclass(frozen=True)
class Known:
    """What an export of merpo's own says besides the rows."""

    info: SetInfo | None = None
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Per task `split`, `parameters`, `reference`."""


@dataclass(frozen=True)
class Source:
    """Tasks to read one at a time."""

    names: tuple[str, ...]
    read: Callable[[str], Rows]
    """All rows of a task; may raise DataError or StorageError."""
    columns: tuple[str, ...] = ()
    """Names of the numbers (obs, action, reward, next_obs), for messages."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Task to `train` or `test`, for the tasks whose files say so."""
    known: Known = field(default_factory=Known)
    place: Callable[[int], str] = "row {}".format
    """Words for where a row stood."""


def describe(info: SetInfo, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON of what is known, for exports."""
    from dataclasses import asdict

    content = asdict(info)
    for bound in content["healthy"]:  # JSON has no infinities
        bound.update({k: str(v) for k, v in bound.items() if not math.isfinite(v)})
    return json.dumps({"format": "merpo-export", "info": content, "tasks": tasks}, sort_keys=True)


def recall(text: str | bytes, where: str) -> Known:
    """The inverse of `describe`; `DataError` for anything else."""
    try:
        content = json.loads(text)
        if content["format"] != "merpo-export":
            raise ValueError(f"format {content['format']!r}")
        raw = dict(content["info"])
        if unknown := raw.keys() - {f.name for f in fields(SetInfo)}:
            raise ValueError(f"unknown fields {sorted(unknown)}")
        raw = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        raw["healthy"] = tuple(Bounds(int(b["index"]), float(b["low"]), float(b["high"])) for b in raw["healthy"])
        raw["versions"] = tuple((str(p), str(v)) for p, v in raw["versions"])
        info = SetInfo(**raw)
        for kind, names in (
            (str, ("family", "quality", "termination", "physics")),
            (int, ("version", "obs_dim", "act_dim", "horizon", "seed")),
            (float, ("gamma",)),
        ):
            for name in names:
                if not isinstance(getattr(info, name), kind if kind is not float else (int, float)):
                    raise ValueError(f"{name}={getattr(info, name)!r}")
        tasks = {str(k): dict(v) for k, v in content["tasks"].items()}
        if not all({"split", "parameters", "reference"} == v.keys() for v in tasks.values()):
            raise ValueError("tasks with unknown or missing fields")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{where}: its description is damaged ({type(error).__name__}: {error}). Export the data again, or copy the"
            " file again."
        ) from error
    return Known(info, tasks)


def _number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
