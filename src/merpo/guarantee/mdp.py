"""Finite MDPs by linear solves, in float64: every function takes any leading batch axes.

Index letters: s state, a action, t next state. `mu` is the start distribution. Occupancies are normalised:
rho^pi(s, a) = (1 - gamma) sum_k gamma^k P(s_k = s, a_k = a), so that J(pi) = <rho^pi, r> / (1 - gamma).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from merpo.errors import ConfigError

Kernel = Float[np.ndarray, "*b s a t"]
Table = Float[np.ndarray, "*b s a"]
Start = Float[np.ndarray, "*b s"]
Scalar = Float[np.ndarray, "*b"]
Counts = Int[np.ndarray, "*b s a t"]


@dataclass(frozen=True)
class MDP:
    """One finite MDP, or a batch of them."""

    T: Kernel
    """T[s, a, t], the probability of t after (s, a)."""
    r: Table
    """Mean reward of (s, a)."""
    mu: Start
    """Start distribution."""
    gamma: float
    """Discount factor in [0, 1)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma < 1.0:
            raise ConfigError(f"gamma={self.gamma}: expected a discount in [0, 1), e.g. 0.9.")
        if not np.allclose(self.T.sum(-1), 1.0, atol=1e-8) or self.T.min() < 0.0:
            raise ConfigError("T: expected probabilities over the last axis, not negative and summing to one.")


def state_kernel(T: Kernel, pi: Table) -> Float[np.ndarray, "*b s t"]:
    """P^pi[s, t] = sum_a pi(a|s) T(t|s, a)."""
    return np.asarray((pi[..., None, :] @ T)[..., 0, :])


def occupancy(mdp: MDP, pi: Table) -> Table:
    """rho^pi(s, a): the solution of d = (1 - gamma) mu + gamma P^pi' d, times pi(a|s).

    Two states, of which the first is left after one step for good:

    >>> import numpy as np
    >>> from merpo.guarantee import MDP, occupancy, value
    >>> T = np.array([[[0.0, 1.0]], [[0.0, 1.0]]])
    >>> mdp = MDP(T, r=np.array([[1.0], [0.5]]), mu=np.array([1.0, 0.0]), gamma=0.5)
    >>> pi = np.ones((2, 1))
    >>> occupancy(mdp, pi).tolist()
    [[0.5], [0.5]]
    >>> float(value(mdp, pi))  # 1 + 0.5 (0.5 + 0.5 * 0.5 + ...)
    1.5
    """
    step = state_kernel(mdp.T, pi)
    system = np.eye(step.shape[-1]) - mdp.gamma * np.swapaxes(step, -1, -2)
    d = np.linalg.solve(system, (1.0 - mdp.gamma) * np.broadcast_to(mdp.mu, step.shape[:-1])[..., None])[..., 0]
    return np.asarray(np.maximum(d, 0.0)[..., None] * pi)


def state_values(mdp: MDP, pi: Table, reward: Table | None = None) -> Start:
    """V^pi, the solution of V = r^pi + gamma P^pi V (of `reward` where given, else of the MDP's own)."""
    r = mdp.r if reward is None else reward
    step = state_kernel(mdp.T, pi)
    system = np.eye(step.shape[-1]) - mdp.gamma * step
    right = np.broadcast_to((pi * r).sum(-1), step.shape[:-1])
    return np.asarray(np.linalg.solve(system, right[..., None])[..., 0])


def action_values(mdp: MDP, pi: Table, reward: Table | None = None) -> Table:
    """Q^pi = r + gamma T V^pi."""
    r = mdp.r if reward is None else reward
    v = state_values(mdp, pi, reward)
    return np.asarray(r + mdp.gamma * (mdp.T @ v[..., None, :, None])[..., 0])


def value(mdp: MDP, pi: Table) -> Scalar:
    """J(pi) = <mu, V^pi>, the discounted return."""
    return np.asarray((mdp.mu * state_values(mdp, pi)).sum(-1))


