"""`merpo quickstart`: two families of point robots from logged data to policies that beat them, in minutes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from merpo.commands.adapt import adapt
from merpo.commands.evaluate import evaluate, write
from merpo.commands.processes import in_processes
from merpo.commands.record import DEFAULT_METHODS, DataRef
from merpo.commands.session import Stopwatch, emphasise, say
from merpo.commands.stages import Report, Stages
from merpo.commands.traces import goal_of, paths, positions
from merpo.commands.train import read_settings, train
from merpo.evaluation import BEHAVIOUR, META, task_id

if TYPE_CHECKING:
    import merpo
    from merpo.data import TaskSet
    from merpo.evaluation import Results

FAMILIES = ("point-robot-goal", "point-robot-wind")
QUALITY, EPISODES, SEED = "medium", 50, 0
CONTEXT = {"point-robot-goal": 0}
"""Where the settings differ from the defaults: the goals are learned as published, with a meta-policy that sees no task
(and that adaptation has to do without); the winds with one that reads the task off its model."""
TRAIN_TASKS = 25
"""Training tasks used per family, the first ones of its 40 (wind) or 80 (goal): what fits into three minutes."""


@dataclass(frozen=True)
class Quickstart:
    """Meta-train, adapt to unseen tasks and evaluate, on two small families (three to five minutes)."""

    out: Path = Path("quickstart")
    """Folder for one run folder per family; earlier quickstart runs in it are replaced."""
    config: Path | None = None
    """JSON file with settings that replace the defaults."""
    verbose: bool = False
    """Print the time of each stage."""


@dataclass(frozen=True)
class Outcome:
    """What one family's path has led to."""

    results: Results
    watch: Stopwatch = field(default_factory=Stopwatch)


def run_quickstart(options: Quickstart) -> None:
    """Run the command: both families side by side, then what came of each."""
    from merpo.report import print_table

    os.environ["XLA_FLAGS"] = f"{_lighter_compilation()} {os.environ.get('XLA_FLAGS', '')}".strip()
    begin = time.perf_counter()
    say(f"{' and '.join(FAMILIES)}: {QUALITY} data, {EPISODES} logged episodes per task, seed {SEED}")
    with Stages() as bars:
        outcomes = in_processes(partial(learn, options=options, episodes=EPISODES), FAMILIES, bars.prefixed)
    for name, outcome in outcomes.items():
        folder = options.out / name
        say()
        print_table(outcome.results)
        emphasise(sentence(name, outcome.results))
        say(f"Figures: {folder / 'returns.png'}, {folder / 'paths.png'}")
    say(f"\nTook {time.perf_counter() - begin:.0f} s.")
    if options.verbose:
        for name, outcome in outcomes.items():
            say("\n".join([f"Stage times of {name}:", *outcome.watch.lines()]))


def _lighter_compilation() -> str:
    """Flags of XLA that shorten compilation, much of this command's time, for somewhat slower learning.

    XLA ends a process whose flags it does not know, so the second is for the version that it was tried with.
    """
    import jaxlib.version

    flags = ["--xla_backend_optimization_level=1"]
    if jaxlib.version.__version_info__[:2] == (0, 10):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


def learn(name: str, report: Report, options: Quickstart, episodes: int) -> Outcome:
    """One family's path, with its figures."""
    from merpo.tasks import generate

    watch, folder = Stopwatch(), options.out / name
    ref = DataRef(f"{name}/{QUALITY}", episodes, SEED)
    with watch.stage("generating data"):
        data = generate(name, QUALITY, episodes, SEED)
    used = {t.name for t in list(data.train)[:TRAIN_TASKS]}
    data = replace(data, tasks=tuple(t for t in data if t.split == "test" or t.name in used))
    config = read_settings(data, options.config)
    if options.config is None and name in CONTEXT:
        config = replace(config, context=CONTEXT[name])
    meta = train(data, ref, config, (SEED,), folder, "overwrite", report=report, watch=watch)
    policies = adapt(meta, data.test, ref, DEFAULT_METHODS, folder, report, watch)
    results = evaluate(policies, data.test, folder, episodes=1, seed=SEED, watch=watch)
    with watch.stage("figures"):
        write(results, folder, None, figure=True)
        _draw_paths(name, data.test, policies, folder)
    return Outcome(results, watch)


def _draw_paths(name: str, tasks: TaskSet, policies: Mapping[str, merpo.PolicySet], folder: Path) -> None:
    from merpo.report import trajectories_figure
    from merpo.tasks import get_family

    family = get_family(name)
    ids = [task_id(t.name) for t in tasks]
    shown = {m: paths(policies[m].act(SEED), family, ids) for m in (META, "merpo")}
    logged = {t.name: [positions(t, e) for e in range(min(8, t.episodes))] for t in tasks}
    trajectories_figure(
        folder / "paths.png",
        logged,
        {m: {t.name: found[i] for i, t in enumerate(tasks)} for m, found in shown.items()},
        {t.name: goal_of(t) for t in tasks},
        title=f"{name}: paths on unseen tasks",
    )


def sentence(name: str, results: Results) -> str:
    """Whether the adapted policy beat its data, in one plain sentence with the figures that say so."""
    assert results.random is not None
    assert results.expert is not None
    adapted, logged, meta = (results.task_means(m) for m in ("merpo", BEHAVIOUR, META))
    n, wins = len(adapted), int(np.sum(adapted > logged))
    both = int(np.sum((adapted > logged) & (adapted > meta)))
    mean, low, high = adapted.mean(), results.random.mean(), results.expert.mean()
    verdict = "beat" if wins == n else "beat on most tasks" if 2 * wins > n else "did not beat"
    text = (
        f"{name}: the adapted policy {verdict} the data it learned from: it is better on {wins} of {n} unseen tasks,"
        f" with a mean return of {mean:.2f} against {logged.mean():.2f} ({mean - logged.mean():+.2f}),"
        f" {100 * (mean - low) / (high - low):.0f} % of the way from random ({low:.2f}) to expert ({high:.2f}),"
        f" and better than both the data and the meta-policy on {both} of {n}"
    )
    if name == "point-robot-wind":
        blind = blind_return(results)
        text += (
            f"; it stands {100 * (mean - blind) / (high - blind):.0f} % of the way from the policy that is blind to the"
            f" wind ({blind:.2f}) to the expert"
        )
    return text + "."


def blind_return(results: Results) -> float:
    """Mean return on the results' tasks of the feedback policy that knows the goal but no wind."""
    from merpo.evaluation import evaluate_policies
    from merpo.tasks import get_family, greedy_act

    family, ids = get_family("point-robot-wind"), [task_id(t) for t in results.tasks]
    return float(evaluate_policies(family, greedy_act(family, ids, blind=True), ids, 1, SEED).mean())
