"""How often the certificate errs, and how often it finds what is better: finite MDPs, where the truth is known.

    python benchmarks/certificate_tabular.py [--trials 2000] [--seed 0] [--out results/certificate/tabular.json]
    python benchmarks/certificate_tabular.py --report results/certificate/*.json    # rates with intervals, as a table

Each trial draws four training tasks and a new one from a shared prior, logs 50 episodes of 20 steps of the new one with
a behaviour policy of random skill, learns from half of them by tabular MerPO with random settings, and certifies on the
other half. So that there is something to catch, in some trials the candidate is a policy learned with wrong rewards,
drawn at random, or today's with a tenth of it random, which is about as good. True returns are exact.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from merpo.data import TaskData, Transitions
from merpo.evaluation.offpolicy import Target
from merpo.guarantee import MDP, Balance, TaskPrior, behaviour_policy, meta_policy, optimal_policy, read_log
from merpo.guarantee import regularised_policy as learn
from merpo.guarantee.certificate import CertificateConfig, certify
from merpo.guarantee.mdp import dirichlet, draw_counts
from merpo.runs import versions, write_atomic

HORIZON = 20
KINDS = ("merpo", "wrong rewards", "random", "near today's")


def returns_of(mdp: MDP, pi: np.ndarray, horizon: int = HORIZON) -> np.ndarray:
    """Exact undiscounted returns of `horizon` steps; any batch axes."""
    v = np.zeros(mdp.r.shape[:-1])
    for _ in range(horizon):
        v = (pi * (mdp.r + np.einsum("...sat,...t->...sa", mdp.T, v))).sum(-1)
    return (mdp.mu * v).sum(-1)


def log_episodes(mdp: MDP, pi: np.ndarray, episodes: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """States [trial, episode, step + 1], actions, rewards of one batch of tasks."""
    n = len(mdp.r)
    row = np.arange(n)[:, None]

    def draw(p: np.ndarray) -> np.ndarray:
        return (rng.random((*p.shape[:-1], 1)) >= np.cumsum(p, -1)[..., :-1]).sum(-1)

    s = draw(np.broadcast_to(mdp.mu[:, None], (n, episodes, mdp.mu.shape[-1])))
    states, actions, rewards = [s], [], []
    for _ in range(HORIZON):
        a = draw(pi[row, s])
        rewards.append(mdp.r[row, s, a])
        s = draw(mdp.T[row, s, a])
        actions.append(a)
        states.append(s)
    return np.stack(states, -1), np.stack(actions, -1), np.stack(rewards, -1)


def as_task(states: np.ndarray, actions: np.ndarray, rewards: np.ndarray, s: int, a: int) -> TaskData:
    """One trial's episodes as a log with one-hot columns."""
    episodes = len(states)
    size = episodes * HORIZON
    end = np.tile(np.arange(HORIZON) == HORIZON - 1, episodes)
    hot = np.eye(s, dtype=np.float32)
    rows = Transitions(
        hot[states[:, :-1].reshape(-1)], np.eye(a, dtype=np.float32)[actions.reshape(-1)],
        rewards.reshape(-1).astype(np.float32), hot[states[:, 1:].reshape(-1)], np.zeros(size, bool), end,
    )  # fmt: skip
    return TaskData("trial", "test", rows, np.arange(0, size + 1, HORIZON, dtype=np.int64))


