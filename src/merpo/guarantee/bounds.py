"""Lower confidence bounds of a mean over episodes, and the settings of a certificate."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from merpo.errors import ConfigError

Scores = Float[np.ndarray, " episode"]


@dataclass(frozen=True)
class CertificateConfig:
    """What a certificate asks for."""

    delta: float = 0.05
    """Accepted probability of certifying a policy that is no better; the confidence is 1 - delta."""
    share: float = 0.5
    """Share of the log's episodes that are kept from learning, for the certificate."""
    least_episodes: int = 10
    """Fewer held-back episodes are too few for any interval."""
    most_unsupported: float = 0.1
    """Largest share of the policy's steps that a log of a finite MDP may lack."""
    most_unknown: float = 0.5
    """On continuous states, the largest share of steps of which the log says too little. The bound itself grows wide
    there: this only keeps a claim from resting on such steps for the most part."""
    least_effective: float = 20.0
    """Least effective number of transitions behind the estimate, for finite MDPs."""
    scale_factor: float = 5.0
    """Rewards whose spread differs by more than this factor from the training tasks' are taken for another unit."""
    discount: float = 1.0
    """Discount of the returns that are compared."""
    resamples: int = 2000
    """Bootstrap draws."""
    seed: int = 0
    """Seed of the split, of resampling and of stitched trajectories."""

    def __post_init__(self) -> None:
        for name in ("delta", "share", "most_unsupported", "most_unknown"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(f"{name}={getattr(self, name)}: expected a number strictly between 0 and 1.")
        for name in ("least_episodes", "resamples"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name}={getattr(self, name)}: expected a whole number >= 2.")
        if self.scale_factor <= 1.0:
            raise ConfigError(f"scale_factor={self.scale_factor}: expected a factor above 1, e.g. 5.")


@dataclass(frozen=True)
class Comparison:
    """The difference of two returns and its lower bound."""

    estimate: float
    """J(policy) - J(other)."""
    lower: float
    """Below the true difference with the certificate's confidence."""
    standard_error: float
    method: str
    """`posterior` on continuous states; else `bootstrap`, or `concentration` where the log is large enough for it."""


def compare(scores: Scores, estimate: float, config: CertificateConfig) -> Comparison:
    """Lower bound of a mean difference by the studentised bootstrap over episodes (Efron and Tibshirani 1993, 12.5).

    Centred on the smaller of the plug-in estimate and the jackknife's bias-corrected one, the mean of the scores.
    """
    n = len(scores)
    centre, error = min(float(scores.mean()), estimate), float(scores.std(ddof=1)) / np.sqrt(n)
    rng = np.random.default_rng([config.seed, 12])
    draws = scores[rng.integers(0, n, (config.resamples, n))]
    spread = draws.std(1, ddof=1) / np.sqrt(n)
    student = (draws.mean(1) - scores.mean()) / np.maximum(spread, 1e-12 + 1e-3 * error)
    quantile = max(float(np.quantile(student, 1.0 - config.delta)), 0.0)
    return Comparison(estimate, centre - quantile * error, error, "bootstrap")


def lower_quantile(draws: Float[np.ndarray, "*n"], config: CertificateConfig) -> Comparison:
    """The delta quantile of draws from a posterior of a difference, or of a normal one of their spread if lower."""
    centre, error = float(draws.mean()), float(draws.std(ddof=1))
    normal = centre - NormalDist().inv_cdf(1.0 - config.delta) * error
    return Comparison(centre, min(float(np.quantile(draws, config.delta)), normal), error, "posterior")


def above(
    policy: Float[np.ndarray, " system"], returns: Scores, config: CertificateConfig, draws: int = 40
) -> Comparison:
    """Posterior of a policy's return less the mean of logged returns, whose error is a Student t of n - 1 degrees."""
    n = len(returns)
    rng = np.random.default_rng([config.seed, 15])
    error = float(returns.std(ddof=1)) / np.sqrt(n) if n > 1 else 0.0
    logged = returns.mean() + error * rng.standard_t(max(n - 1, 1), (len(policy), draws))
    return lower_quantile(policy[:, None] - logged, config)


def bernstein_lower(scores: Scores, low: float, high: float, delta: float) -> float:
    """Empirical Bernstein lower bound of the mean of scores in [low, high] (Maurer and Pontil 2009, theorem 4)."""
    n = len(scores)
    log = np.log(2.0 / delta)
    return float(
        scores.mean() - np.sqrt(2.0 * scores.var(ddof=1) * log / n) - 7.0 * (high - low) * log / (3.0 * (n - 1))
    )
