"""The theorem over random instances: how often its conditions hold, and what follows where they do and do not.

Every MDP has its own training tasks, meta-model, meta-policy, behaviour policy and log, and its own settings drawn from
the grids below; every alpha of the grid is tried on every MDP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from merpo.errors import ConfigError
from merpo.guarantee.exact import Balance, Log, meta_policy, read_log, regularised_policy
from merpo.guarantee.maximiser import Maximum, maximise
from merpo.guarantee.mdp import MDP, TaskPrior, behaviour_policy, draw_counts
from merpo.guarantee.theorem import Judgement, judge

ALPHAS = (0.0, 0.2, 0.3, 0.4, 0.45, 0.6, 1.0)
LAMBDAS = (0.1, 0.3, 1.0, 3.0, 10.0)
BETAS = (0.01, 0.03, 0.1, 0.3)
SHARES = (0.2, 0.5, 0.8)
SIZES = (100, 300, 1000, 3000)
SKILLS = (0.0, 0.3, 0.6, 0.9)
GAP = 1e-5
"""Duality gap, in units of the return, above which an instance is worked on further."""


@dataclass(frozen=True)
class SweepConfig:
    """Size and seed of a sweep."""

    mdps: int = 1500
    """Random new tasks, each with its own training tasks."""
    training_tasks: int = 4
    """Training tasks per new task."""
    seed: int = 0
    """Seed of everything."""
    delta: float = 0.05
    """Probability with which the sampling bound may fail, per log."""
    chunk: int = 40
    """MDPs worked on at once: few enough for the processor's cache. The random numbers depend on it."""
    prior: TaskPrior = field(default_factory=TaskPrior)
    """What tasks are drawn from."""

    def __post_init__(self) -> None:
        for name in ("mdps", "training_tasks", "chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected a whole number >= 1.")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}: expected a whole number >= 0.")


Columns = dict[str, np.ndarray]
"""One value per (MDP, alpha), flat."""


def sweep(config: SweepConfig, report: Callable[[int, int], None] | None = None) -> Columns:
    """Run it; `report(done, total)` after every chunk. Columns: the settings, the judgement's fields, and `kl_*`.

    `kl_*` are the same for the practical form, D = KL(pi || .) averaged over visited states, for which the theorem
    proves nothing: its closed form, at lambda (1 - gamma) since one step's advantage is worth 1 / (1 - gamma) steps.
    """
    parts, done, number = [], 0, 0
    while done < config.mdps:
        size = min(config.chunk, config.mdps - done)
        parts.append(_chunk(config, size, np.random.default_rng([config.seed, number]), done))
        done, number = done + size, number + 1
        if report is not None:
            report(done, config.mdps)
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _chunk(config: SweepConfig, size: int, rng: np.random.Generator, first: int) -> Columns:
    drawn = {
        "lambda": rng.choice(LAMBDAS, size),
        "beta": rng.choice(BETAS, size),
        "f": rng.choice(SHARES, size),
        "log_size": rng.choice(SIZES, size),
        "skill": rng.choice(SKILLS, size),
    }
    tasks = config.prior.draw(rng, size, config.training_tasks + 1)
    skill = rng.choice(SKILLS, tasks.r.shape[:2])
    skill[:, -1] = drawn["skill"]
    behaviour = behaviour_policy(tasks, skill, rng)
    amount = np.full(tasks.r.shape[:2], 500)
    amount[:, -1] = drawn["log_size"]
    counts = draw_counts(tasks, behaviour, amount, rng)

    # the meta-model: the training tasks' pooled transitions and rewards; pairs that nobody logged are uniform, 1/2
    pooled = counts[:, :-1].sum(1) + 0.01
    prior_T = pooled / pooled.sum(-1, keepdims=True)
    seen = counts[:, :-1].sum(-1)
    prior_r = ((seen * tasks.r[:, :-1]).sum(1) + 0.5) / (seen.sum(1) + 1.0)
    for_all_T, for_all_r = (
        np.broadcast_to(x[:, None], (size, config.training_tasks, *x.shape[1:])) for x in (prior_T, prior_r)
    )
    lam, beta, f = drawn["lambda"], drawn["beta"], drawn["f"]
    gap = 1.0 - config.prior.gamma
    training = read_log(counts[:, :-1], _rows(tasks, slice(None, -1)), for_all_T, for_all_r, f[:, None])
    pi_c = meta_policy(training, Balance(0.4, lam[:, None] * gap, beta[:, None], f[:, None]))

    # every MDP at every alpha: one flat batch
    alphas = len(ALPHAS)
    spread = lambda x: np.repeat(x, alphas, axis=0)  # noqa: E731
    true = MDP(spread(tasks.T[:, -1]), spread(tasks.r[:, -1]), spread(tasks.mu[:, -1]), tasks.gamma)
    prior_T, prior_r, pi_c = spread(prior_T), spread(prior_r), spread(pi_c)
    columns: Columns = {"mdp": spread(first + np.arange(size)), "alpha": np.tile(ALPHAS, size)}
    columns |= {name: spread(x) for name, x in drawn.items()}
    balance = Balance(columns["alpha"], columns["lambda"], columns["beta"], columns["f"])
    log = read_log(spread(counts[:, -1]), true, prior_T, prior_r, balance.f)

    best = _maximise(log, pi_c, balance)
    acting = spread(behaviour[:, -1])
    found = judge(log, true, acting, best.policy, pi_c, balance, prior_T, prior_r, config.delta)
    columns |= {"duality_gap": best.gap} | _fields(found)
    softer = replace(balance, lam=columns["lambda"] * gap)
    practical = judge(
        log, true, acting, regularised_policy(log, pi_c, softer), pi_c, balance, prior_T, prior_r, config.delta
    )
    return columns | {f"kl_{name}": x for name, x in _fields(practical).items()}


