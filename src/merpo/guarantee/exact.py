"""MerPO in closed form on finite MDPs: what the networks approximate, without any approximation (docs/guarantee.md).

    data        counts n(s, a, t); d = n / N; the empirical model, and a model shrunk towards the meta-model
    evaluation  Q = B_f^pi Q - beta (rho - d) / d_f,  d_f = f d + (1 - f) rho, by a linear solve (COMBO, eq. 2)
    improvement pi ~ pi_beta^alpha pi_c^(1 - alpha) exp(Q / lambda) with D = KL(pi || .) (MerPO, section 4)
    meta-policy pi_c = mean of the tasks' policies, weighted by how often each visits the state (MerPO, section 5)

B_f is the Bellman operator of M_f, the interpolant f (empirical MDP) + (1 - f) (model); rho is the occupancy of pi
in M_f, so that <mu, E_pi Q> = J_f(pi) - beta nu(pi) / (1 - gamma) holds exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from merpo.errors import ConfigError
from merpo.guarantee.mdp import MDP, Counts, Kernel, Scalar, Start, Table, action_values, occupancy

Weight = float | Float[np.ndarray, "..."]
"""One number, or one per instance of the batch."""


@dataclass(frozen=True)
class Log:
    """What a task's log says: the clone of its behaviour policy, d, and the model that learning happens in."""

    counts: Counts
    clone: Table
    """pi_beta as estimated from the counts (a tenth of a count is added to every action, so that none is excluded)."""
    d: Table
    """d(s, a) = n(s, a) / N."""
    model: MDP
    """M_f: where J_f, rho and nu live."""

    @property
    def size(self) -> Float[np.ndarray, "*b"]:
        """N, the number of logged transitions."""
        return np.asarray(self.counts.sum((-1, -2, -3)), np.float64)


def lift(x: Weight, axes: int) -> Float[np.ndarray, "*any"]:
    """The weight with `axes` trailing axes, to weigh tables with."""
    array = np.asarray(x, np.float64)
    return array.reshape(*array.shape, *(1,) * axes)


def read_log(counts: Counts, true: MDP, prior_T: Kernel, prior_r: Table, f: Weight, strength: float = 5.0) -> Log:
    """The log's own view of its task.

    The empirical kernel is n(s, a, t) / n(s, a), the model (n T_emp + strength T_meta) / (n + strength): the
    proximal problem of the meta-model in closed form, with the meta-model's kernel `prior_T` as a prior that is
    worth `strength` transitions per pair. Rewards are deterministic, hence known where a pair was logged; elsewhere
    they are the meta-model's, `prior_r`, as is the empirical kernel. f in [0, 1).
    """
    share = lift(f, 3)
    if np.any(share < 0.0) or np.any(share >= 1.0):
        raise ConfigError(f"f={f}: expected a share in [0, 1), e.g. 0.5: with f = 1 unlogged pairs have no weight.")
    n = counts.sum(-1).astype(np.float64)
    seen = n > 0
    empirical = np.where(seen[..., None], counts / np.maximum(n, 1.0)[..., None], prior_T)
    shrunk = (counts + strength * prior_T) / (n + strength)[..., None]
    kernel = share * empirical + (1.0 - share) * shrunk
    smooth = n + 0.1
    d = n / np.maximum(n.sum((-1, -2), keepdims=True), 1.0)
    model = MDP(kernel, np.where(seen, true.r, prior_r), true.mu, true.gamma)
    return Log(counts, smooth / smooth.sum(-1, keepdims=True), d, model)


def penalty(rho: Table, d: Table, f: Weight) -> Table:
    """(rho - d) / d_f, d_f = f d + (1 - f) rho; 0 where neither has weight."""
    share = lift(f, 2)
    mixed = share * d + (1.0 - share) * rho
    return np.asarray((rho - d) / np.where(mixed > 0.0, mixed, 1.0))


def conservative_values(model: MDP, pi: Table, d: Table, beta: Weight, f: Weight) -> Table:
    """Q = B^pi Q - beta (rho - d) / d_f, with rho the occupancy of pi in the model (COMBO, eq. 2 at its optimum)."""
    rho = occupancy(model, pi)
    return action_values(model, pi, model.r - lift(beta, 2) * penalty(rho, d, f))


def nu(model: MDP, pi: Table, d: Table, f: Weight) -> Scalar:
    """nu(pi) = E_{rho^pi}[(rho^pi - d) / d_f] (COMBO, section 4; >= 0, and 0 at rho^pi = d)."""
    rho = occupancy(model, pi)
    return np.asarray((rho * penalty(rho, d, f)).sum((-1, -2)))


