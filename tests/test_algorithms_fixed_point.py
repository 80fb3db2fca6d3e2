"""Tabular oracles: conservative evaluation against a linear solve, the improvement step against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float
from scipy import optimize

from merpo.algorithms import rac
from merpo.data.types import Transitions
from merpo.networks import TwinCritic

S, A, GAMMA = 5, 3, 0.9
REPEATS = 8  # pi(a|s) is a multiple of 1/8, so that a batch can hold the exact expectation


class Table(TwinCritic):
    """Q[i, s, a] read by one-hot observations and one-hot actions, called like `TwinCritic`."""

    q: Float[Array, "2 s a"]

    def __init__(self, q):
        self.nets, self.q = None, q

    def __call__(self, obs, action):
        return jnp.einsum("isa,ns,na->in", self.q, obs, action)


class MDP:
    """A random MDP, a policy, and the distributions that conservative evaluation speaks of, all in float64."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.T = rng.dirichlet(np.ones(S), (S, A))
        self.model = 0.7 * self.T + 0.3 * rng.dirichlet(np.ones(S), (S, A))  # the learned model is a little off
        self.r = rng.normal(size=(S, A))
        self.pi = np.stack([rng.multinomial(REPEATS, rng.dirichlet(np.ones(A))) for _ in range(S)]) / REPEATS
        self.logged = rng.integers(1, 6, (S, A))  # how often each pair was logged
        self.d = self.logged / self.logged.sum()
        # states visited in the model: d_pi = (1 - gamma)(I - gamma P^T)^-1 mu, by a linear solve, then as counts
        step = np.einsum("sa,sap->sp", self.pi, self.model)
        visits = np.linalg.solve(np.eye(S) - GAMMA * step.T, (1 - GAMMA) * np.full(S, 1 / S))
        self.imagined = np.maximum(np.round(60 * visits), 1).astype(int)
        self.rho = self.imagined[:, None] / self.imagined.sum() * self.pi

    def backup(self, q: np.ndarray) -> np.ndarray:
        """B^pi Q, exactly."""
        return self.r + GAMMA * np.einsum("sap,pb,pb->sa", self.T, self.pi, q)

    def solve(self, beta: float, f: float) -> np.ndarray:
        """Q = B^pi Q - beta (rho - d) / d_f as one linear system."""
        d_f = f * self.d + (1 - f) * self.rho
        transition = np.einsum("sap,pb->sapb", self.T, self.pi).reshape(S * A, S * A)
        right = (self.r - beta * (self.rho - self.d) / d_f).ravel()
        return np.linalg.solve(np.eye(S * A) - GAMMA * transition, right).reshape(S, A)

    def batches(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (s, a) as often as logged, and as often as imagined by pi: their means are exact expectations."""
        real = np.repeat(np.indices((S, A)).reshape(2, -1).T, self.logged.ravel(), axis=0)
        counts = (self.imagined[:, None] * np.round(self.pi * REPEATS).astype(int)).ravel()
        model = np.repeat(np.indices((S, A)).reshape(2, -1).T, counts, axis=0)
        return real, model


def rows(pairs: np.ndarray) -> Transitions:
    obs, action = np.eye(S, dtype=np.float32)[pairs[:, 0]], np.eye(A, dtype=np.float32)[pairs[:, 1]]
    zero = jnp.zeros(len(pairs), jnp.float32)
    return Transitions(jnp.asarray(obs), jnp.asarray(action), zero, jnp.asarray(obs), zero > 0, zero > 0)


@pytest.mark.parametrize(("seed", "beta", "f"), [(0, 0.0, 0.5), (1, 0.3, 0.5), (2, 1.0, 0.8)])
def test_conservative_evaluation_reaches_the_linear_solution(seed, beta, f):
    """Descent on merpo's own critic loss, targets backed up exactly, ends at Q = B^pi Q - beta (rho - d) / d_f."""
    mdp = MDP(seed)
    if np.any((mdp.pi == 0) & (mdp.d == 0)):
        pytest.fail("the logged distribution must cover every pair")
    pairs_real, pairs_model = mdp.batches()
    real, model = rows(pairs_real), rows(pairs_model)
    both = jnp.asarray(np.concatenate([pairs_real, pairs_model]))
    d_f = f * mdp.d + (1 - f) * mdp.rho
    r, backup = (jnp.asarray(x, jnp.float32) for x in (mdp.r, GAMMA * np.einsum("sap,pb->sapb", mdp.T, mdp.pi)))
    rate = jnp.asarray(0.8 / d_f, jnp.float32)[None]  # the loss has curvature d_f: one step size per pair

    @jax.jit
    def descend(q):
        def step(q, _):
            target = r + jnp.einsum("sapb,pb->sa", backup, jnp.min(q, axis=0))
            y = target[both[:, 0], both[:, 1]]
            grads = jax.grad(lambda c: rac.critic_loss(c, real, model, model.action, y, jnp.float32(beta), f)[0])(
                Table(q)
            )
            return q - rate * grads.q, None

        return jax.lax.scan(step, q, None, length=600)[0]

    found = descend(jnp.zeros((2, S, A), jnp.float32))
    exact = mdp.solve(beta, f)
    np.testing.assert_allclose(found[0], exact, atol=2e-3)
    np.testing.assert_allclose(found[1], exact, atol=2e-3)
    np.testing.assert_allclose(mdp.backup(exact) - beta * (mdp.rho - mdp.d) / d_f, exact, atol=1e-10)
    if beta:  # and the conservatism is felt: over-represented pairs are valued lower than without it
        plain = mdp.solve(0.0, f)
        excess = mdp.rho - mdp.d
        assert np.corrcoef(excess.ravel(), (exact - plain).ravel())[0, 1] < -0.3


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_improvement_is_the_tilted_mixture(alpha):
    """argmax <pi, Q> - lam alpha KL(pi||b) - lam (1-alpha) KL(pi||c) is b^alpha c^(1-alpha) exp(Q/lam), normalised."""
    rng = np.random.default_rng(3)
    lam = 0.5
    for _ in range(3):
        q, b, c = rng.normal(size=4), rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4))

        def cost(z, q=q, b=b, c=c):
            p = np.exp(z - z.max())
            p = p / p.sum()
            kl = lambda other: np.sum(p * (np.log(p) - np.log(other)))  # noqa: E731
            return -(p @ q) + lam * alpha * kl(b) + lam * (1 - alpha) * kl(c)

        best = optimize.minimize(cost, np.zeros(4), method="BFGS", options={"gtol": 1e-9}).x
        numeric = np.exp(best - best.max()) / np.exp(best - best.max()).sum()
        tilted = b**alpha * c ** (1 - alpha) * np.exp(q / lam)
        np.testing.assert_allclose(numeric, tilted / tilted.sum(), atol=1e-4)