def chunk(rng: np.random.Generator, n: int, episodes: int, config: CertificateConfig) -> list[dict[str, Any]]:
    """`n` trials."""
    prior = TaskPrior()
    tasks = prior.draw(rng, n, 5)
    skill = rng.choice([0.0, 0.3, 0.6, 0.9], (n, 5))
    behaviour = behaviour_policy(tasks, skill, rng)
    counts = draw_counts(tasks, behaviour, np.full((n, 5), 500), rng)[:, :-1]
    pooled = counts.sum(1) + 0.01
    prior_T, prior_r = pooled / pooled.sum(-1, keepdims=True), tasks.r[:, :-1].mean(1)
    new = MDP(tasks.T[:, -1], tasks.r[:, -1], tasks.mu[:, -1], tasks.gamma)
    old = MDP(tasks.T[:, :-1], tasks.r[:, :-1], tasks.mu[:, :-1], tasks.gamma)
    acting = behaviour[:, -1]
    states, actions, rewards = log_episodes(new, acting, episodes, rng)

    # learn from the first half (episodes are exchangeable)
    half = episodes // 2
    seen = np.zeros((n, prior.states, prior.actions, prior.states), np.int64)
    where = np.broadcast_to(np.arange(n)[:, None, None], (n, half, HORIZON))
    np.add.at(seen, (where, states[:, :half, :-1], actions[:, :half], states[:, :half, 1:]), 1)
    balance = Balance(rng.uniform(0.0, 1.0, n), rng.choice([0.03, 0.1, 0.3], n), rng.choice([0.01, 0.05], n), 0.5)
    wide_T, wide_r = (np.broadcast_to(x[:, None], (n, 4, *x.shape[1:])) for x in (prior_T, prior_r))
    anchors = Balance(0.4, np.full((n, 1), 0.1), 0.02, 0.5)
    pi_c = meta_policy(read_log(counts, old, wide_T, wide_r, f=0.5), anchors)
    kind = rng.choice(["merpo", "merpo", "merpo", "wrong rewards", "random", "near today's"], n)
    judged = MDP(new.T, np.where((kind == "wrong rewards")[:, None, None], 1.0 - new.r, new.r), new.mu, new.gamma)
    candidate = learn(read_log(seen, judged, prior_T, prior_r, 0.5), pi_c, balance)
    candidate = np.where((kind == "random")[:, None, None], dirichlet(rng, np.ones(new.r.shape)), candidate)

    near = 0.9 * acting + 0.1 * dirichlet(rng, np.ones(new.r.shape))
    candidate = np.where((kind == "near today's")[:, None, None], near, candidate)

    truth = {
        "policy": returns_of(new, candidate),
        "behaviour": returns_of(new, acting),
        "meta": returns_of(new, pi_c),
        "range": returns_of(new, optimal_policy(new)) - returns_of(new, np.full(new.r.shape, 1 / prior.actions)),
    }
    found = []
    for i in range(n):
        log = as_task(states[i], actions[i], rewards[i], prior.states, prior.actions)
        held, part = log.select(range(half, episodes)), log.select(range(half))
        target, meta = (Target(partial(np.dot, b=p), discrete=True) for p in (candidate[i], pi_c[i]))
        made = certify(held, target, HORIZON, part, meta, config=config)
        over = made.over_behaviour
        row = {"kind": str(kind[i]), "skill": float(skill[i, -1]), **{k: float(v[i]) for k, v in truth.items()}}
        row |= {"certified": made.certified, "reasons": list(made.reasons), "unsupported": made.unsupported}
        row |= {"estimate": over and over.estimate, "lower": over and over.lower, "method": over and over.method}
        row |= {"effective": made.effective_transitions}
        row |= {"meta_lower": made.over_meta and made.over_meta.lower}
        found.append(row)
    return found


def interval(successes: int, trials: int, level: float = 0.95) -> list[float] | None:
    """Clopper-Pearson interval of a share; null without trials."""
    if trials == 0:
        return None
    side = (1.0 - level) / 2.0
    low = beta.ppf(side, successes, trials - successes + 1) if successes else 0.0
    high = beta.ppf(1.0 - side, successes + 1, trials - successes) if successes < trials else 1.0
    return [round(float(low), 4), round(float(high), 4)]


