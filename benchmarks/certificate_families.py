"""The certificate and off-policy evaluation on point robots, against simulated returns.

    python benchmarks/certificate_families.py [--updates 500] [--seed 0] [--out results/certificate] [--scripted]
                                              [--policies FOLDER] [--cases point-robot-goal/medium ...]

Per family and quality, MerPO is meta-trained on the first training tasks; the policies of further tasks, none of them
trained on, are adapted to half of their 50 logged episodes of 20 steps and certified on the other half, with the logs
of several seeds. The adapted policies act deterministically, the behaviour is stochastic and keeps hidden state within
an episode. Simulated: the policy's return, and the behaviour's over 200 fresh episodes.

With --scripted nothing is trained: the candidates are the analytic expert with errors of random size in target, gain,
direction and bias, from excellent to far worse than the behaviour. It takes seconds, and says how the certificate
judges policies of every quality; written is scripted.json.

families.json: false certification and power. evaluation.json and evaluation.md: rank correlation and bias of every
estimator per quality, over adapted, meta- and cloned policies of the same tasks. With --policies the adapted policies
and what was found of every case are kept in that folder, and taken from there if they are there: an interrupted run
goes on, and several processes can share the cases. Remove CASE-SEED.json to judge the same policies again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from certificate_tabular import summarise

import merpo
from merpo.algorithms.presets import SMALL
from merpo.data import TaskData, TaskSet
from merpo.evaluation import (
    Problem,
    Smooth,
    Systems,
    Target,
    agreement,
    agreement_markdown,
    estimate_behaviour,
    estimates,
)
from merpo.guarantee import Certificate, CertificateConfig, certify, split_log
from merpo.runs import versions, write_atomic
from merpo.tasks import behaviour_act, generate, get_family, reference_returns
from merpo.tasks.family import Family
from merpo.tasks.point_robot import PointSimulator, servo

EPISODES, TRAINED, NEW, FRESH = 50, 10, 36, 200
CASES = (
    ("point-robot-goal", "medium"),
    ("point-robot-goal", "mixed"),
    ("point-robot-wind", "medium"),
    ("point-robot-goal", "random"),
    ("point-robot-goal", "expert"),
    ("point-robot-wind", "mixed"),
)
"""Family and quality; `NEW` tasks of each."""
METHODS = ("merpo", "meta-policy", "bc")


def logs(family: Family, quality: str, seed: int) -> tuple[TaskSet, list[TaskData]]:
    """Training tasks, and `NEW` other tasks, of one generated set."""
    data = generate(family, quality, EPISODES, seed)
    every = sorted(data, key=lambda t: t.name)
    new = [every[i] for i in np.linspace(TRAINED, len(every) - 1, NEW).round().astype(int)]
    return TaskSet(data.info, tuple(replace(t, split="train") for t in every[:TRAINED])), new


def simulate(family: Family, policies: merpo.PolicySet, ids: list[int]) -> np.ndarray:
    """Return of every task's policy: start and dynamics are deterministic, so that one episode is exact."""
    return family.rollout(policies.act(policies.seeds[0]), ids, 1, 0).returns[:, 0]


def scripted(family: Family, ids: list[int], seed: int) -> list[Any]:
    """One deterministic policy per task: the expert with errors of random size, many of them none."""
    rng, n = np.random.default_rng([seed, 5]), len(ids)
    simulator = family.simulator
    assert isinstance(simulator, PointSimulator)
    offset = rng.normal(size=(n, 2)) * rng.choice([0.0, 0.2, 0.5], (n, 1))
    bias = rng.normal(size=(n, 2)) * rng.choice([0.0, 0.3], (n, 1))
    turn, gain = rng.normal(size=n) * rng.choice([0.0, 0.3, 0.8], n), rng.uniform(0.3, 1.0, n)

    def make(k: int, task: int) -> Any:
        c, s = np.cos(turn[k]), np.sin(turn[k])
        target, wind = simulator.goal[task] + offset[k], simulator.wind[task]

        def act(obs: np.ndarray) -> np.ndarray:
            aimed = servo(target, np.asarray(obs, np.float64), wind)
            return np.clip(gain[k] * aimed @ np.array([[c, s], [-s, c]]) + bias[k], -1.0, 1.0)

        return act

    return [make(k, task) for k, task in enumerate(ids)]