def test_actor_loss_finds_the_tilted_gaussian():
    """The same step for Gaussians: with Q linear in the pre-tanh value, alpha = 0 and no entropy term, the best
    policy is the anchor shifted by its variance times slope / lambda, its variance unchanged."""
    slope, lam, m_c, log_c = 0.6, 1.5, 0.2, -0.4

    class Slope(TwinCritic):
        def __init__(self):
            self.nets = None

        def __call__(self, obs, action):
            return slope * jnp.stack([jnp.arctanh(action[..., 0])] * 2)

    from toys import actor

    def gaussian(mean, log_std):
        """An actor without inputs: its biases alone make N(mean, e^log_std)."""
        base = jax.tree.map(jnp.zeros_like, actor(0, 1, 1, hidden=()))
        raw = 5.0 * jnp.arctanh(mean / 5.0)
        bias = jnp.stack([raw, jnp.arctanh((log_std + 5.0) / 3.0 - 1.0)])
        layer = base.net.layers[0]
        return type(base).__call__, base, layer, bias

    import equinox as eqx

    def build(mean, log_std):
        _, base, _, bias = gaussian(mean, log_std)
        return eqx.tree_at(lambda a: a.net.layers[0].bias, base, bias)

    obs, logged = jnp.zeros((4096, 1), jnp.float32), jnp.zeros((1, 1), jnp.float32)
    one, zero = jnp.float32(1.0), jnp.float32(0.0)

    @jax.jit
    def gradient(mean, log_std):
        anchor = build(jnp.float32(m_c), jnp.float32(log_c))
        return jax.grad(
            lambda p: rac.actor_loss(
                build(*p), Slope(), anchor, obs, logged, zero, jnp.float32(lam), zero, one, one, jax.random.key(0)
            )[0]
        )((mean, log_std))

    best = m_c + np.exp(2 * log_c) * slope / lam
    at_best = gradient(jnp.float32(best), jnp.float32(log_c))
    np.testing.assert_allclose(at_best, (0.0, 0.0), atol=0.03)  # 4096 draws
    off = gradient(jnp.float32(m_c), jnp.float32(log_c))
    assert float(off[0]) == pytest.approx(-slope, abs=0.05)


