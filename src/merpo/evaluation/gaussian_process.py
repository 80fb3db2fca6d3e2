"""Gaussian processes for small logs: one per predicted quantity, whole functions drawn from the posterior.

    k(x, x') = 1 + t^2 x . x' + s^2 Matern_5/2(|(x - x') / length|),   x and y standardised, noise variance n^2

Length scales (one per input), s and n maximise the marginal likelihood with a weak prior (Rasmussen and Williams 2006,
5.4). Functions are drawn pathwise: a prior draw by random features, corrected by what the data say of it (Wilson et al.
2020, "Efficiently sampling functions from Gaussian process posteriors"). NumPy float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

Inputs = Float[np.ndarray, "row x"]
Outputs = Float[np.ndarray, " row"]
BLOCK = 64
"""Rows of a function's values at a time: what is computed of them stays in the processor's cache."""
WAVES = 400
"""Random features of a prior draw."""
LONGEST = 3.0
"""Longest length scale, in deviations of the log: nothing is taken to be smoother than that."""


@dataclass(frozen=True)
class Scale:
    """Shift and spread of columns."""

    mean: Float[np.ndarray, " x"]
    std: Float[np.ndarray, " x"]

    @staticmethod
    def of(rows: Inputs) -> Scale:
        """Of these rows."""
        return Scale(rows.mean(0), np.maximum(rows.std(0), 1e-9))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """In deviations from the mean."""
        return np.asarray((rows - self.mean) / self.std)


@dataclass(frozen=True)
class Kernel:
    """One quantity's kernel, in standardised units."""

    length: Float[np.ndarray, " x"]
    signal: float
    noise: float
    trend: float = 1.0
    """Deviation of the linear part's slopes; 0 for none."""

    def __call__(
        self, a: Float[np.ndarray, "row x"], b: Float[np.ndarray, "other x"]
    ) -> Float[np.ndarray, "row other"]:
        """k of all pairs."""
        value = _matern(_squares(a / self.length, b / self.length))
        value *= self.signal**2
        value += 1.0
        return np.asarray(value + self.trend**2 * (a @ b.T) if self.trend else value)

    def rougher(self, longest: float, signal: float) -> Kernel:
        """With all lengths shrunk alike until the shortest is at most `longest`, and at least this signal."""
        return replace(
            self, length=self.length * min(1.0, longest / float(self.length.min())), signal=max(self.signal, signal)
        )


def fit_kernel(x: Inputs, y: Outputs, trend: float = 1.0, steps: int = 60) -> Kernel:
    """The most likely kernel for standardised rows, by sign-based gradient steps (Rprop) in the logarithms."""
    d = x.shape[1]
    theta = np.concatenate([np.full(d, np.log(2.0)), [0.0, np.log(0.1)]])
    low = np.concatenate([np.full(d, np.log(0.2)), np.log([0.03, 1e-3])])
    high = np.concatenate([np.full(d, np.log(LONGEST)), np.log([10.0, 1.0])])
    step, last = np.full(d + 2, 0.2), np.zeros(d + 2)
    best = (-np.inf, theta)
    for _ in range(steps):
        value, slope = _evidence(theta, x, y, trend)
        if value > best[0]:
            best = (value, theta)
        same = slope * last
        step = np.clip(np.where(same > 0, 1.3 * step, np.where(same < 0, 0.5 * step, step)), 1e-3, 0.6)
        last = np.where(same < 0, 0.0, slope)
        theta = np.clip(theta + np.sign(last) * step, low, high)
    theta = best[1]
    return Kernel(np.exp(theta[:d]), float(np.exp(theta[d])), float(np.exp(theta[d + 1])), trend)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found = a @ b.T
    found *= -2.0
    found += (a * a).sum(1)[:, None]
    found += (b * b).sum(1)
    return np.asarray(np.maximum(found, 0.0, out=found))


def _matern(squares: np.ndarray) -> np.ndarray:
    """Matern 5/2 of squared distances, (1 + r + r^2 / 3) exp(-r) with r^2 = 5 squares; they are overwritten."""
    r = np.sqrt(np.multiply(squares, 5.0, out=squares), out=squares)
    value = r * r
    value /= 3.0
    value += r
    value += 1.0
    value *= np.exp(np.negative(r, out=r), out=r)
    return np.asarray(value)


def _matern_slope(squares: np.ndarray) -> np.ndarray:
    """Minus twice the derivative of `_matern` with respect to the squared distance."""
    r = np.sqrt(5.0 * squares)
    return np.asarray(5.0 / 3.0 * (1.0 + r) * np.exp(-r))