def scripted_case(name: str, quality: str, seed: int, config: CertificateConfig) -> list[dict[str, Any]]:
    """Trials of one family, quality and seed with scripted candidates."""
    family = get_family(name)
    training, new = logs(family, quality, seed)
    ids = [int(t.name[-3:]) for t in new]
    acts = scripted(family, ids, seed)
    true = family.rollout(lambda obs, _: np.stack([f(o) for f, o in zip(acts, obs, strict=True)]), ids, 1, 0).returns
    behaviour = family.rollout(behaviour_act(family, quality, ids, FRESH, 977), ids, FRESH, 977).returns.mean(1)
    low, high = (np.asarray(x)[ids] for x in reference_returns(family))
    std = float(np.concatenate([t.transitions.reward for t in training]).std())
    trials = []
    for i, task in enumerate(new):
        part, held = split_log(task, replace(config, seed=seed))
        made = certify(held, Target(acts[i]), family.horizon, part, None, std, config)
        row = record(f"{name}/{quality}", task.name, seed, made) | {"policy": float(true[i, 0]), "meta": 0.0}
        trials.append(row | {"behaviour": float(behaviour[i]), "range": float(high[i] - low[i])})
    return trials


def record(name: str, task: str, seed: int, made: Certificate) -> dict[str, Any]:
    """What a certificate said, flat."""
    over = made.over_behaviour
    return {
        "case": name, "task": task, "seed": seed, "certified": made.certified, "reasons": list(made.reasons),
        "estimate": over and over.estimate, "lower": over and over.lower, "unsupported": made.unsupported,
        "effective": made.effective_transitions, "error": over and over.standard_error,
        "estimated_return": made.policy_return, "meta_lower": made.over_meta and made.over_meta.lower,
    }  # fmt: skip


def adapted(
    training: TaskSet, learn: TaskSet, quality: str, seed: int, updates: int, kept: Path | None
) -> dict[str, merpo.PolicySet]:
    """The policies of every method for the learning halves, from the folder `kept` if they are there."""
    name = f"{training.info.family}-{quality}-{seed}"
    paths = {m: kept / f"{name}-{m}.safetensors" for m in METHODS} if kept else {}
    if paths and all(p.exists() for p in paths.values()):
        return {m: merpo.PolicySet.load(p) for m, p in paths.items()}
    # a light learner: the certificate must judge whatever comes out of it, and poor policies are welcome
    light = replace(SMALL.dynamics, members=3, elites=2, meta_iterations=20, inner_steps=10, adapt_steps=200)
    settings = replace(SMALL, train_updates=300, adapt_updates=updates, bc_updates=updates, dynamics=light)
    meta = merpo.MerPO(settings, seed=seed).fit(training)
    models = meta.adapt_models(learn)
    sets = {m: meta.adapt_many(learn, m, models=models) for m in METHODS}
    for m, path in paths.items():
        sets[m].save(path)
    return sets