class Affine(TwinCritic):
    """Q_i(s, a) = q[i, s, 0] + q[i, s, 1] atanh(a), read by one-hot observations."""

    q: Float[Array, "2 s c"]

    def __init__(self, q):
        self.nets, self.q = None, q

    def __call__(self, obs, action):
        u = jnp.arctanh(jnp.clip(action[..., 0], -0.9999999, 0.9999999))  # a rare draw has tanh(u) = 1 in float32
        both = jnp.einsum("isc,ns->inc", self.q, obs)
        return both[..., 0] + both[..., 1] * u[None]


class GaussianTask:
    """A finite task with one real action: fixed real and imagined rows, and RAC's joint solution in closed form."""

    states, rows, fraction, gamma, lam, beta = 4, 64, 0.5, 0.9, 0.5, 0.05

    def __init__(self):
        rng = np.random.default_rng(0)
        n, s = self.rows, self.states
        self.s = np.concatenate([np.arange(n) % s, rng.integers(0, s, n)])
        self.u = np.clip(rng.normal(0.3, 0.6, 2 * n), -1.8, 1.8)
        self.r = (rng.normal(size=s)[self.s] + rng.normal(size=s)[self.s] * self.u) * 0.1
        self.after = rng.integers(0, s, 2 * n)
        self.anchor_mean, self.anchor_log = rng.normal(0, 0.5, s), rng.uniform(-1.2, -0.5, s)

    def batch(self, part):
        f32, hot = jnp.float32, np.eye(self.states)
        flag = jnp.zeros(self.rows, bool)
        columns = (hot[self.s[part]], np.tanh(self.u[part])[:, None], self.r[part], hot[self.after[part]])
        return Transitions(*(jnp.asarray(c, f32) for c in columns), flag, flag)

    def solve(self, alpha, scale):
        """(mean, log deviation) per state, the critic's table, and the scale of its real targets."""
        n, s = self.rows, self.states
        weight = np.where(np.arange(2 * n) < n, self.fraction / n, (1 - self.fraction) / n)
        x = np.stack([np.ones(2 * n), self.u], 1)
        own = np.eye(s)[self.s]  # rows of each state
        real, model = own[:n].sum(0) / n, own[n:].sum(0) / n
        q, m, log = np.zeros((s, 2)), self.anchor_mean.copy(), self.anchor_log.copy()
        push = self.beta * (1 - self.gamma)
        for _ in range(400):
            y = self.r + self.gamma * (q[:, 0] + q[:, 1] * m)[self.after]
            for i in range(s):
                rows = self.s == i
                gram = (x[rows] * weight[rows, None]).T @ x[rows]
                moment = (x[rows] * (weight * y)[rows, None]).sum(0)
                pushed = model[i] * np.array([1.0, m[i]])
                logged = x[:n][rows[:n]].sum(0) / n
                q[i] = np.linalg.solve(gram, moment - push * (pushed - logged))
            m, log = self.improve(q, alpha, scale, real, model)
        return m, log, q, np.mean(np.abs(y[:n] - y[:n].mean()))

    def improve(self, q, alpha, scale, real, model):
        """Per state the Gaussian N(m, e^2l) of largest value: in m a weighted mean, in l by bisection on its slope.

        w [q1 m / scale - c ((e^2l + (m - m_c)^2) / (2 s_c^2) - l)] - k [l + (v + (m - mu)^2) / (2 e^2l)], with
        w the state's share of all rows, c = lam (1 - alpha), k = lam alpha times its share of real rows, and mu, v
        the mean and variance of its logged actions.
        """
        w, c, k = 0.5 * (real + model), self.lam * (1 - alpha), self.lam * alpha * real
        logged = [self.u[: self.rows][self.s[: self.rows] == i] for i in range(self.states)]
        mu, v = np.array([x.mean() for x in logged]), np.array([x.var() for x in logged])
        tight = np.exp(-2 * self.anchor_log)

        def mean(log):
            near = k * np.exp(-2 * log)
            return (w * q[:, 1] / scale + w * c * tight * self.anchor_mean + near * mu) / (w * c * tight + near)

        low, high = np.full(self.states, -4.9), np.full(self.states, 0.99)
        for _ in range(60):
            log = 0.5 * (low + high)
            slope = w * c * (1 - np.exp(2 * log) * tight) + k * ((v + (mean(log) - mu) ** 2) * np.exp(-2 * log) - 1)
            low, high = np.where(slope > 0, log, low), np.where(slope > 0, high, log)
        return mean(log), log


