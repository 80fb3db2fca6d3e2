"""The policy of the theorem, for a metric D: a global maximum with a certificate of how global it is.

    F(pi) = J_f(pi) - beta nu(pi) / (1 - gamma) - lambda alpha D(pi, pi_beta) - lambda (1 - alpha) D(pi, pi_c)

D is the total variation between discounted occupancies in M_f, D(pi, pi') = 1/2 sum |rho^pi - rho^pi'|: a metric on
what policies do there. In terms of rho, J_f is linear, nu is convex, D is convex, and the occupancies of M_f are a
polytope: F is concave, and its maximum a convex problem. It is solved by ADMM (Boyd et al. 2011): a projection on
the flow constraints and an independent scalar problem per pair, in turn. Convex duality then bounds the maximum from
above: for any prices g, max F <= max_rho <g, rho> + sum_i sup_z [F_i(z) - g_i z], the first term an MDP with reward g.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from merpo.guarantee.exact import Balance, Log, nu
from merpo.guarantee.mdp import MDP, Scalar, Table, occupancy, optimal_policy, value

Flat = Float[np.ndarray, "n k"]
Column = Float[np.ndarray, "n 1"]


@dataclass(frozen=True)
class Maximum:
    """What `maximise` found."""

    policy: Table
    value: Scalar
    """F at the policy, exactly."""
    upper: Scalar
    """No policy has a larger F."""
    gap: Scalar
    """upper - value >= 0: how far from the global maximum the policy can be at most."""


def distance(model: MDP, first: Table, second: Table) -> Scalar:
    """D: total variation between the policies' discounted occupancies in the model, in [0, 1]."""
    return np.asarray(0.5 * np.abs(occupancy(model, first) - occupancy(model, second)).sum((-1, -2)))


def objective(log: Log, pi: Table, pi_c: Table, balance: Balance) -> Scalar:
    """F(pi), by linear solves."""
    model = log.model
    alpha, lam = np.asarray(balance.alpha, np.float64), np.asarray(balance.lam, np.float64)
    pull = lam * alpha * distance(model, pi, log.clone) + lam * (1.0 - alpha) * distance(model, pi, pi_c)
    push = np.asarray(balance.beta, np.float64) * nu(model, pi, log.d, balance.f) / (1.0 - model.gamma)
    return np.asarray(value(model, pi) - push - pull)


def maximise(log: Log, pi_c: Table, balance: Balance, iterations: int = 300) -> Maximum:
    """A maximiser of F over all policies of M_f, with its duality gap; any leading batch axes.

    The value returned is never below F(pi_beta) or F(pi_c): should ADMM end below an anchor, the anchor is it.
    """
    model = log.model
    batch, (s, a) = model.T.shape[:-3], model.r.shape[-2:]
    n, k = int(np.prod(batch, dtype=np.int64)), s * a
    T = model.T.reshape(n, k, s)
    problem = _Problem.build(log, pi_c, balance, n, k)

    # rho is an occupancy iff, for every t, sum_a rho(t, a) - gamma sum_{s, a} rho(s, a) T(t|s, a) = (1 - gamma) mu(t)
    flow = np.tile(np.repeat(np.eye(s), a, axis=1)[None], (n, 1, 1)) - model.gamma * np.swapaxes(T, -1, -2)
    right = (1.0 - model.gamma) * np.broadcast_to(model.mu, (*batch, s)).reshape(n, s)
    inverse = np.linalg.solve(flow @ np.swapaxes(flow, -1, -2), flow)
    project = np.eye(k) - np.swapaxes(flow, -1, -2) @ inverse
    offset = (np.swapaxes(inverse, -1, -2) @ right[..., None])[..., 0]

    z = problem.start.copy()
    u = np.zeros_like(z)
    sigma = problem.step
    for i in range(iterations):
        x = (project @ (z - u)[..., None])[..., 0] + offset
        relaxed = 1.6 * x - 0.6 * z
        before, z = z, problem.prox(relaxed + u, sigma, z)
        u = u + relaxed - z
        if i % 20 == 19 and i < iterations * 2 // 3:  # balance the residuals (Boyd et al. 2011, 3.4.1)
            primal = np.abs(x - z).sum(-1, keepdims=True)
            dual = sigma * np.abs(z - before).sum(-1, keepdims=True)
            factor = np.clip(np.sqrt(primal * problem.slope / np.maximum(dual, 1e-300)), 0.5, 2.0)
            sigma, u = sigma * factor, u / factor

    rho = np.maximum(z, 0.0).reshape(*batch, s, a)
    mass = rho.sum(-1, keepdims=True)
    pi = np.where(mass > 1e-12, rho / np.where(mass > 1e-12, mass, 1.0), pi_c)
    pi = pi / pi.sum(-1, keepdims=True)
    best = objective(log, pi, pi_c, balance)
    for anchor in (log.clone, np.broadcast_to(pi_c, pi.shape)):
        at_anchor = objective(log, anchor, pi_c, balance)
        pi = np.where((at_anchor > best)[..., None, None], anchor, pi)
        best = np.maximum(best, at_anchor)
    upper = _upper_bound(problem, model, -sigma * u, z, batch)
    return Maximum(pi, best, upper, np.asarray(upper - best))