def greedy(q: Table) -> Table:
    """The deterministic policy that takes the first best action."""
    return np.asarray(np.eye(q.shape[-1])[np.argmax(q, axis=-1)])


def optimal_policy(mdp: MDP, reward: Table | None = None, most: int = 100) -> Table:
    """A best deterministic policy, by policy iteration from the greedy one of the reward."""
    r = mdp.r if reward is None else reward
    pi = greedy(np.broadcast_to(r, mdp.T.shape[:-1]))
    for _ in range(most):
        q = action_values(mdp, pi, r)
        # a switch needs a real gain, else equal actions could alternate for ever
        gain = q.max(-1) - (pi * q).sum(-1) > 1e-12
        if not gain.any():
            break
        pi = np.where(gain[..., None], greedy(q), pi)
    return pi


@dataclass(frozen=True)
class TaskPrior:
    """The distribution p(M) that training tasks and new tasks are drawn from: a random base MDP, and variations."""

    states: int = 8
    """Number of states."""
    actions: int = 3
    """Number of actions."""
    gamma: float = 0.9
    """Discount factor."""
    sparsity: float = 0.2
    """Dirichlet parameter of the base kernel's rows: smaller is closer to deterministic."""
    likeness: float = 20.0
    """Dirichlet concentration of a task's rows around the base's: larger is more alike."""
    reward_spread: float = 0.3
    """Deviation of a task's rewards around the base's, before clipping to [0, 1]."""

    def __post_init__(self) -> None:
        if self.states < 2 or self.actions < 2:
            raise ConfigError(f"states={self.states}, actions={self.actions}: expected at least two of each.")
        for name in ("sparsity", "likeness"):
            if not getattr(self, name) > 0.0:
                raise ConfigError(f"{name}={getattr(self, name)}: expected a number above 0.")

    def draw(self, rng: np.random.Generator, batch: int, tasks: int) -> MDP:
        """`batch` independent base MDPs with `tasks` tasks each: arrays [batch, task, ...]; rewards in [0, 1]."""
        s, a = self.states, self.actions
        base = dirichlet(rng, np.full((batch, 1, s, a, s), self.sparsity))
        T = dirichlet(rng, np.broadcast_to(self.likeness * base + 1e-3, (batch, tasks, s, a, s)))
        mean = rng.uniform(0.0, 1.0, (batch, 1, s, a))
        r = np.clip(mean + self.reward_spread * rng.standard_normal((batch, tasks, s, a)), 0.0, 1.0)
        mu = dirichlet(rng, np.full((batch, 1, s), 0.5))
        return MDP(T, r, np.broadcast_to(mu, (batch, tasks, s)), self.gamma)


def dirichlet(rng: np.random.Generator, concentration: Float[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n k"]:
    """One Dirichlet draw per row of parameters."""
    draw = rng.standard_gamma(concentration) + 1e-12
    return np.asarray(draw / draw.sum(-1, keepdims=True))


def behaviour_policy(mdp: MDP, skill: Scalar, rng: np.random.Generator) -> Table:
    """A stochastic policy of the given skill: 0 a random policy, 1 the optimal one with a tenth of it random."""
    noise = dirichlet(rng, np.ones(mdp.r.shape))
    share = 0.9 * np.asarray(skill, np.float64)[..., None, None]
    return np.asarray(share * optimal_policy(mdp) + (1.0 - share) * noise)


def draw_counts(mdp: MDP, pi: Table, size: Int[np.ndarray, "*b"], rng: np.random.Generator) -> Counts:
    """How often each (s, a, t) is logged: `size` independent draws from rho^pi(s, a) T(t|s, a)."""
    cells = (occupancy(mdp, pi)[..., None] * mdp.T).reshape(*mdp.r.shape[:-2], -1)
    counts = rng.multinomial(size, cells / cells.sum(-1, keepdims=True))
    return np.asarray(counts.reshape(mdp.T.shape), np.int64)