def _rows(tasks: MDP, which: slice) -> MDP:
    return MDP(tasks.T[:, which], tasks.r[:, which], tasks.mu[:, which], tasks.gamma)


def _fields(found: Judgement) -> Columns:
    return {name: np.asarray(x) for name, x in vars(found).items()}


def _maximise(log: Log, pi_c: np.ndarray, balance: Balance) -> Maximum:
    """Most instances are solved to rounding in 100 rounds of ADMM; the others get more, most of the rest many more."""
    out = {name: np.array(x) for name, x in vars(maximise(log, pi_c, balance, 100)).items()}
    for rounds in (300, 1200):
        slow = np.flatnonzero(out["gap"] > GAP)
        if not len(slow):
            break
        model = MDP(log.model.T[slow], log.model.r[slow], log.model.mu[slow], log.model.gamma)
        part = Log(log.counts[slow], log.clone[slow], log.d[slow], model)
        settings = {name: np.asarray(getattr(balance, name))[slow] for name in ("alpha", "lam", "beta", "f")}
        for name, x in vars(maximise(part, pi_c[slow], Balance(**settings), rounds)).items():
            out[name][slow] = x
    return Maximum(**out)


def summarise(columns: Columns) -> dict[str, Any]:
    """Shares and counts, overall and by each setting, as plain numbers; NaN-free (null where nothing was counted)."""
    holds = columns["conditions"]
    wrong = holds & (columns["broken"] | ~columns["conclusion"])
    lost = columns["bound_c"] <= -np.inf
    for name in ("c", "beta"):
        lost = lost | (columns[f"true_gain_{name}"] < columns[f"bound_{name}"] - columns["sampling_bound"])
    kl_fails = columns["kl_interval"] & (columns["kl_bound_c"] > 0) & ~columns["kl_conclusion"]
    by = ("alpha", "lambda", "beta", "f", "log_size", "skill")
    whole = {
        "instances": int(holds.sum()),
        "violations": int((wrong | (holds & lost)).sum()),
        "instances_tried": len(holds),
        "mdps": len(np.unique(columns["mdp"])),
        "mdps_with_conditions": len(np.unique(columns["mdp"][holds])),
        "inequalities_broken_anywhere": int(columns["broken"].sum()),
        "sampling_bound_exceeded_anywhere": int((columns["model_error"] > columns["sampling_bound"]).sum()),
        "largest_duality_gap": float(columns["duality_gap"].max()),
        "median_duality_gap": float(np.median(columns["duality_gap"])),
        "interval_only_without_conclusion": int((columns["interval"] & ~columns["conclusion"]).sum()),
        "kl_conditions_without_conclusion": int(kl_fails.sum()),
        **_shares(columns, np.ones_like(holds)),
    }
    tables = {
        name: [{name: float(v), **_shares(columns, columns[name] == v)} for v in np.unique(columns[name])]
        for name in by
    }
    grid = [
        {"alpha": float(a), "lambda": float(x), **_shares(columns, (columns["alpha"] == a) & (columns["lambda"] == x))}
        for a in np.unique(columns["alpha"])
        for x in np.unique(columns["lambda"])
    ]
    return {**whole, "by": tables, "map": grid}


def _shares(columns: Columns, rows: np.ndarray) -> dict[str, float | int | None]:
    holds = columns["conditions"]

    def share(flag: np.ndarray, among: np.ndarray) -> float | None:
        picked = flag[rows & among]
        return round(float(picked.mean()), 4) if len(picked) else None

    everything = np.ones_like(holds)
    logged = columns["true_gain_logged"] > 0.0
    sure = holds & (columns["bound_c"] > columns["model_error"]) & (columns["bound_beta"] > columns["model_error"])
    return {
        "n": int(rows.sum()),
        "interval": share(columns["interval"], everything),
        "conditions": share(holds, everything),
        "conclusion_with": share(columns["conclusion"], holds),
        "conclusion_without": share(columns["conclusion"], ~holds),
        "true_conclusion_with": share(columns["true_conclusion"], holds),
        "true_conclusion_without": share(columns["true_conclusion"], ~holds),
        "beats_logging_policy_with": share(logged, holds),
        "beats_logging_policy_without": share(logged, ~holds),
        "bound_exceeds_model_error": share(sure, holds),
        "true_conclusion_when_it_does": share(columns["true_conclusion"], sure),
        "kl_true_conclusion": share(columns["kl_true_conclusion"], everything),
    }
