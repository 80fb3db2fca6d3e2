"""A small finite MDP with exact finite-horizon values, and logs of it as `TaskData` with one-hot columns."""

import numpy as np

from merpo.data import TaskData, Transitions
from merpo.guarantee import MDP


def small_mdp(seed, states=4, actions=2, end=0.0):
    """(MDP, behaviour); with `end`, the last state is terminal and every pair leads there with that probability."""
    rng = np.random.default_rng(seed)
    T = rng.dirichlet(np.full(states, 0.4), (states, actions))
    if end:
        T = (1 - end) * T / np.maximum(T[..., :-1].sum(-1, keepdims=True), 1e-9)
        T[..., -1] = end
    r = rng.uniform(0, 1, (states, actions))
    mu = np.append(np.full(states - 1, 1 / (states - 1)), 0.0) if end else np.full(states, 1 / states)
    return MDP(T / T.sum(-1, keepdims=True), r, mu, 0.9), rng.dirichlet(np.full(actions, 3.0), states)


def exact(mdp, pi, horizon, terminal=False, discount=1.0):
    v = np.zeros(len(mdp.r))
    for _ in range(horizon):
        v = (pi * (mdp.r + discount * mdp.T @ v)).sum(-1)
        if terminal:
            v[-1] = 0.0
    return float(mdp.mu @ v)


def log(mdp, pi, episodes, horizon, seed, terminal=False):
    rng = np.random.default_rng(seed)
    s_n, a_n = mdp.r.shape
    rows, start = [], [0]
    for _ in range(episodes):
        s = rng.choice(s_n, p=mdp.mu)
        for h in range(horizon):
            a = rng.choice(a_n, p=pi[s])
            after = rng.choice(s_n, p=mdp.T[s, a])
            ended = terminal and after == s_n - 1
            rows.append((s, a, mdp.r[s, a], after, ended, h == horizon - 1 and not ended))
            s = after
            if ended:
                break
        start.append(len(rows))
    s, a, r, after, ended, cut = (np.asarray(c) for c in zip(*rows, strict=True))
    hot, act = np.eye(s_n, dtype=np.float32), np.eye(a_n, dtype=np.float32)
    t = Transitions(hot[s], act[a], r.astype(np.float32), hot[after], ended.astype(bool), cut.astype(bool))
    return TaskData("small", "test", t, np.asarray(start, np.int64))
