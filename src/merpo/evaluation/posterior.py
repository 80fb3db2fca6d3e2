"""Model-based off-policy evaluation that knows what it does not know: returns of a policy in systems drawn at random
from what the log leaves possible.

The next observation and the reward are Gaussian processes (`gaussian_process.py`): the change s' - s of every column
given (s, a), the reward given (s, a, s'). Their scales come from the part of the log that the policy was learned from,
everything else from the part it was not. A system is one function drawn per process; in each, the policy is run. The
spread of its returns over systems is the evaluation's uncertainty, and it grows where the policy leaves the log.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from merpo.data import TaskData
from merpo.evaluation.gaussian_process import Kernel, Scale, draw, fit_kernel
from merpo.evaluation.offpolicy import Arrays, Problem, Target, effective_sample_size, task_arrays
from merpo.evaluation.stitched import nearest

FITTED, KNOWN = 120, 800
"""Most logged rows that kernels are fitted to, and that the functions drawn must agree with."""
SYSTEMS, RUNS = 100, 4
"""Systems drawn, and runs of the policy in each."""
ROUGH, SIGNAL = 2.0, 1.0
"""Of the reward, in deviations of the log: its shortest length scale is taken to be at most this, and it may vary by at
least this much. A reward that looks like a plane in the log need not be one beyond it (a goal is a cone), so it has no
linear trend either."""
UNKNOWN = 0.5
"""A step is unsupported where the predicted reward or next observation is uncertain by more than this share of its
standard deviation in the log."""


@dataclass(frozen=True)
class Posterior:
    """The returns of one policy over the drawn systems."""

    returns: Float[np.ndarray, " system"]
    unsupported: float
    """Share of its steps, in the most likely system, of which the log knows too little; see `UNKNOWN`."""
    effective: float
    """Effective number of logged transitions behind the predicted rewards (Kong 1992), of their signed weights."""

    @property
    def value(self) -> float:
        """The estimate of J(pi)."""
        return float(self.returns.mean())


class Systems:
    """Systems drawn from a log: `held` speaks, `learned` (the other part, or the same) only sets the scales."""

    def __init__(self, problem: Problem, learned: TaskData, seed: int = 0, systems: int = SYSTEMS):
        self.problem, self._seed = problem, seed
        rng = np.random.default_rng([seed, 13])
        x, after, change, reward = _columns(task_arrays(learned))
        self._in, self._seen = Scale.of(x), Scale.of(after)
        self._out, self._paid = Scale.of(change), Scale.of(reward)
        some = rng.permutation(len(x))[:FITTED]
        kernels = [fit_kernel(self._in(x)[some], y) for y in self._out(change)[some].T]
        paid = fit_kernel(self._seen(after)[some], self._paid(reward)[some, 0], trend=0.0).rougher(ROUGH, SIGNAL)
        t = task_arrays(problem.task)
        x, after, change, reward = _columns(t)
        known = np.sort(rng.permutation(len(x))[:KNOWN])
        self._moves = [
            draw(k, self._in(x)[known], y, systems, rng)
            for k, y in zip(kernels, self._out(change)[known].T, strict=True)
        ]
        self._pays = draw(paid, self._seen(after)[known], self._paid(reward)[known, 0], systems, rng)
        self._noise = np.array([_noise(k) for k in kernels]) * self._out.std
        self._best, self._starts = float(t.reward.max()), t.obs[problem.task.episode_start[:-1]]
        self._near = nearest(t, problem.episode, 1.5, rng) if t.terminated.any() else None
        self._ended = t.terminated

    def returns(self, target: Target, capped: bool = True) -> Posterior:
        """Run the policy. `capped`: no step earns more than the best logged reward, which is cautious."""
        rng = np.random.default_rng([self._seed, 14])  # the same starts and noise for every policy
        # without chance in starts or transitions one run tells all
        runs = RUNS if self._noise.any() or np.ptp(self._starts, axis=0).any() else 1
        shape = (len(self._pays.weights), runs)
        system = np.repeat(np.arange(shape[0]), runs)
        obs = self._starts[rng.integers(0, len(self._starts), shape).reshape(-1)]
        total, alive = np.zeros(len(obs)), np.ones(len(obs), bool)
        unknown, steps, weight = 0, 0, np.zeros(len(self._pays.x))
        for h in range(self.problem.horizon):
            action, noise = target.draw(obs, rng), self._noise * rng.standard_normal(obs.shape)
            go = np.flatnonzero(alive)
            if not len(go):
                break
            x, of = np.concatenate([obs, action], axis=-1)[go], system[go]
            moved = np.stack([f(self._in(x), of) for f in self._moves], axis=-1)
            after = obs[go] + self._out.mean + self._out.std * moved + noise[go]
            seen = np.concatenate([x, after], axis=-1)
            reward = self._paid.mean[0] + self._paid.std[0] * self._pays(self._seen(seen), of)
            total[go] += self.problem.discount**h * (np.minimum(reward, self._best) if capped else reward)
            likely = of == 0  # the first function drawn is the most likely one
            unknown, steps = unknown + int(self._uncertain(x[likely], seen[likely]).sum()), steps + int(likely.sum())
            weight = weight + self._pays.influence(self._seen(seen[likely])).sum(0)
            if self._near is not None:
                row, _ = self._near(x[:, : obs.shape[1]], x[:, obs.shape[1] :], rng)
                alive[go] = ~self._ended[row]
            obs[go] = after
        total = total.reshape(shape)
        return Posterior(total.mean(1), unknown / max(steps, 1), effective_sample_size(np.abs(weight)))

    def _uncertain(self, x: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Of rows [run, column]: whether the log leaves open what happens there."""
        by_column = [f.spread(self._in(x)) for f in self._moves] + [self._pays.spread(self._seen(seen))]
        return np.asarray(np.stack(by_column).max(0) > UNKNOWN)


def _noise(kernel: Kernel) -> float:
    """Deviation of single transitions; what the fit gives at its lower limit is taken for none."""
    return kernel.noise if kernel.noise > 2e-3 else 0.0


def _columns(t: Arrays) -> tuple[np.ndarray, ...]:
    """(s, a), (s, a, s'), s' - s and the reward, all [row, column]."""
    x = np.concatenate([t.obs, t.action], axis=1)
    return x, np.concatenate([x, t.next_obs], axis=1), t.next_obs - t.obs, t.reward[:, None]
