"""On how many tasks a policy is at or above its anchors: the logged behaviour and the unadapted meta-policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from merpo.errors import DataError


@dataclass(frozen=True)
class Share:
    """Of all tasks, those on which a policy is at or above something."""

    point: float
    """By its mean return over runs and episodes."""
    sure: float | None
    """By the lower end of the 95 % bootstrap interval of the difference; None where nothing can be resampled."""


@dataclass(frozen=True)
class Anchors:
    """Shares of tasks at or above each anchor, and above both on the same task."""

    behaviour: Share
    meta: Share
    both: Share


def over_anchors(
    mine: Float[np.ndarray, "run task episode"],
    meta: Float[np.ndarray, "run2 task2 episode2"],
    behaviour: Float[np.ndarray, " task3"],
    resamples: int = 2000,
    seed: int = 0,
) -> Anchors:
    """Compare task by task. Run i and episode k of `mine` and `meta` belong together (same seed, same start); the
    logged means are taken as given. Intervals resample runs, or the episodes of a single run. Raises DataError for
    shapes that do not belong together.
    """
    if mine.shape != meta.shape or behaviour.shape != mine.shape[1:2]:
        raise DataError(
            f"mine {mine.shape}, meta {meta.shape}, behaviour {behaviour.shape}: expected [run, task, episode] twice,"
            " the same runs, tasks and episodes, and one number per task."
        )
    over_log, over_meta = (_compared(x, resamples, seed) for x in (mine - behaviour[:, None], mine - meta))
    return Anchors(
        _share(*over_log),
        _share(*over_meta),
        _share(over_log[0] & over_meta[0], None if over_log[1] is None else over_log[1] & over_meta[1]),
    )


def _compared(
    difference: Float[np.ndarray, "run task episode"], resamples: int, seed: int
) -> tuple[Bool[np.ndarray, " task"], Bool[np.ndarray, " task"] | None]:
    drawn = difference.mean(-1) if len(difference) > 1 else difference[0].T
    point = drawn.mean(0) >= 0.0
    if len(drawn) == 1:
        return point, None
    rows = np.random.default_rng(seed).integers(len(drawn), size=(resamples, len(drawn)))
    return point, np.quantile(drawn[rows].mean(1), 0.025, axis=0) >= 0.0


def _share(point: np.ndarray, sure: np.ndarray | None) -> Share:
    return Share(float(point.mean()), None if sure is None else float(sure.mean()))