def improve(q: Table, pi_beta: Table, pi_c: Table, alpha: Weight, lam: Weight) -> Table:
    """argmax <pi, Q> - lam alpha KL(pi || pi_beta) - lam (1 - alpha) KL(pi || pi_c), state by state.

    pi ~ pi_beta^alpha pi_c^(1 - alpha) exp(Q / lam); lam > 0.
    """
    a, weight = lift(alpha, 2), lift(lam, 2)
    if np.any(weight <= 0.0):
        raise ConfigError(f"lam={lam}: expected weights above 0, since the improvement divides by them.")
    tiny = 1e-300
    logit = a * np.log(pi_beta + tiny) + (1.0 - a) * np.log(pi_c + tiny) + q / weight
    tilted = np.exp(logit - logit.max(-1, keepdims=True))
    return np.asarray(tilted / tilted.sum(-1, keepdims=True))


def improve_clone(
    q: Table, pi_beta: Table, pi_c: Table, alpha: Weight, lam: Weight, share: Start | float = 1.0
) -> Table:
    """argmax <pi, Q> + lam alpha share <pi_beta, log pi> - lam (1 - alpha) KL(pi || pi_c): the clone form of D.

    KL(pi_beta || pi) in place of KL(pi || pi_beta), as RAC has it in practice; `share` weighs a state's clone term
    (logged states over states improved on). Needs alpha < 1. Stationarity is
    Q - c (log pi / pi_c + 1) + k pi_beta / pi = m per action, c = lam (1 - alpha), k = lam alpha share; the
    multiplier m is found by bisection, and per m each probability by Newton's method on log pi.
    """
    c = lift(lam, 2) * (1.0 - lift(alpha, 2))
    if np.any(c <= 0.0):
        raise ConfigError(f"alpha={alpha}, lam={lam}: expected alpha < 1 and lam > 0 for the clone form.")
    weight = share[..., None] if isinstance(share, np.ndarray) else np.asarray(share, np.float64)
    k = lift(lam, 2) * lift(alpha, 2) * weight * pi_beta
    base = q + c * np.log(pi_c + 1e-300)

    def log_probability(m: np.ndarray) -> np.ndarray:
        # root of c x - k e^{-x} - right, increasing and concave in x: from the left of it Newton's method is monotone
        right = base - m - c
        x = np.maximum(right / c, np.minimum(0.0, np.log(np.maximum(k, 1e-300) / np.maximum(-right, 1e-300))))
        for _ in range(30):
            decay = k * np.exp(-x)
            x = x - (c * x - decay - right) / (c + decay)
        return x

    # at `low` one action alone has probability one or more, at `high` none has more than 1 / actions
    actions = q.shape[-1]
    low = (base - c + k).max(-1, keepdims=True)
    high = (base - c + c * np.log(actions) + k * actions).max(-1, keepdims=True)
    for _ in range(80):
        middle = 0.5 * (low + high)
        over = np.exp(log_probability(middle)).sum(-1, keepdims=True) > 1.0
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    pi = np.exp(log_probability(0.5 * (low + high)))
    return np.asarray(pi / pi.sum(-1, keepdims=True))


@dataclass(frozen=True)
class Balance:
    """The settings of RAC in its tabular form; every field a number, or one per instance of the batch."""

    alpha: Weight
    """1 stays with the behaviour policy, 0 follows the meta-policy."""
    lam: Weight
    """Weight of both divergences, in units of the return."""
    beta: Weight
    """Conservatism, in units of the reward."""
    f: Weight
    """Share of real data in d_f."""


def regularised_policy(log: Log, pi_c: Table, balance: Balance, rounds: int = 30) -> Table:
    """RAC with D = KL: conservative evaluation and improvement in turn, from pi_c, `rounds` times.

    Each round moves half of the way in log pi, which keeps strong settings from oscillating.
    """
    pi = pi_c
    for _ in range(rounds):
        q = conservative_values(log.model, pi, log.d, balance.beta, balance.f)
        target = improve(q, log.clone, pi_c, balance.alpha, balance.lam)
        mean = np.sqrt(pi * target) + 1e-300
        pi = mean / mean.sum(-1, keepdims=True)
    return pi


def meta_policy(logs: Log, balance: Balance, rounds: int = 4) -> Table:
    """pi_c from the training tasks' logs [*b, task]: RAC per task and weighted averaging in turn; [*b, s, a].

    argmin over pi_c of mean_n KL(pi_n || pi_c) on the tasks' own states is the mean of the pi_n weighted by their
    state occupancies.
    """
    actions = logs.clone.shape[-1]
    pi_c = np.full((*logs.clone.shape[:-3], *logs.clone.shape[-2:]), 1.0 / actions)
    for _ in range(rounds):
        pi = regularised_policy(logs, np.broadcast_to(pi_c[..., None, :, :], logs.clone.shape), balance, rounds=4)
        joint = occupancy(logs.model, pi).sum(-3) + 1e-9
        pi_c = joint / joint.sum(-1, keepdims=True)
    return np.asarray(pi_c)