def summarise(rows: list[dict[str, Any]], margin: float = 0.1) -> dict[str, Any]:
    """False certification, power, coverage; `margin` of the range counts as truly better."""
    gain = np.array([r["policy"] - r["behaviour"] for r in rows])
    share = gain / np.array([r["range"] for r in rows])
    certified = np.array([r["certified"] for r in rows])
    lower = np.array([np.nan if r["lower"] is None else r["lower"] for r in rows])
    better, worse = share >= margin, gain <= 0.0
    ratio = lambda a, b: round(float(a.sum() / b.sum()), 4) if b.sum() else None  # noqa: E731
    words = ("log too small", "no support", "reward scale", "improvement not proven", "disagree")
    refused = {w: sum(any(w in x for x in r["reasons"]) for r in rows) for w in words}
    steps = [m / 100 for m in (0, 5, 10, 20, 30, 50)]
    power = {}
    for a, b in zip(steps, [*steps[1:], np.inf], strict=True):
        inside = (share >= a) & (share < b)
        power[f"{a:g} to {b:g}"] = [int(inside.sum()), ratio(certified & inside, inside)]
    # a refusal for lack of support is an answer of its own: whether the rest is recognised, where the log can tell
    supported = ~np.array([any("no support" in x for x in r["reasons"]) for r in rows])
    told = better & supported
    versus = [(r["meta_lower"] > 0, r["policy"] - r["meta"]) for r in rows if r["meta_lower"] is not None]
    over, true = np.array([v for v, _ in versus], bool), np.array([g for _, g in versus], float)
    return {
        "trials": len(rows), "certified": int(certified.sum()), "truly_worse": int(worse.sum()),
        "truly_better_by_margin": int(better.sum()), "margin": margin,
        "false_certification": ratio(certified & worse, certified), "false_certified": int((certified & worse).sum()),
        "worse_policies_certified": ratio(certified & worse, worse),
        "false_certification_interval": interval(int((certified & worse).sum()), int(certified.sum())),
        "better_policies_certified": ratio(certified & better, better),
        "better_policies_certified_interval": interval(int((certified & better).sum()), int(better.sum())),
        "better_policies_with_support": int(told.sum()),
        "better_policies_with_support_certified": ratio(certified & told, told),
        "better_policies_with_support_certified_interval": interval(int((certified & told).sum()), int(told.sum())),
        "lower_bound_exceeds_truth": ratio(lower > gain, np.isfinite(lower)),
        "lower_bound_exceeds_truth_with_support": ratio((lower > gain) & supported, np.isfinite(lower) & supported),
        "lower_bound_exceeds_truth_when_certified": ratio((lower > gain) & certified, certified),
        "power_by_share_of_range": power, "refused_for": refused,
        "over_meta": {"claimed": int(over.sum()), "false_claims": ratio(over & (true <= 0), over)},
    }  # fmt: skip


def rates(paths: list[Path]) -> str:
    """False certification and power of stored reports, with Clopper-Pearson intervals, as a table."""
    lines = [
        "| | trials | truly worse of the certified | certified of the truly better | of those with support |",
        "|:---|---:|---:|---:|---:|",
    ]
    for path in paths:
        stored = json.loads(path.read_bytes())
        if "truly_better_by_margin" not in stored:
            continue
        cases = {path.stem: stored, **stored.get("by_case", {})}
        for name, one in cases.items():
            better, granted = one["truly_better_by_margin"], one["certified"]
            found = round((one["better_policies_certified"] or 0.0) * better)
            cells = [
                f"{k} of {n}" + (f" ({100 * k / n:.1f} %; {100 * low:.1f} to {100 * high:.1f} %)" if n else "")
                for k, n in ((one["false_certified"], granted), (found, better))
                for low, high in [interval(k, n) or (0.0, 0.0)]
            ]
            told = one.get("better_policies_with_support")
            cells.append("" if told is None else f"{found} of {told}")
            lines.append(f"| {name} | {one['trials']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description="The certificate on finite MDPs.")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="results/certificate/tabular.json")
    parser.add_argument("--report", nargs="+", type=Path, help="stored reports to tabulate; nothing is run")
    options = parser.parse_args()
    if options.report:
        print(rates(options.report))
        return
    begun, config, number = time.perf_counter(), CertificateConfig(), 0
    rows: list[dict[str, Any]] = []
    while len(rows) < options.trials:
        n = min(100, options.trials - len(rows))
        rows += chunk(np.random.default_rng([options.seed, number]), n, options.episodes, config)
        number += 1
        print(f"{len(rows)}/{options.trials}", flush=True)
    summary = summarise(rows)
    report = {
        **summary, "by_skill": {str(s): summarise([r for r in rows if r["skill"] == s]) for s in (0.0, 0.3, 0.6, 0.9)},
        "by_kind": {k: summarise([r for r in rows if r["kind"] == k]) for k in KINDS},
        "range": "best stationary policy less the uniform one", "episodes": options.episodes, "horizon": HORIZON,
        "seed": options.seed, "config": asdict(config), "versions": versions(),
        "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip
    path = Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
