"""The improvement theorem in numbers: both inequalities, the interval of alpha, and their worth in the true task.

With pi_o the maximiser of F (`maximiser.py`) and D a metric, F(pi_o) >= F(anchor) and the triangle inequality give

    J_f(pi_o) - J_f(pi_c)    >=  lambda (1 - 2 alpha) D(pi_o, pi_c)    + beta / (1 - gamma) [nu(pi_o) - nu(pi_c)]
    J_f(pi_o) - J_f(pi_beta) >= -lambda (1 - 2 alpha) D(pi_o, pi_beta) + beta / (1 - gamma) [nu(pi_o) - nu(pi_beta)]

For alpha < 1/2 the second right side is positive exactly when alpha > 1/2 - eps, with
eps = beta [nu(pi_o) - nu(pi_beta)] / (2 lambda (1 - gamma) D(pi_o, pi_beta)). The first is positive whenever
nu(pi_o) >= nu(pi_c), and otherwise has to be looked at. `conditions` asks for both (and for D > 0); then J_f improves
on both anchors, always. In the true task J(pi) = J_f(pi) up to the model's error, which `errors` holds twice: as it
is, and as it can be bounded from the counts alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from merpo.errors import ConfigError
from merpo.guarantee.exact import Balance, Log, nu
from merpo.guarantee.maximiser import distance
from merpo.guarantee.mdp import MDP, Kernel, Scalar, Table, occupancy, value

Flag = Bool[np.ndarray, "*b"]
TOLERANCE = 1e-9
"""Rounding of the linear solves, in return: conditions must hold by more, inequalities may fail by less."""


@dataclass(frozen=True)
class Judgement:
    """What the theorem says of one policy in one instance, and what is true; every field has the batch's shape."""

    gain_c: Scalar
    """J_f(pi_o) - J_f(pi_c)."""
    gain_beta: Scalar
    """J_f(pi_o) - J_f(pi_beta)."""
    bound_c: Scalar
    """The right side of the first inequality."""
    bound_beta: Scalar
    """The right side of the second."""
    lowest_alpha: Scalar
    """max{1/2 - eps, 0}; NaN where pi_o = pi_beta."""
    interval: Flag
    """alpha in (max{1/2 - eps, 0}, 1/2)."""
    conditions: Flag
    """`interval`, and a positive right side of the first inequality."""
    conclusion: Flag
    """J_f(pi_o) above both J_f(pi_c) and J_f(pi_beta)."""
    broken: Flag
    """An inequality fails by more than rounding (impossible for a maximiser of F and a metric D)."""
    true_gain_c: Scalar
    """J(pi_o) - J(pi_c) in the true task."""
    true_gain_beta: Scalar
    """J(pi_o) - J(pi_beta), pi_beta the clone that the objective holds on to."""
    true_gain_logged: Scalar
    """J(pi_o) less J of the policy that logged the data."""
    true_conclusion: Flag
    """Both `true_gain_c` and `true_gain_beta` are positive."""
    model_error: Scalar
    """|J - J_f| of pi_o plus that of the worse anchor: what the inequalities lose at most in the true task."""
    sampling_bound: Scalar
    """An upper bound of `model_error` from the log alone, with probability 1 - delta over logs."""


def judge(
    log: Log,
    true: MDP,
    behaviour: Table,
    pi: Table,
    pi_c: Table,
    balance: Balance,
    prior_T: Kernel,
    prior_r: Table,
    delta: float = 0.05,
) -> Judgement:
    """Evaluate the theorem at `pi` (meant: a maximiser of F) exactly. `prior_T`, `prior_r` are those of `read_log`."""
    if not 0.0 < delta < 1.0:
        raise ConfigError(f"delta={delta}: expected a probability strictly between 0 and 1, e.g. 0.05.")
    model = log.model
    alpha, lam = np.asarray(balance.alpha, np.float64), np.asarray(balance.lam, np.float64)
    push = np.asarray(balance.beta, np.float64) / (1.0 - model.gamma)
    trio = (pi, np.broadcast_to(pi_c, pi.shape), log.clone)
    jf, j = np.stack([value(model, p) for p in trio]), np.stack([value(true, p) for p in trio])
    spread = np.stack([nu(model, p, log.d, balance.f) for p in trio])
    d_c, d_beta = (distance(model, pi, p) for p in trio[1:])
    bound_c = lam * (1.0 - 2.0 * alpha) * d_c + push * (spread[0] - spread[1])
    bound_beta = -lam * (1.0 - 2.0 * alpha) * d_beta + push * (spread[0] - spread[2])
    apart = d_beta > 1e-9
    eps = push * (spread[0] - spread[2]) / (2.0 * lam * np.where(apart, d_beta, 1.0))
    lowest = np.where(apart, np.maximum(0.5 - eps, 0.0), np.nan)
    interval = apart & (alpha > np.where(apart, lowest, 1.0)) & (alpha < 0.5) & (bound_beta > TOLERANCE)
    gain_c, gain_beta = jf[0] - jf[1], jf[0] - jf[2]
    error = np.abs(jf - j)
    sampled = np.stack([sampling_bound(log, p, prior_T, prior_r, delta) for p in trio])
    return Judgement(
        gain_c=gain_c,
        gain_beta=gain_beta,
        bound_c=bound_c,
        bound_beta=bound_beta,
        lowest_alpha=lowest,
        interval=interval,
        conditions=interval & (bound_c > TOLERANCE),
        conclusion=(gain_c > 0.0) & (gain_beta > 0.0),
        broken=(gain_c < bound_c - TOLERANCE) | (gain_beta < bound_beta - TOLERANCE),
        true_gain_c=j[0] - j[1],
        true_gain_beta=j[0] - j[2],
        true_gain_logged=j[0] - value(true, behaviour),
        true_conclusion=(j[0] > j[1]) & (j[0] > j[2]),
        model_error=error[0] + np.maximum(error[1], error[2]),
        sampling_bound=sampled[0] + np.maximum(sampled[1], sampled[2]),
    )


def sampling_bound(log: Log, pi: Table, prior_T: Kernel, prior_r: Table, delta: float) -> Scalar:
    """|J(pi) - J_f(pi)| <= this for every pi at once, with probability 1 - delta over logs, from the counts alone.

    Simulation lemma: J - J_f = E_{rho_f}[(r - r_f) + gamma (T - T_f) V] / (1 - gamma), V the true values, of span at
    most 1/(1 - gamma) for rewards in [0, 1]. |T - T_emp|_1 <= sqrt(2 ln((2^S - 2) S A / delta) / n) for all pairs at
    once (Weissman et al. 2003), |T_emp - T_f|_1 is known, and a reward is wrong only where nothing was logged.
    """
    s, a = log.clone.shape[-2:]
    n = log.counts.sum(-1).astype(np.float64)
    deviation = np.sqrt(2.0 * np.log((2.0**s - 2.0) * s * a / delta) / np.maximum(n, 1.0))
    empirical = np.where((n > 0)[..., None], log.counts / np.maximum(n, 1.0)[..., None], prior_T)
    known = np.abs(empirical - log.model.T).sum(-1)
    kernel = np.where(n > 0, np.minimum(deviation + known, 2.0), 2.0)
    reward = np.where(n > 0, 0.0, np.maximum(prior_r, 1.0 - prior_r))
    horizon = 1.0 / (1.0 - log.model.gamma)
    each = reward + 0.5 * log.model.gamma * kernel * horizon
    return np.asarray((occupancy(log.model, pi) * each).sum((-1, -2)) * horizon)
