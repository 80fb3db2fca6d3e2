"""How long RAC takes to 95 % of the first version's return on locomotion logs, and what each change since has given.

    python benchmarks/time_to_return.py DATA [--tasks 0 1] [--updates 8000] [--seeds 0] [--only NAME ...] [--out FOLDER]

One rung of the ladder after the other learns policies for the same test tasks of DATA (family/quality, 50 episodes
each) from the same models, made from each task's own log: RAC without meta-policy, so that nothing but the learner
differs. Every rung has the changes of those before it; the last are what is offered and not the default, each on top
of today's. Every `--every` updates the policies are simulated from the same starts, outside the clock.

The clock: updates times the median seconds of a round, so that compiling, simulating and whatever else disturbed a
few rounds is left out. The return at the end is the mean of the last three looks. "Reached" is the first look from
which the return of two looks in a row is at or above 95 % of what the first rung has at the end, on the mean over tasks
and seeds. Seconds are those of all tasks of one seed; compare rungs of one run only.

Writes FOLDER/<family>-<quality>.json (with several seeds <family>-<quality>-<number of seeds>-seeds.json) after every
rung, and goes on with what is there for the same settings.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

import merpo
from merpo.algorithms import pipeline
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.presets import STANDARD
from merpo.evaluation import evaluate_policies, task_id
from merpo.policies import PolicySet, PolicyTree
from merpo.runs import from_json, merged, nested, to_json, versions, write_atomic

LEVEL = 0.95
WIDE, NARROWER = [256, 256, 256], [128, 128]
FIRST = {
    "actor_hidden": WIDE, "critic_hidden": WIDE, "actor_lr": 3e-4, "lr_final": 1.0, "tau": 0.005, "gamma": 0.99,
    "batch": 256, "real_fraction": 0.5, "rollout_length": 5, "rollout_rows": 500, "warmup": 0, "beta": 0.1,
    "temperature": 1e-3, "target_entropy": -1.0,
}  # fmt: skip
"""RAC as of the first commit that had it. lambda alpha, what holds the policy to its log, is 0.04 as today."""
LADDER: dict[str, dict[str, Any]] = {
    "first version": FIRST,
    "larger steps, shorter horizon": {"actor_lr": 1e-3, "tau": 0.02, "lr_final": 0.1, "gamma": 0.98},
    "two layers": {"actor_hidden": [256, 256], "critic_hidden": [256, 256]},
    "128 wide": {"actor_hidden": NARROWER, "critic_hidden": NARROWER},
    "less imagined": {"real_fraction": 0.8, "rollout_length": 1, "rollout_rows": 1000},
    "batch 128": {"batch": 128},
    "today": {"warmup": 1000, "beta": 0.3, "temperature": 1e-4, "target_entropy": -2.0},
}
"""What each rung adds to those before it. The last leaves `STANDARD`."""
OFFERED: dict[str, dict[str, Any]] = {
    "256 wide": {"actor_hidden": [256, 256], "critic_hidden": [256, 256]},
    "256 wide, horizon 100": {"actor_hidden": [256, 256], "critic_hidden": [256, 256], "gamma": 0.99},
    "logsumexp": {"pushdown": "logsumexp"},
    "logsumexp, one-action gradient": {"pushdown": "logsumexp", "logsumexp_gradient": "sampled"},
    "imagined half as often": {"imagine_every": 500},
    "batch 64": {"batch": 64},
}
"""On top of today's."""


