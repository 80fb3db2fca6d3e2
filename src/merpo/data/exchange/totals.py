"""What holds for a whole imported set, gathered task by task: sizes, horizon, action bounds, what never changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from merpo.data.exchange.notes import Notes
from merpo.data.exchange.source import Known, Settings
from merpo.data.types import SetInfo, TaskData
from merpo.data.validation import ACTION_TOLERANCE
from merpo.errors import DataError


class Totals:
    """What holds for the whole set, gathered task by task."""

    def __init__(self, settings: Settings, known: Known, notes: Notes, family: str):
        self.settings, self.known, self.notes, self.family = settings, known, notes, family
        self.train = self.test = 0
        self.longest = 0
        self.terminated = False
        self.first: TaskData | None = None
        self.extremes: dict[str, list[np.ndarray]] = {}

    def add(self, task: TaskData) -> None:
        """Take a task into account; DataError when it does not fit to those before."""
        t = task.transitions
        if self.first is None:
            self.first = task
        for key, now, before in (
            ("obs", t.obs, self.first.transitions.obs),
            ("action", t.action, self.first.transitions.action),
        ):
            if now.shape[1] != before.shape[1]:
                raise DataError(
                    f"task {task.name!r}: {key} has {now.shape[1]} numbers, task {self.first.name!r} has"
                    f" {before.shape[1]}; expected as many in all tasks. Import them as separate sets."
                )
        self.train += task.split == "train"
        self.test += task.split == "test"
        self.longest = max(self.longest, int(np.diff(task.episode_start).max()))
        self.terminated |= bool(np.any(t.terminated))
        self._extend("action", np.asarray(t.action))
        if task.split == "train":
            self._extend("obs", np.asarray(t.obs))

    def info(self) -> SetInfo:
        """The description; DataError when the actions do not fit their bounds, or nothing can be learned from."""
        assert self.first is not None
        s, old = self.settings, self.known.info
        width = self.first.transitions.action.shape[1]
        if s.horizon is None and old is None and self.longest == 1:
            raise DataError(
                "every episode of every task has a single transition. If the rows are consecutive, correct the episode"
                " column or the end flags; if these really are one-step decisions, pass --horizon 1."
            )
        low, high = self._bounds(width)
        plain = SetInfo(
            family=self.family,
            version=0,
            quality="imported",
            obs_dim=self.first.transitions.obs.shape[1],
            act_dim=width,
            gamma=0.99,
            horizon=self.longest,
        )
        made = plain if old is None else replace(old, obs_dim=plain.obs_dim, act_dim=width)
        termination = s.termination or ("learned" if self.terminated else "never")
        return replace(
            made,
            family=s.family or made.family,
            gamma=made.gamma if s.gamma is None else s.gamma,
            horizon=s.horizon or max(made.horizon, 1),
            action_low=low,
            action_high=high,
            termination=termination if old is None or s.termination else old.termination,
        )

    def note_constant(self) -> None:
        """Note the observation columns that never changed."""
        if "obs" in self.extremes:
            low, high = self.extremes["obs"]
            constant = np.flatnonzero(low == high)
            self.notes.add("constant", len(constant), f"columns {constant.tolist()[:10]}" if len(constant) else None)

    def _extend(self, key: str, x: np.ndarray) -> None:
        low, high = x.min(axis=0), x.max(axis=0)
        if key in self.extremes:
            low, high = np.minimum(low, self.extremes[key][0]), np.maximum(high, self.extremes[key][1])
        self.extremes[key] = [low, high]

    def _bounds(self, width: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        s, old = self.settings, self.known.info
        least, most = (np.asarray(x, np.float64) for x in self.extremes["action"])
        if s.action_bounds == "data":
            if (fixed := np.flatnonzero(least == most)).size:
                raise DataError(
                    f"action_bounds='data': action column {fixed[0]} is always {least[fixed[0]]:g}, which gives no"
                    " range. Pass --action-low and --action-high."
                )
            self.notes.add("bounds", width)
            return tuple(least.tolist()), tuple(most.tolist())
        bounds = []
        for key, given, default in (("action_low", s.action_low, -1.0), ("action_high", s.action_high, 1.0)):
            stored = getattr(old, key) if old is not None else ()
            values = np.atleast_1d(given if given is not None else (stored or default)).tolist()
            if len(values) not in (1, width):
                raise DataError(f"{key}={values}: expected one number, or {width}, one per action column.")
            bounds.append(np.broadcast_to(np.asarray(values, np.float64), (width,)))
        low, high = bounds
        if not (low < high).all():
            raise DataError(f"action_low={low.tolist()}, action_high={high.tolist()}: expected low < high.")
        outside = (least < low - ACTION_TOLERANCE) | (most > high + ACTION_TOLERANCE)
        if outside.any():
            c = int(np.flatnonzero(outside)[0])
            raise DataError(
                f"action column {c} ranges from {least[c]:.6g} to {most[c]:.6g}, outside its bounds [{low[c]:g},"
                f" {high[c]:g}]. Give the true bounds with --action-low and --action-high, or pass --action-bounds data"
                " to take the range of the logged actions."
            )
        if old is not None and s.action_low is None and s.action_high is None:
            return old.action_low, old.action_high
        return tuple(low.tolist()), tuple(high.tolist())
