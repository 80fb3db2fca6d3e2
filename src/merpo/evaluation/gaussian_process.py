"""Gaussian processes for small logs: one per predicted quantity, whole functions drawn from the posterior.

    k(x, x') = 1 + t^2 x . x' + s^2 Matern_5/2(|(x - x') / length|),   x and y standardised, noise variance n^2

Length scales (one per input), s and n maximise the marginal likelihood with a weak prior (Rasmussen and Williams 2006,
5.4). Functions are drawn pathwise: a prior draw by random features, corrected by what the data say of it (Wilson et al.
2020, "Efficiently sampling functions from Gaussian process posteriors"). NumPy float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

Inputs = Float[np.ndarray, "row x"]
Outputs = Float[np.ndarray, " row"]
ROOT5 = np.sqrt(5.0)
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
        value, _ = _matern(_squares(a / self.length, b / self.length))
        return np.asarray(1.0 + self.trend**2 * (a @ b.T) + self.signal**2 * value)

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
    return np.maximum((a * a).sum(1)[:, None] - 2.0 * a @ b.T + (b * b).sum(1)[None], 0.0)


def _matern(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matern 5/2 and minus twice its derivative with respect to the squared distance."""
    r = ROOT5 * np.sqrt(squares)
    fall = np.exp(-r)
    return (1.0 + r + r * r / 3.0) * fall, 5.0 / 3.0 * (1.0 + r) * fall


def _evidence(theta: np.ndarray, x: Inputs, y: Outputs, trend: float) -> tuple[float, np.ndarray]:
    """Log marginal likelihood with log-normal priors, and its gradient."""
    d = x.shape[1]
    length, signal, noise = np.exp(theta[:d]), np.exp(theta[d]), np.exp(theta[d + 1])
    z = x / length
    value, slope = _matern(_squares(z, z))
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
    """Functions drawn from a posterior: call with [draw, row, x] (standardised) for [draw, row]."""

    kernel: Kernel
    x: Float[np.ndarray, "row x"]
    correction: Float[np.ndarray, "row draw"]
    tilt: Float[np.ndarray, "x_plus_1 draw"]
    waves: Float[np.ndarray, "x wave"]
    phase: Float[np.ndarray, " wave"]
    weights: Float[np.ndarray, "wave draw"]
    inverse: Float[np.ndarray, "row row"]
    """Of the covariance of the data."""

    def prior(self, rows: Inputs) -> Float[np.ndarray, "row draw"]:
        """The prior draws at the same rows for all."""
        return self._features(rows) @ self.weights + rows @ self.tilt[:-1] + self.tilt[-1]

    def spread(self, rows: Float[np.ndarray, "row x"]) -> Float[np.ndarray, " row"]:
        """Standard deviation of the posterior at these rows."""
        to, signal = self.kernel(rows, self.x), self.kernel.signal**2
        own = 1.0 + self.kernel.trend**2 * (rows * rows).sum(1) + signal
        return np.asarray(np.sqrt(np.maximum(own - ((to @ self.inverse) * to).sum(1), 0.0)))

    def influence(self, rows: Float[np.ndarray, "row x"]) -> Float[np.ndarray, "row known"]:
        """The weight of every known value in the mean at these rows."""
        return np.asarray(self.kernel(rows, self.x) @ self.inverse)

    def _features(self, rows: Inputs) -> np.ndarray:
        size = self.kernel.signal * np.sqrt(2.0 / len(self.phase))
        return np.asarray(np.cos(rows @ self.waves + self.phase) * size)

    def __call__(self, rows: Float[np.ndarray, "draw row x"]) -> Float[np.ndarray, "draw row"]:
        """Every drawn function at its own rows."""
        s, m, d = rows.shape
        flat = rows.reshape(-1, d)

        def take(f: np.ndarray, w: np.ndarray) -> np.ndarray:
            return np.asarray(np.einsum("smk,ks->sm", f.reshape(s, m, -1), w))

        found = take(self._features(flat), self.weights) + take(flat, self.tilt[:-1]) + self.tilt[-1][:, None]
        return np.asarray(found + take(self.kernel(flat, self.x), self.correction))


def draw(kernel: Kernel, x: Inputs, y: Outputs, count: int, rng: np.random.Generator) -> Draws:
    """`count` functions from the posterior given standardised rows; the first is the posterior's mean."""
    d, variance = x.shape[1], kernel.noise**2 + 1e-8
    # the spectral density of a Matern 5/2 is a Student t of five degrees of freedom
    heavy = np.sqrt(5.0 / rng.chisquare(5.0, WAVES))
    slope = np.append(np.full(d, kernel.trend), 1.0)
    random = (np.arange(count) > 0).astype(np.float64)
    prior = Draws(
        kernel, x, np.zeros((len(x), count)), random * slope[:, None] * rng.standard_normal((d + 1, count)),
        rng.standard_normal((d, WAVES)) * heavy / kernel.length[:, None], rng.uniform(0.0, 2.0 * np.pi, WAVES),
        random * rng.standard_normal((WAVES, count)), np.linalg.inv(kernel(x, x) + variance * np.eye(len(x))),
    )  # fmt: skip
    noise = random * np.sqrt(variance) * rng.standard_normal((len(x), count))
    missed = y[:, None] - prior.prior(x) - noise
    return replace(prior, correction=prior.inverse @ missed)