class Looks:
    """A keeper that keeps the policies every few rounds, and the seconds that rounds took."""

    def __init__(self, every: int):
        self.every, self.rounds, self.seconds = every, 0, list[float]()
        self.actors: dict[int, Any] = {}
        self._begun = time.perf_counter()

    def load(self, slot: str, like: Callable[[int], Any]) -> tuple[int, Any] | None:
        """Nothing was kept."""
        return None

    def due(self, slot: str) -> bool:
        """Called when a round is done: stops the clock."""
        self.seconds.append(time.perf_counter() - self._begun)
        self.rounds += 1
        return self.rounds % self.every == 0

    def save(self, slot: str, done: int, tree: Any) -> None:
        """Keep the policies of the state."""
        self.actors[done] = tree[0][0].actor

    def report(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        """Called when the round's figures are shown: the next begins."""
        self._begun = time.perf_counter()


def rungs() -> dict[str, MerPOConfig]:
    """Every rung's configuration by name."""
    found: dict[str, MerPOConfig] = {}
    here = to_json(STANDARD)
    for name, changes in LADDER.items():
        here = merged(here, {"rac": changes})
        found[name] = from_json(MerPOConfig, here)
    if found["today"] != STANDARD:
        raise SystemExit("The ladder's last rung is not STANDARD: add what has changed to it.")
    for name, changes in OFFERED.items():
        found[name] = from_json(MerPOConfig, merged(here, {"rac": changes}))
    return found


def climb(
    name: str, config: MerPOConfig, meta: merpo.Meta, models: pipeline.NewTasks, options: argparse.Namespace
) -> dict[str, Any]:
    """Learn by one rung's settings: seconds per 1000 updates, the returns [look, seed, task, episode] on the way."""
    config = replace(config, adapt_updates=options.updates)
    every = max(1, options.every // config.rac.imagine_every)
    looks = Looks(every)
    assert config.rac.gamma is not None
    info = replace(meta.info, gamma=config.rac.gamma)
    pipeline.adapt(meta.learned, models, info, config, meta.seeds, "rac", looks.report, looks)
    family, ids = options.data.partition("/")[0], [task_id(n) for n in models.names]

    def returns(actor: Any) -> list[list[list[float]]]:
        by_seed = jax.tree.map(lambda x: np.asarray(x).reshape(len(meta.seeds), len(ids), *x.shape[1:]), actor)
        policies = PolicySet(
            "rac", PolicyTree(by_seed, meta.learned.preparation), meta.info, models.names, meta.seeds, config
        )
        return [
            evaluate_policies(family, policies.act(seed), ids, options.episodes, 0).round(2).tolist()
            for seed in meta.seeds
        ]

    per_round = float(np.median(looks.seconds[1:] or looks.seconds))
    return {
        "name": name,
        "settings": to_json(config.rac),
        "seconds_per_1000": round(per_round * 1000 / config.rac.imagine_every / len(meta.seeds), 3),
        "updates": [done * config.rac.imagine_every for done in looks.actors],
        "returns": [returns(a) for a in looks.actors.values()],
    }


def reached(rung: dict[str, Any], level: float) -> int | None:
    """Updates at the first of two looks in a row whose mean return is at or above `level`; None: never."""
    means = np.mean(rung["returns"], axis=(1, 2, 3))
    both = (means[:-1] >= level) & (means[1:] >= level)
    return rung["updates"][int(np.argmax(both))] if both.any() else None


def at_the_end(rung: dict[str, Any]) -> Float[np.ndarray, "seed task"]:
    """Returns at the end: the noise of single looks averaged over three."""
    ended: Float[np.ndarray, "seed task"] = np.asarray(rung["returns"][-3:]).mean(axis=(0, 3))
    return ended


def table(report: dict[str, Any]) -> str:
    """A Markdown table of the rungs; in brackets the tasks, or the seeds where there are several."""
    done = report["rungs"]
    level = LEVEL * float(at_the_end(done[0]).mean())
    lines = [f"| | s per 1000 updates | return at the end | updates to {level:.0f} | seconds |"]
    lines.append("|:---|---:|---:|---:|---:|")
    for rung in done:
        last = at_the_end(rung)
        updates = reached(rung, level)
        time_taken = "never" if updates is None else f"{updates * rung['seconds_per_1000'] / 1000:.0f}"
        split = last.mean(axis=0) if len(last) == 1 else last.mean(axis=1)
        parts = ", ".join(f"{x:.0f}" for x in split)
        added = "+ " if rung["name"] not in ("first version", "today") else ""
        lines.append(
            f"| {added}{rung['name']} | {rung['seconds_per_1000']:.2f} | {last.mean():.0f} ({parts}) | "
            f"{'' if updates is None else updates} | {time_taken} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Climb the ladder on one data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--tasks", type=int, nargs="+", default=[0, 1], help="positions of test tasks")
    parser.add_argument("--updates", type=int, default=8_000)
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=[], help="only these rungs")
    parser.add_argument("--out", type=Path, default=Path("results/time_to_return"))
    options = parser.parse_args()

    chosen = {n: c for n, c in rungs().items() if not options.only or n in options.only}
    several = f"-{len(options.seeds)}-seeds" if len(options.seeds) > 1 else ""
    path = options.out / f"{options.data.replace('/', '-')}{several}.json"
    asked = {k: getattr(options, k) for k in ("data", "tasks", "updates", "every", "episodes", "seeds")}
    report: dict[str, Any] = {"asked": asked, "machine": versions(), "rungs": []}
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["asked"] != asked:
            raise SystemExit(f"{str(path)!r} is of other settings: {kept['asked']}. Choose another --out.")
        report = kept
    data = merpo.load(options.data)
    logs = [data.test[i] for i in options.tasks]
    # Any meta-model will do: RAC is given models of the new logs alone, and takes only the units from it.
    idle = from_json(MerPOConfig, merged(to_json(STANDARD), nested({
        "train_updates": 250, "dynamics.pool_steps": 100, "dynamics.meta_iterations": 1, "dynamics.adapt_steps": 100,
    })))  # fmt: skip
    meta = merpo.MerPO(idle, seeds=options.seeds).fit(data.train)
    models = replace(meta, config=STANDARD).scratch_models(logs)
    for name, config in chosen.items():
        if name in {r["name"] for r in report["rungs"]}:
            continue
        report["rungs"].append(climb(name, config, meta, models, options))
        options.out.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(report, allow_nan=False) + "\n")
        print(table(report), flush=True)


if __name__ == "__main__":
    main()
