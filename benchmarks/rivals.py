"""Every rival beside MerPO on Point-Robot-Goal, medium data, sized as `merpo quickstart`: is any of them a straw man?

    python benchmarks/rivals.py [--out results/rivals] [--work DIR] [--methods focal iql ...] [--seeds 0]

30 training tasks and the 20 test tasks, 50 logged episodes each. All methods have the same data, units, network widths,
step sizes and evaluation starts; one after another, each result is added to the JSON file as it comes, and a method
that is there already is not repeated. The table in the README beside it is written from that file.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import merpo
from merpo import rivals
from merpo.algorithms.presets import default_config
from merpo.api import METHODS
from merpo.commands.quickstart import QUALITY, TRAIN_TASKS
from merpo.commands.session import use_compilation_cache
from merpo.data import TaskSet
from merpo.evaluation import Protocol, Results, evaluate_policies, summarise, task_id
from merpo.report import load_results, markdown_table, save_results
from merpo.runs import versions, write_atomic
from merpo.tasks import family_of, generate

FAMILY, EPISODES, STARTS = "point-robot-goal", 50, 1
ORDER = (*METHODS[:2], *METHODS[2:6], *rivals.METHODS, *METHODS[6:])
"""Of the table: what is unadapted or cloned, single-task rivals, context learners, RAC and MerPO."""
HEADER = """# The rivals beside MerPO: a sanity check

Point-Robot-Goal, medium data: 30 training tasks, 20 unseen test tasks, 50 logged episodes each. Only the log tells a
task's goal. Same data, units, widths, step sizes and evaluation starts for all; nothing was tuned per method. See
[docs/rivals.md](../../docs/rivals.md) for what each method is and which settings are its paper's.

    python benchmarks/rivals.py

"""


def small_set() -> TaskSet:
    """Quickstart's: the first training tasks and all test tasks."""
    data = generate(FAMILY, QUALITY, EPISODES, 0)
    used = {t.name for t in list(data.train)[:TRAIN_TASKS]}
    return replace(data, tasks=tuple(t for t in data if t.split == "test" or t.name in used))


def learned_meta(data: TaskSet, seeds: tuple[int, ...], work: Path) -> merpo.Meta:
    """MerPO's meta-training, kept in the work folder."""
    path = work / f"meta-{'-'.join(map(str, seeds))}.safetensors"
    if not path.exists():
        config = replace(default_config(data.info, data.train.tasks), context=0)  # as in quickstart
        merpo.MerPO(config, seeds=seeds).fit(data.train).save(path)
    return merpo.Meta.load(path)


def policies(method: str, data: TaskSet, seeds: tuple[int, ...], work: Path) -> merpo.PolicySet:
    """Learn, and adapt to the test tasks."""
    if method in rivals.METHODS:
        return rivals.ContextLearner(method, seeds=seeds).fit(data.train).adapt_many(data.test)
    return learned_meta(data, seeds, work).adapt_many(data.test, method)


def with_method(
    known: Results | None, method: str, returns: np.ndarray, data: TaskSet, seeds: tuple[int, ...]
) -> Results:
    """The results so far and one more method's, in the order of the table."""
    found = {**(known.returns if known else {}), method: returns}
    tasks, packages = data.test, versions()
    return Results(
        family=data.info.family,
        quality=data.info.quality,
        tasks=tuple(t.name for t in tasks),
        returns={m: found[m] for m in ORDER if m in found},
        behaviour=np.asarray([t.returns().mean() for t in tasks], np.float64),
        protocol=Protocol(
            episodes=STARTS,
            seeds=seeds,
            physics=data.info.physics,
            precision=f"float32, matmul precision {packages['matmul_precision']}",
            budget="as docs/rivals.md says",
            versions={name: str(value) for name, value in packages.items()},
        ),
        random=np.asarray([t.reference["random"] for t in tasks], np.float64),
        expert=np.asarray([t.reference["expert"] for t in tasks], np.float64),
    )


def page(results: Results) -> str:
    """The table, and which methods it lacks."""
    lacking = [m for m in ORDER if m not in results.returns]
    partial = f"**Partial**: {', '.join(lacking)} not run yet; the command goes on with them.\n\n" if lacking else ""
    return HEADER + partial + markdown_table(results, summarise(results))


def main() -> None:
    """Learn, evaluate, write."""
    parser = argparse.ArgumentParser(description="Every rival beside MerPO on Point-Robot-Goal.")
    parser.add_argument("--out", type=Path, default=Path("results/rivals"), help="folder of the table and JSON file")
    parser.add_argument("--work", type=Path, default=Path("rivals-work"), help="folder of MerPO's checkpoint")
    parser.add_argument("--methods", nargs="+", default=list(ORDER), choices=ORDER)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    use_compilation_cache()
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    data, seeds, path = small_set(), tuple(options.seeds), options.out / f"{FAMILY}.json"
    family, ids = family_of(data.info), [task_id(t.name) for t in data.test]
    for method in options.methods:
        known = load_results(path) if path.exists() else None
        if known is not None and method in known.returns and known.protocol.seeds == seeds:
            continue
        begun, spent = time.perf_counter(), os.times()
        found = policies(method, data, seeds, options.work)
        after = os.times()
        returns = np.stack([evaluate_policies(family, found.act(s), ids, STARTS, 0) for s in seeds])
        results = with_method(known, method, returns, data, seeds)
        save_results(path, results)
        write_atomic(options.out / "README.md", page(results))
        core = after.user + after.system - spent.user - spent.system
        print(
            f"{method}: {returns.mean():.3f}  {time.perf_counter() - begun:.0f} s, {core:.0f} core seconds", flush=True
        )


if __name__ == "__main__":
    main()
