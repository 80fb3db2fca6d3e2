"""`merpo estimate`: the returns of a run's policies from the logs alone, where nothing can be simulated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from merpo.commands.evaluate import load_policies
from merpo.commands.record import load_learned, read_record
from merpo.commands.session import say
from merpo.commands.stages import Report, Stages
from merpo.errors import ConfigError, StorageError

if TYPE_CHECKING:
    import merpo
    from merpo.data import TaskData, TaskSet

FORMAT, FORMAT_VERSION = "merpo-estimates", 1
ROLLOUTS = 60
"""Imagined episodes per policy, rounded to a multiple of the elites."""


@dataclass(frozen=True)
class Estimate:
    """Estimate every adapted policy's return from the logs, by all off-policy estimators. Where the run has been
    evaluated in simulation too, it says how far each estimator can be trusted."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Folder of a run of merpo that `merpo adapt` has been applied to."""
    out: Path | None = None
    """Write the estimates to this JSON file too (and the agreement with simulation beside it, as Markdown)."""


def run_estimate(options: Estimate) -> None:
    """Run the command."""
    from merpo.evaluation import agreement, agreement_markdown
    from merpo.runs import versions, write_atomic

    folder, record = options.run_dir, read_record(options.run_dir)
    if record.method != "merpo":
        raise ConfigError(f"{str(folder)!r} is a run of {record.method}: estimates are of runs of merpo.")
    if not record.adapted:
        raise StorageError(f"{str(folder)!r}: no adapted policies there. Run `merpo adapt {folder}` first.")
    policies, tasks = load_policies(folder, record)
    held = _logs(list(tasks), bool(record.adapted.get("certified")))
    meta = load_learned(folder, "merpo")
    with Stages() as bars:
        rows = estimate_policies(meta, policies, tasks, held, bars.report)
    name = f"{tasks.info.family}/{tasks.info.quality}"
    print_estimates(name, rows, held)
    known = _simulated(folder, policies, rows)
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "data": name,
        "held_back": bool(record.adapted.get("certified")),
        "rows": rows,
        "versions": versions(),
    }
    if known:
        content["agreement"] = agreement(known)
        say(agreement_markdown({name: content["agreement"]}))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(options.out, json.dumps(content, indent=1, allow_nan=False) + "\n")
        if known:
            write_atomic(options.out.with_suffix(".md"), agreement_markdown({name: content["agreement"]}))


def _logs(tasks: list[TaskData], certified: bool) -> list[TaskData]:
    """What estimates rest on: the episodes kept from learning where there are some, else the whole logs."""
    from merpo.guarantee.certificate import split_log

    return [split_log(t)[1] if certified else t for t in tasks]


def estimate_policies(
    meta: Any, policies: Mapping[str, merpo.PolicySet], tasks: TaskSet, logs: list[TaskData], report: Report
) -> list[dict[str, Any]]:
    """One row per method, seed and task: `estimates`, and where they belong. Large logs take seconds per policy."""
    import jax
    import jax.numpy as jnp

    from merpo.algorithms.presets import SMALL_DIMENSIONS
    from merpo.evaluation import Problem, Smooth, Systems, estimate_behaviour, estimates, imagined_return

    info, ready = meta.info, meta.learned.preparation
    horizon = info.horizon or max(int(np.diff(t.episode_start).max()) for t in tasks)
    low = info.obs_dim + info.act_dim <= SMALL_DIMENSIONS
    models = meta.adapt_models(logs)
    count = len(logs)
    elites = models.models.elites.shape[1]
    rows: list[dict[str, Any]] = []
    total = count * sum(len(found.seeds) for found in policies.values())
    for i, log in enumerate(logs):
        problem, features, behaviour = Problem(log, horizon), Smooth.fit(log, width=1.5), estimate_behaviour(log)
        systems = Systems(problem, log) if low else None
        first = np.asarray(log.episode_start)[:-1]
        drawn = np.random.default_rng([i, 23]).choice(first, max(ROLLOUTS // elites, 1) * elites)
        start = jnp.asarray(ready.obs(np.asarray(log.transitions.obs)[drawn]))
        for method, found in policies.items():
            for s, seed in enumerate(found.seeds):
                actor = jax.tree.map(lambda x, s=s, i=i: jnp.asarray(x[s, i]), found.tree.actor)
                own = jax.tree.map(lambda x, j=s * count + i: x[j], models.models)
                dreamt = imagined_return(
                    actor, own, meta.learned.scale, models.termination, start, jax.random.key(i), horizon=horizon
                )
                value = float(dreamt) / float(ready.reward_scale)
                got = estimates(problem, found.policy(i, seed), features, behaviour, systems, value)
                rows.append({"method": method, "seed": seed, "task": log.name, **_finite(got)})
                report("estimating", len(rows), total, {})
    return rows


def _finite(found: Mapping[str, float]) -> dict[str, float]:
    """Estimates that came out as numbers; products of ratios can overflow."""
    return {name: float(np.clip(value, -1e30, 1e30)) for name, value in found.items() if not np.isnan(value)}


def _simulated(folder: Path, policies: Mapping[str, merpo.PolicySet], rows: list[dict[str, Any]]) -> list[Any]:
    """The rows with their simulated returns, where the run's results are of the same policies."""
    from merpo.report import load_results

    path = folder / "results.json"
    if not path.exists():
        return []
    results = load_results(path)
    known = []
    for row in rows:
        found = policies[row["method"]]
        if row["method"] not in results.returns or row["task"] not in results.tasks:
            return []
        place = found.seeds.index(row["seed"]), results.tasks.index(row["task"])
        known.append({**row, "true": float(results.returns[row["method"]][place].mean())})
    return known


def print_estimates(name: str, rows: list[dict[str, Any]], logs: list[TaskData]) -> None:
    """Means over tasks and seeds, a line per method."""
    from merpo.evaluation import ESTIMATORS

    shown = [e for e in ESTIMATORS if any(e in r for r in rows)]
    logged = float(np.mean([t.returns().mean() for t in logs]))
    say(f"{name}: logged return {logged:.4g}; estimated return of every method, mean over tasks and seeds")
    width = max(len(r["method"]) for r in rows) + 2
    say(" " * width + "  ".join(f"{e:>17}" for e in shown))
    for method in dict.fromkeys(r["method"] for r in rows):
        mine = [r for r in rows if r["method"] == method]
        values = ([r[e] for r in mine if e in r] for e in shown)
        say(f"{method:<{width}}" + "  ".join(f"{np.mean(v):>17.5g}" if v else " " * 17 for v in values))