def case(
    name: str, quality: str, seed: int, updates: int, config: CertificateConfig, kept: Path | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Trials and estimates of one family, quality and seed."""
    done = kept / f"{name}-{quality}-{seed}.json" if kept else None
    if done and done.exists():
        known = json.loads(done.read_bytes())
        return known["trials"], known["estimates"]
    family, config = get_family(name), replace(config, seed=seed)
    training, new = logs(family, quality, seed)
    halves = [split_log(t, config) for t in new]
    learn = TaskSet(training.info, tuple(replace(a, split="test") for a, _ in halves))
    ids = [int(t.name[-3:]) for t in new]
    sets = adapted(training, learn, quality, seed, updates, kept)
    true = {m: simulate(family, s, ids) for m, s in sets.items()}
    behaviour = family.rollout(behaviour_act(family, quality, ids, FRESH, 977), ids, FRESH, 977).returns.mean(1)
    low, high = (np.asarray(x)[ids] for x in reference_returns(family))
    # rewards' deviation in the training tasks, as the run knows it
    std = float(np.concatenate([t.transitions.reward for t in training]).std())
    trials, estimated = [], []
    for i, (part, held) in enumerate(halves):
        acts = {m: s.policy(i) for m, s in sets.items()}
        problem, features = Problem(held, family.horizon), Smooth.fit(part, width=1.5)
        systems = Systems(problem, part, config.seed)
        for m in METHODS:
            found = estimates(problem, acts[m], features, estimate_behaviour(held), systems)
            estimated.append({"case": f"{name}/{quality}", "method": m, "true": float(true[m][i]), **found})
        made = certify(held, Target(acts["merpo"]), family.horizon, part, Target(acts["meta-policy"]), std, config)
        row = record(f"{name}/{quality}", new[i].name, seed, made)
        row |= {"policy": float(true["merpo"][i]), "behaviour": float(behaviour[i])}
        row |= {"meta": float(true["meta-policy"][i]), "range": float(high[i] - low[i])}
        trials.append(row)
    if done:
        write_atomic(done, json.dumps({"trials": trials, "estimates": estimated}) + "\n")
    return trials, estimated


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description="The certificate on point robots.")
    parser.add_argument("--updates", type=int, default=500, help="updates of every adaptation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds of logs and learning, from --seed on")
    parser.add_argument("--out", default="results/certificate")
    parser.add_argument("--scripted", action="store_true", help="judge scripted policies; nothing is trained")
    parser.add_argument("--policies", type=Path, help="folder in which adapted policies are kept and looked for")
    parser.add_argument("--cases", nargs="+", default=[f"{f}/{q}" for f, q in CASES], help="family/quality")
    options = parser.parse_args()
    begun, config = time.perf_counter(), CertificateConfig()
    trials: list[dict[str, Any]] = []
    estimated: list[dict[str, Any]] = []
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    if options.policies:
        options.policies.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seed, options.seed + options.seeds):
        for name, quality in (c.split("/") for c in options.cases):
            if options.scripted:
                trials += scripted_case(name, quality, seed, config)
                made = {"config": asdict(config), "versions": versions(), "episodes": EPISODES, "first_seed": seed}
                write_trials(folder / "scripted.json", trials, made)
                print(f"seed {seed} {name}/{quality} done", flush=True)
                continue
            found = case(name, quality, seed, options.updates, config, options.policies)
            trials, estimated = trials + found[0], estimated + found[1]
            print(
                f"seed {seed} {name}/{quality}: {sum(r['certified'] for r in found[0])} of {NEW} certified", flush=True
            )
            # after every case: what was measured is kept if the rest is not waited for
            made = {
                "updates": options.updates, "first_seed": options.seed, "training_tasks": TRAINED,
                "episodes": EPISODES, "config": asdict(config), "versions": versions(),
                "seconds": round(time.perf_counter() - begun, 1),
            }  # fmt: skip
            write(folder, trials, estimated, made)
    print(json.dumps(summarise(trials), indent=1))
    if estimated:
        print(agreement_markdown(by_case(estimated)))


def by_case(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`agreement` of every family and quality."""
    return {name: agreement([r for r in rows if r["case"] == name]) for name in dict.fromkeys(r["case"] for r in rows)}


def write_trials(path: Path, trials: list[dict[str, Any]], made: dict[str, Any]) -> None:
    """Summary, summary per case, and every trial."""
    names = list(dict.fromkeys(r["case"] for r in trials))
    report = {
        **summarise(trials), "by_case": {n: summarise([r for r in trials if r["case"] == n]) for n in names},
        "range": "expert less random", **made, "rows": trials,
    }  # fmt: skip
    write_atomic(path, json.dumps(report, indent=1, allow_nan=False) + "\n")


def write(folder: Path, trials: list[dict[str, Any]], estimated: list[dict[str, Any]], made: dict[str, Any]) -> None:
    """families.json, evaluation.json, evaluation.md."""
    write_trials(folder / "families.json", trials, made)
    compared = by_case(estimated)
    write_atomic(folder / "evaluation.json", json.dumps({"table": compared, **made}, indent=1, allow_nan=False) + "\n")
    write_atomic(folder / "evaluation.md", agreement_markdown(compared))


if __name__ == "__main__":
    main()
