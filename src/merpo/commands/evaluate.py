"""`merpo evaluate`: simulated returns of every adapted policy on the same starts, as a table, JSON and a figure."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from merpo.commands.record import METHODS, DataRef, RunRecord, load_data, pick_tasks, read_record, run_config
from merpo.commands.session import Stopwatch, say
from merpo.commands.variants import in_order
from merpo.errors import ConfigError, StorageError
from merpo.files import storage_error

if TYPE_CHECKING:
    import merpo
    from merpo.data import TaskSet
    from merpo.evaluation import Protocol, Results


@dataclass(frozen=True)
class Evaluate:
    """Simulate every adapted policy and the unadapted meta-policy on the same tasks and starts."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Folder of a run that `merpo adapt` has been applied to."""
    episodes: int = 20
    """Episodes per task and seed."""
    seed: int = 0
    """Seed of the initial states, the same for every method."""
    results: Path | None = None
    """Write the results to this JSON file too (and the table beside it, as Markdown)."""
    figure: bool = True
    """Draw returns.png in the run folder (needs matplotlib)."""
    verbose: bool = False
    """Print the time of each stage."""


def run_evaluate(options: Evaluate) -> None:
    """Run the command."""
    from merpo.report import print_table

    watch = Stopwatch()
    folder, record = options.run_dir, read_record(options.run_dir)
    if not record.adapted:
        raise StorageError(f"{str(folder)!r}: no adapted policies there. Run `merpo adapt {folder}` first.")
    with watch.stage("loading"):
        policies, tasks = load_policies(folder, record)
    results = evaluate(policies, tasks, folder, options.episodes, options.seed, watch)
    with watch.stage("writing"):
        write(results, folder, options.results, options.figure)
    print_table(results)
    say(f"Results: {folder / 'results.json'}, {folder / 'results.md'}" + (", returns.png" if options.figure else ""))
    if options.verbose:
        say("\n".join(["Stage times:", *watch.lines()]))


def load_policies(folder: Path, record: RunRecord) -> tuple[dict[str, merpo.PolicySet], TaskSet]:
    """The policies that a run was adapted to, MerPO's meta-policy always among them, and their tasks' logs."""
    import merpo

    target = record.adapted
    tasks = pick_tasks(load_data(DataRef(**target["data"])), target["tasks"], target["episodes"])
    policies = {m: merpo.PolicySet.load(folder / "policies" / f"{m}.safetensors") for m in target["methods"]}
    if record.method == "merpo" and "meta-policy" not in policies:
        meta = merpo.Meta.load(folder / "checkpoint.safetensors", run_config(folder))
        policies["meta-policy"] = meta.adapt_many(tasks, "meta-policy")
    return {m: policies[m] for m in in_order(list(policies), METHODS)}, tasks


def evaluate(
    policies: Mapping[str, merpo.PolicySet], tasks: TaskSet, folder: Path, episodes: int, seed: int, watch: Stopwatch
) -> Results:
    """Returns [seed, task, episode] of every method, with the logged behaviour, references and protocol."""
    from merpo.evaluation import Results, evaluate_policies, task_id
    from merpo.tasks import families, family_of

    if tasks.info.family not in families():
        raise ConfigError(
            f"family={tasks.info.family!r} has no simulator: known are {', '.join(families())}. Policies for other data"
            " can be used (merpo.PolicySet.load) but not simulated; merpo estimate says from the logs what they return."
        )
    family = family_of(tasks.info)
    ids = [task_id(t.name) for t in tasks]
    begin = time.perf_counter()
    with watch.stage("simulating"):
        returns = {
            method: np.stack([evaluate_policies(family, found.act(s), ids, episodes, seed) for s in found.seeds])
            for method, found in policies.items()
        }
    record = read_record(folder).timed("evaluate", time.perf_counter() - begin)
    record.save(folder)
    known = all({"random", "expert"} <= set(t.reference) for t in tasks)
    return Results(
        family=tasks.info.family,
        quality=tasks.info.quality,
        tasks=tuple(t.name for t in tasks),
        returns=returns,
        behaviour=np.asarray([t.returns().mean() for t in tasks], np.float64),
        protocol=protocol(record, tasks, folder, episodes, policies),
        random=np.asarray([t.reference["random"] for t in tasks], np.float64) if known else None,
        expert=np.asarray([t.reference["expert"] for t in tasks], np.float64) if known else None,
    )


def _span(counts: Iterable[int]) -> str:
    """One number, or the least and the greatest."""
    found = sorted(set(counts))
    return f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _clones(policies: Mapping[str, merpo.PolicySet]) -> str:
    """Of which methods the guard kept the behaviour's clone, and for how many tasks and seeds."""
    counts = {m: np.asarray(found.cloned) for m, found in policies.items() if found.cloned is not None}
    kept = [f"{m} {x.sum()} of {x.size}" for m, x in counts.items() if x.any()]
    return f"; the behaviour's clone in the policy's place: {', '.join(kept)}" if kept else ""


def protocol(
    record: RunRecord, tasks: TaskSet, folder: Path, episodes: int, policies: Mapping[str, merpo.PolicySet]
) -> Protocol:
    """How the numbers were made, from the run folder and its policies."""
    from importlib import metadata

    from merpo.evaluation import Protocol
    from merpo.guarantee.certificate import split_log
    from merpo.runs import versions

    config = run_config(folder)
    made_with: dict[str, Any] = json.loads((folder / "versions.json").read_bytes())
    span = _span(t.episodes for t in tasks)
    if record.method == "merpo":
        learned = [split_log(t)[0] if record.adapted.get("certified") else t for t in tasks]
        own = _span(config.updates_for(len(t)) for t in learned)
        fewer = f" (merpo: {own}, by the size of the log)" if own != str(config.adapt_updates) else ""
        budget = (
            f"{config.train_updates} updates of each of {record.train_tasks} training tasks;"
            f" per test task {span} logged episodes and {config.adapt_updates} updates{fewer}"
            f" or {config.bc_updates} (bc){_clones(policies)}"
        )
    else:
        budget = (
            f"{config.updates} updates of {config.context.batch} rows of each of {config.context.tasks} tasks,"
            f" drawn from {record.train_tasks} training tasks; per test task {span} logged episodes as context"
        )
    packages, here = dict(made_with), versions()
    if any(here[k] != made_with.get(k) for k in ("jax", "device")):
        packages["simulated with"] = f"jax {here['jax']} on {here['device']}"
    if tasks.info.physics != "none":
        packages["mujoco"] = metadata.version("mujoco")
    return Protocol(
        episodes=episodes,
        seeds=record.seeds,
        physics=tasks.info.physics,
        precision=f"float32, matmul precision {made_with['matmul_precision']}",
        budget=budget,
        versions={name: str(value) for name, value in packages.items()},
        wall_time_s=round(sum(record.seconds.values()), 1),
    )


def write(results: Results, folder: Path, extra: Path | None, figure: bool) -> None:
    """`results.json`, `results.md` and `returns.png` in the run folder; the first two at `extra` too."""
    from merpo.evaluation import summarise
    from merpo.report import markdown_table, returns_figure, save_results
    from merpo.runs import write_atomic

    if extra:
        try:
            extra.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, extra.parent, "make") from error
    rows = summarise(results)
    for path in (folder / "results.json", *([extra] if extra else [])):
        save_results(path, results)
        write_atomic(path.with_suffix(".md"), markdown_table(results, rows))
    if figure:
        returns_figure(results, folder / "returns.png", rows)