def test_rac_itself_ends_at_the_joint_solution():
    """`rac.update`, the code that trains networks, on one-hot observations: its actors end, on the average, within 0.05 and their critics
    within 8 % of the joint solution of conservative evaluation and regularised improvement, both anchors and the clone term in play.
    """
    import equinox as eqx

    from toys import actor as toy_actor

    task = GaussianTask()
    alphas, steps, f32 = np.array([0.0, 0.4, 0.8]), 4000, jnp.float32
    config = rac.RACConfig(
        actor_hidden=(), critic_hidden=(), actor_lr=0.02, critic_lr=0.02, lr_final=0.0, tau=0.05, lam=task.lam,
        batch=2 * task.rows, real_fraction=0.5, temperature=0.0, target_entropy=-100.0, rollout_rows=1,
        rollout_length=1,
    )  # fmt: skip

    def build(mean, log):
        base = jax.tree.map(jnp.zeros_like, toy_actor(0, task.states, 1, hidden=()))
        weight = jnp.asarray(np.stack([5 * np.arctanh(mean / 5), np.arctanh((log + 5) / 3 - 1)], 1), f32)
        return eqx.tree_at(lambda a: a.net.layers[0].weight, base, weight)

    anchor = build(task.anchor_mean, task.anchor_log)
    learner = rac.init(anchor, Affine(jnp.zeros((2, task.states, 2), f32)), config)
    real, model = task.batch(slice(0, task.rows)), task.batch(slice(task.rows, None))

    @jax.jit
    @jax.vmap
    def run(alpha, key):
        weights = rac.Weights(alpha, f32(task.beta), f32(0.0), f32(1.0 / steps))

        def step(state, k):
            return rac.update(state, real, model, anchor, weights, k, task.gamma, config)[0], None

        return jax.lax.scan(step, learner, jax.random.split(key, steps))[0]

    runs = 12  # one run ends within 0.2, since the scale of its values goes on moving; their mean is what is asked
    ends = run(jnp.repeat(jnp.asarray(alphas, f32), runs), jax.random.split(jax.random.key(0), 3 * runs))
    eye = jnp.eye(task.states, dtype=f32)
    found = jax.vmap(lambda a: a(eye))(ends.actor)
    for i, alpha in enumerate(alphas):
        own = slice(i * runs, (i + 1) * runs)
        scales = np.asarray(ends.scale[own], float)
        mean, log, q, still = (np.stack(x) for x in zip(*(task.solve(alpha, s) for s in scales), strict=True))
        # the running scale sees targets with drawn next actions, hence a little above that of their means
        assert (0.95 * still < scales).all()
        assert (scales < 1.5 * still).all()
        assert np.abs(found.mean[own, :, 0] - mean).max() < 0.25
        np.testing.assert_allclose(np.mean(found.mean[own, :, 0] - mean, axis=0), 0.0, atol=0.05)
        np.testing.assert_allclose(np.mean(found.log_std[own, :, 0] - log, axis=0), 0.0, atol=0.05)
        np.testing.assert_allclose(np.mean(ends.critic.q[own, 0] - q, axis=0), 0.0, atol=0.08 * np.abs(q).max())
        # and it is not where it began
        assert np.abs(mean - task.anchor_mean).max(axis=1).min() > 0.2
