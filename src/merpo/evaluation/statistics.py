"""Statistics for few runs, after Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice".

Returns are arrays [run, task, episode]; a run is one training seed. Point estimates use each run's mean
return per task. Intervals are percentile intervals of a stratified bootstrap: runs are resampled within each
task. With a single run there are no runs to resample, so tasks and, within them, episodes are;
`Interval.resampled` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from merpo.errors import ConfigError, DataError

Returns = Float[np.ndarray, "run task episode"]
Rivals = Float[np.ndarray, "run2 task2 episode2"]
Statistic = Literal["mean", "iqm"]
RUNS, EPISODES = "runs within tasks", "tasks x episodes"
_CHUNK = 2_000_000  # numbers held at once while resampling


@dataclass(frozen=True)
class Interval:
    """A point estimate and its bootstrap interval."""

    value: float
    """The estimate on the data themselves."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    confidence: float
    """Nominal coverage, e.g. 0.95."""
    resampled: str
    """What the bootstrap drew anew: `runs within tasks`, or with a single run `tasks x episodes`."""

    def __str__(self) -> str:
        if np.isnan(self.low):  # a given number: nothing was resampled
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def mean(scores: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch"]:
    """Mean over the last axis."""
    return np.asarray(np.mean(scores, axis=-1))


def interquartile_mean(scores: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch"]:
    """Mean of the middle half over the last axis: floor(n/4) scores are dropped at each end.

    Flatten [run, task] scores first: the quartiles are those of all runs and tasks together.
    """
    n = scores.shape[-1]
    cut = n // 4
    return np.asarray(np.mean(np.sort(scores, axis=-1)[..., cut : n - cut], axis=-1))


_STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"mean": mean, "iqm": interquartile_mean}


def bootstrap_interval(
    returns: Returns,
    statistic: Statistic = "mean",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean or interquartile mean over all runs x tasks.

    Raises `DataError` when `returns` is empty or not finite, `ConfigError` for settings out of range.
    """
    returns = _check(returns, "returns")
    _check_settings(confidence, resamples)
    f = _STATISTICS[statistic]
    point = float(f(returns.mean(-1).ravel()))
    rng = np.random.default_rng(seed)
    draws = _resample([returns], lambda s: f(s[0].reshape(len(s[0]), -1)), rng, resamples, paired=True)
    return _interval(point, draws, confidence, len(returns))


def paired_difference(
    first: Returns,
    second: Rivals,
    statistic: Statistic = "mean",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of `first - second`, where run i, task j, episode k of both belong together (same seeds).

    The statistic is that of the differences, so what the pairs share drops out.
    """
    first, second = _check(first, "first"), _check(second, "second")
    if first.shape != second.shape:
        raise DataError(
            f"second has shape {second.shape}, expected that of first, {first.shape}: evaluate both methods "
            "on the same runs, tasks and episodes, or use probability_of_improvement."
        )
    return bootstrap_interval(first - second, statistic, confidence, resamples, seed)


def probability_of_improvement(
    first: Returns, second: Rivals, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """P(X > Y) + P(X = Y)/2 for a run X of `first` and Y of `second`, averaged over tasks.

    Per task it is the Mann-Whitney statistic U / (n m). The numbers of runs and episodes may differ, the
    tasks may not. The runs of both sides are resampled independently.
    """
    first, second = _check(first, "first"), _check(second, "second")
    if first.shape[1] != second.shape[1]:
        raise DataError(f"second has {second.shape[1]} tasks, first has {first.shape[1]}: compare the same tasks.")
    _check_settings(confidence, resamples)
    point = float(_win_rate(first.mean(-1)[None], second.mean(-1)[None])[0])
    rng = np.random.default_rng(seed)
    draws = _resample([first, second], lambda s: _win_rate(s[0], s[1]), rng, resamples, paired=False)
    return _interval(point, draws, confidence, len(first))


def normalised_score(
    returns: Float[np.ndarray, "run task *episode"],
    random: Float[np.ndarray, " n"],
    expert: Float[np.ndarray, " n"],
    tasks: Sequence[str] | None = None,
) -> Float[np.ndarray, "run task *episode"]:
    """(return - random) / (expert - random) per task: 0 is the random policy, 1 the expert.

    Raises `DataError` naming the tasks whose expert is not above the random policy.
    """
    random, expert = np.asarray(random, np.float64), np.asarray(expert, np.float64)
    n = returns.shape[1]
    if random.shape != (n,) or expert.shape != (n,):
        raise DataError(f"random {random.shape} and expert {expert.shape}: expected shape ({n},), one per task.")
    bad = [i for i in range(n) if not expert[i] > random[i]]
    if bad:
        names = [tasks[i] if tasks is not None else f"task {i}" for i in bad[:3]]
        pairs = zip(names, bad[:3], strict=True)
        shown = ", ".join(f"{m} (random {random[i]:.6g}, expert {expert[i]:.6g})" for m, i in pairs)
        raise DataError(
            f"expert must be above random to normalise by: not so for {shown}. "
            "Measure the reference returns again, or report raw returns."
        )
    shape = (1, n) + (1,) * (returns.ndim - 2)
    return (returns - random.reshape(shape)) / (expert - random).reshape(shape)


def _win_rate(
    x: Float[np.ndarray, "draws n task"], y: Float[np.ndarray, "draws m task"]
) -> Float[np.ndarray, " draws"]:
    a, b = x[:, :, None, :], y[:, None, :, :]
    return np.mean((a > b) + 0.5 * (a == b), axis=(1, 2, 3))


def _resample(
    samples: Sequence[np.ndarray],
    f: Callable[[list[np.ndarray]], np.ndarray],
    rng: np.random.Generator,
    resamples: int,
    paired: bool,
) -> Float[np.ndarray, " resamples"]:
    """`f` of resampled scores, each [draw, run, task], in chunks that bound the memory."""
    runs = len(samples[0])
    tasks = samples[0].shape[1]
    biggest = max(s.shape[2] * len(s) if runs == 1 else len(s) for s in samples)
    per_draw = tasks * biggest * (1 if paired or runs == 1 else biggest)
    chunk = max(1, _CHUNK // per_draw)
    out = []
    for start in range(0, resamples, chunk):
        n = min(chunk, resamples - start)
        if runs == 1:
            # one draw of tasks for all samples: each keeps facing its own rival
            picked = rng.integers(tasks, size=(n, tasks))
            out.append(f([_draw_episodes(s, picked, rng) for s in samples]))
        else:
            out.append(f([_draw_runs(s.mean(-1), n, rng) for s in samples]))
    return np.concatenate(out)


def _draw_runs(
    scores: Float[np.ndarray, "run task"], n: int, rng: np.random.Generator
) -> Float[np.ndarray, "{n} run task"]:
    rows = rng.integers(len(scores), size=(n, *scores.shape))
    return scores[rows, np.arange(scores.shape[1])]


def _draw_episodes(
    returns: Returns, tasks: Int[np.ndarray, "n task"], rng: np.random.Generator
) -> Float[np.ndarray, "n run task"]:
    # a rival may have several runs although `first` has one: each of them is seen on the tasks drawn
    runs, _, episodes = returns.shape
    picked = rng.integers(episodes, size=(len(tasks), runs, tasks.shape[1], episodes))
    return returns[np.arange(runs)[:, None, None], tasks[:, None, :, None], picked].mean(-1)


def _interval(point: float, draws: Float[np.ndarray, " draws"], confidence: float, runs: int) -> Interval:
    tail = 0.5 * (1.0 - confidence)
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return Interval(point, float(low), float(high), confidence, EPISODES if runs == 1 else RUNS)


def _check(returns: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(returns, np.float64)
    if array.ndim != 3 or 0 in array.shape:
        raise DataError(f"{name} has shape {array.shape}, expected [run, task, episode] with at least one each.")
    if not np.isfinite(array).all():
        run, task, episode = np.argwhere(~np.isfinite(array))[0]
        raise DataError(
            f"{name}[{run}, {task}, {episode}] is {array[run, task, episode]}: expected finite returns. "
            "Look for a diverged policy."
        )
    return array


def _check_settings(confidence: float, resamples: int) -> None:
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence={confidence}: expected above 0 and below 1, e.g. 0.95.")
    if resamples < 1:
        raise ConfigError(f"resamples={resamples}: expected at least 1; 2000 is usual.")