def _evidence(theta: np.ndarray, x: Inputs, y: Outputs, trend: float) -> tuple[float, np.ndarray]:
    """Log marginal likelihood with log-normal priors, and its gradient."""
    d = x.shape[1]
    length, signal, noise = np.exp(theta[:d]), np.exp(theta[d]), np.exp(theta[d + 1])
    z = x / length
    squares = _squares(z, z)
    slope, value = _matern_slope(squares), _matern(squares)
    k = 1.0 + trend**2 * (x @ x.T) + signal**2 * value + (noise**2 + 1e-8) * np.eye(len(x))
    chol = np.linalg.cholesky(k)
    inverse = np.linalg.inv(k)
    solved = inverse @ y
    centre, width = np.log(2.0), 1.0
    prior = (theta[:d] - centre) / width
    likely = -0.5 * float(y @ solved) - float(np.log(np.diag(chol)).sum()) - 0.5 * float((prior**2).sum())
    w = np.outer(solved, solved) - inverse
    g = w * slope * signal**2
    # sum_ab g_ab (z_a - z_b)^2, column by column
    by_length = (g.sum(1) @ (z * z)) - (z * (g @ z)).sum(0)
    gradient = np.concatenate(
        [by_length - prior / width, [float((w * value).sum()) * signal**2, float(np.trace(w)) * noise**2]]
    )
    return likely, gradient


@dataclass(frozen=True)
class Draws:
    """Functions drawn from a posterior."""

    kernel: Kernel
    x: Float[np.ndarray, "row x"]
    correction: Float[np.ndarray, "draw row"]
    tilt: Float[np.ndarray, "draw x_plus_1"]
    waves: Float[np.ndarray, "x wave"]
    phase: Float[np.ndarray, " wave"]
    weights: Float[np.ndarray, "draw wave"]
    inverse: Float[np.ndarray, "row row"]
    """Of the covariance of the data."""

    def prior(self, rows: Inputs) -> Float[np.ndarray, "row draw"]:
        """The prior draws at the same rows for all."""
        return self._features(rows) @ self.weights.T + rows @ self.tilt[:, :-1].T + self.tilt[:, -1]

    def spread(self, rows: Float[np.ndarray, "row x"]) -> Float[np.ndarray, " row"]:
        """Standard deviation of the posterior at these rows."""
        to, signal = self.kernel(rows, self.x), self.kernel.signal**2
        own = 1.0 + self.kernel.trend**2 * (rows * rows).sum(1) + signal
        return np.asarray(np.sqrt(np.maximum(own - ((to @ self.inverse) * to).sum(1), 0.0)))

    def influence(self, rows: Float[np.ndarray, "row x"]) -> Float[np.ndarray, "row known"]:
        """The weight of every known value in the mean at these rows."""
        return np.asarray(self.kernel(rows, self.x) @ self.inverse)

    def _features(self, rows: Inputs) -> np.ndarray:
        # single precision here is ten times faster, and its error, 1e-6 of the signal, one of the prior draw alone:
        # what the data say of the draw is said of the draw as it is computed
        size = np.float32(self.kernel.signal * np.sqrt(2.0 / len(self.phase)))
        found = (rows @ self.waves + self.phase).astype(np.float32)
        found = np.cos(found, out=found)
        found *= size
        return np.asarray(found)

    def __call__(self, rows: Float[np.ndarray, "row x"], of: Int[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """At each row (standardised) the value of the function `of` it."""
        found = np.empty(len(rows))
        for start in range(0, len(rows), BLOCK):
            block, mine = rows[start : start + BLOCK], of[start : start + BLOCK]
            value = np.einsum("rk,rk->r", self.kernel(block, self.x), self.correction[mine])
            value += np.einsum("rk,rk->r", self._features(block), self.weights[mine])
            value += np.einsum("rk,rk->r", block, self.tilt[mine, :-1]) + self.tilt[mine, -1]
            found[start : start + BLOCK] = value
        return found


def draw(kernel: Kernel, x: Inputs, y: Outputs, count: int, rng: np.random.Generator) -> Draws:
    """`count` functions from the posterior given standardised rows; the first is the posterior's mean."""
    d, variance = x.shape[1], kernel.noise**2 + 1e-8
    # the spectral density of a Matern 5/2 is a Student t of five degrees of freedom
    heavy = np.sqrt(5.0 / rng.chisquare(5.0, WAVES))
    slope = np.append(np.full(d, kernel.trend), 1.0)
    random = (np.arange(count) > 0).astype(np.float64)
    tilt = random * slope[:, None] * rng.standard_normal((d + 1, count))
    waves = rng.standard_normal((d, WAVES)) * heavy / kernel.length[:, None]
    phase = rng.uniform(0.0, 2.0 * np.pi, WAVES)
    weights = random * rng.standard_normal((WAVES, count))
    inverse = np.linalg.inv(kernel(x, x) + variance * np.eye(len(x)))
    prior = Draws(
        kernel, x, np.zeros((count, len(x))), np.ascontiguousarray(tilt.T), waves, phase,
        np.ascontiguousarray(weights.T), inverse,
    )  # fmt: skip
    noise = random * np.sqrt(variance) * rng.standard_normal((len(x), count))
    missed = y[:, None] - prior.prior(x) - noise
    return replace(prior, correction=np.ascontiguousarray((inverse @ missed).T))