def _upper_bound(problem: _Problem, model: MDP, prices: Flat, z: Flat, batch: tuple[int, ...]) -> Scalar:
    g = prices.reshape(*batch, *model.r.shape[-2:])
    linear = (occupancy(model, optimal_policy(model, g)) * g).sum((-1, -2))
    return np.asarray(linear + problem.conjugate(prices, z).reshape(batch))


@dataclass(frozen=True)
class _Problem:
    """F as a sum over pairs, F_i(z) = c z - b nu_i(z) - v |z - p| - w |z - q|, arrays [instance, pair]."""

    c: Flat
    b: Column
    d: Flat
    f: Column
    p: Flat
    q: Flat
    v: Column
    w: Column
    slope: Column
    """A typical slope of F, in which residuals of prices are measured."""

    @staticmethod
    def build(log: Log, pi_c: Table, balance: Balance, n: int, k: int) -> _Problem:
        model = log.model
        column = {
            name: np.broadcast_to(np.asarray(getattr(balance, name), np.float64), model.r.shape[:-2]).reshape(n, 1)
            for name in ("alpha", "lam", "beta", "f")
        }
        horizon = 1.0 / (1.0 - model.gamma)
        c = (model.r * horizon).reshape(n, k)
        v = 0.5 * column["lam"] * column["alpha"]
        w = 0.5 * column["lam"] * (1.0 - column["alpha"])
        p = occupancy(model, log.clone).reshape(n, k)
        q = occupancy(model, np.broadcast_to(pi_c, model.r.shape)).reshape(n, k)
        slope = c.std(-1, keepdims=True) + v + w + 1e-9
        return _Problem(c, column["beta"] * horizon, log.d.reshape(n, k), column["f"], p, q, v, w, slope)

    @property
    def start(self) -> Flat:
        return 0.5 * (self.p + self.q)

    @property
    def step(self) -> Column:
        return 2.0 * self.slope * self.c.shape[-1] ** 0.5

    def mixed(self, z: Flat) -> Flat:
        """d_f at rho = z."""
        return self.f * self.d + (1.0 - self.f) * z

    def value(self, z: Flat) -> Flat:
        """F_i(z)."""
        y = self.mixed(z)
        push = z * (z - self.d) / np.where(y > 0.0, y, 1.0)
        return self.c * z - self.b * push - self.v * np.abs(z - self.p) - self.w * np.abs(z - self.q)

    def smooth_slope(self, z: Flat) -> Flat:
        """Derivative of c z - b nu_i(z): nu_i' = (1 - f d^2 / d_f^2) / (1 - f)."""
        y = np.maximum(self.mixed(z), 1e-30)
        return self.c - self.b * (1.0 - self.f * (self.d / y) ** 2) / (1.0 - self.f)

    def segment(self, slope_at: list[Flat]) -> tuple[Flat, Flat, Flat, Flat]:
        """Where the maximum of a concave kinked function lies: (low, high, kinks' slope there, fixed point or NaN).

        `slope_at` holds the smooth part's slope at 0 and at the two kinks.
        """
        origin, first, last = self.corners
        zero, one, two = slope_at
        before, between, after = self.kinks
        low, high, extra = origin, first, before
        fixed = np.where((zero + before <= 0.0), 0.0, np.nan)
        passes = one + before > 0.0
        fixed = np.where(passes, np.where(one + between <= 0.0, first, np.nan), fixed)
        low, high, extra = np.where(passes, first, low), np.where(passes, last, high), np.where(passes, between, extra)
        passes = passes & (two + between > 0.0)
        fixed = np.where(passes, np.where(two + after <= 0.0, last, np.nan), fixed)
        low, high, extra = np.where(passes, last, low), np.where(passes, 1.0, high), np.where(passes, after, extra)
        return low, high, extra, fixed

    @cached_property
    def kinks(self) -> tuple[Flat, Flat, Flat]:
        """Slope of the two absolute values together, before, between and after the kinks."""
        at_first = np.where(self.p <= self.q, self.v, self.w)
        both = np.broadcast_to(self.v + self.w, self.p.shape)
        return np.asarray(both), both - 2.0 * at_first, -both

    @cached_property
    def corners(self) -> tuple[Flat, Flat, Flat]:
        """0 and the two kinks, in order."""
        return np.zeros_like(self.p), np.minimum(self.p, self.q), np.maximum(self.p, self.q)

    @cached_property
    def corner_slopes(self) -> tuple[Flat, Flat, Flat]:
        """The smooth part's slope at the corners."""
        first, second, third = (self.smooth_slope(x) for x in self.corners)
        return first, second, third

    def prox(self, v: Flat, sigma: Column, warm: Flat) -> Flat:
        """argmax over z >= 0 of F_i(z) - sigma/2 (z - v)^2: Newton's method within the right segment, warm-started.

        The slope is convex and decreasing in z, so that after one step Newton's method approaches from the left; two
        steps a round are enough, since the rounds of ADMM go on from them.
        """
        at = [g - sigma * (x - v) for g, x in zip(self.corner_slopes, self.corners, strict=True)]
        low, high, extra, fixed = self.segment(at)
        z = np.minimum(np.maximum(warm, low), high)
        square = self.f * self.d * self.d
        share = 1.0 - self.f
        # slope = c - b (1 - f d^2 / y^2) / (1 - f) + extra - sigma (z - v)
        level = self.c - self.b / share + extra + sigma * v
        for _ in range(2):
            y = np.maximum(self.f * self.d + share * z, 1e-30)
            pull = self.b * square / (y * y)
            z = z + (level + pull / share - sigma * z) / (2.0 * pull / y + sigma)
            z = np.minimum(np.maximum(z, low), high)
        return np.where(np.isnan(fixed), z, fixed)

    def conjugate(self, g: Flat, near: Flat) -> Float[np.ndarray, " n"]:
        """sum_i sup over z in [0, 1] of F_i(z) - g_i z, an upper bound of it: concave, so a tangent bounds it."""
        at = [x - g for x in self.corner_slopes]
        low, high, extra, fixed = self.segment(at)
        for _ in range(60):
            z = 0.5 * (low + high)
            rising = self.smooth_slope(z) + extra - g > 0.0
            low, high = np.where(rising, z, low), np.where(rising, high, z)
        z = np.where(np.isnan(fixed), 0.5 * (low + high), fixed)
        return np.asarray((self.value(z) - g * z).sum(-1))
