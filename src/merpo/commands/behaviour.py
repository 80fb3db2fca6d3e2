"""`merpo behaviour train | select | record | compare | list`: the policies that log a family's data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from merpo.commands.session import say
from merpo.commands.stages import Stages


@dataclass(frozen=True)
class TrainBehaviour:
    """Train one privileged agent on all tasks of a family, with checkpoints along the way (long)."""

    family: Annotated[str, tyro.conf.Positional]
    """Task family, e.g. half-cheetah-fwd-back."""
    out: Path
    """Folder of the checkpoints."""
    updates: int
    """Gradient updates in all."""
    seed: int = 0
    """Seed of training."""
    every: int = 20_000
    """Updates between two checkpoints."""
    resume: bool = False
    """Go on from the learner stored in the folder."""
    tasks: tuple[int, ...] = ()
    """Train on these tasks alone, to see what an agent of their own reaches; default: all. See `compare`."""


@dataclass(frozen=True)
class SelectBehaviour:
    """Choose the checkpoints of the qualities medium, expert and mixed from a training run."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Folder that `merpo behaviour train` wrote."""
    dest: Path | None = None
    """Where to put them; default: the weights shipped with the package."""


@dataclass(frozen=True)
class RecordBehaviour:
    """Write how the shipped policies were trained: FAMILY.json, a table FAMILY.md and a curve FAMILY.png."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Folder that `merpo behaviour train` wrote, its checkpoints selected; or the shipped weights, if it is lost."""
    out: Path
    """Folder of the record."""
    updates: tuple[int, ...] = ()
    """Updates asked for in each run (the first, then each --resume), where the checkpoints do not say."""


@dataclass(frozen=True)
class CompareBehaviour:
    """Compare agents that were trained on some tasks alone (train --tasks) with the shipped expert for all tasks."""

    run_dirs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders that `merpo behaviour train --tasks` wrote."""
    out: Path
    """Folder of own_agents.json and own_agents.md."""


@dataclass(frozen=True)
class ListBehaviour:
    """Show the recorded returns of the shipped checkpoints."""


BehaviourCommand = (
    Annotated[TrainBehaviour, tyro.conf.subcommand("train")]
    | Annotated[SelectBehaviour, tyro.conf.subcommand("select")]
    | Annotated[RecordBehaviour, tyro.conf.subcommand("record")]
    | Annotated[CompareBehaviour, tyro.conf.subcommand("compare")]
    | Annotated[ListBehaviour, tyro.conf.subcommand("list")]
)


@dataclass(frozen=True)
class Behaviour:
    """Train, select, record, compare and list the behaviour policies that log data."""

    command: tyro.conf.OmitSubcommandPrefixes[BehaviourCommand]


def run_behaviour(options: Behaviour) -> None:
    """Run the command."""
    command = options.command
    if isinstance(command, TrainBehaviour):
        _train(command)
    elif isinstance(command, SelectBehaviour):
        _select(command)
    elif isinstance(command, RecordBehaviour):
        _record(command)
    elif isinstance(command, CompareBehaviour):
        _compare(command)
    else:
        _list()


def _train(options: TrainBehaviour) -> None:
    from merpo.tasks import get_family, train_behaviour

    family = get_family(options.family)
    with Stages() as bars:

        def progress(figures: dict[str, Any]) -> None:
            returns = figures["returns"]
            shown = {"return": sum(returns) / len(returns)}
            bars.report(f"{family.name} behaviour", figures["updates"], options.updates, shown)

        records = train_behaviour(
            family, options.out, options.updates, options.seed,
            every=options.every, progress=progress, resume=options.resume, tasks=options.tasks or None,
        )  # fmt: skip
    say(f"{len(records)} checkpoints in {options.out}; best mean return {max(r['mean_return'] for r in records):.1f}")


def _select(options: SelectBehaviour) -> None:
    from merpo.tasks import select_checkpoints

    for quality, chosen in select_checkpoints(options.run_dir, options.dest).items():
        say(f"{quality}: checkpoints by task {chosen}")


def _record(options: RecordBehaviour) -> None:
    from merpo.report.behaviour import behaviour_figure, behaviour_markdown
    from merpo.runs import versions, write_atomic
    from merpo.tasks import training_record

    record = training_record(options.run_dir, options.updates) | {"recorded_with": versions()}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{record['family']}.json"
    write_atomic(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_atomic(path.with_suffix(".md"), behaviour_markdown(record))
    behaviour_figure(record, path.with_suffix(".png"))
    say(f"{len(record['checkpoints'])} checkpoints in {path}; beside it the table and the curve")


def _compare(options: CompareBehaviour) -> None:
    from merpo.report.own_agents import own_markdown
    from merpo.runs import versions, write_atomic
    from merpo.tasks import own_agents

    runs = own_agents(options.run_dirs)
    head = {"format": "merpo-own-agents", "format_version": 1}
    record = head | {"runs": runs, "recorded_with": versions()}
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out / "own_agents.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_atomic(options.out / "own_agents.md", own_markdown(record))
    say(f"{len(runs)} agents in {options.out / 'own_agents.json'}; beside it the table")


def summary(returns: list[float]) -> str:
    """Returns by task; mean, lowest and highest where there are many tasks."""
    if len(returns) <= 4:
        return "  ".join(f"{r:8.1f}" for r in returns)
    return f"mean {sum(returns) / len(returns):8.1f}  lowest {min(returns):8.1f}  highest {max(returns):8.1f}"


def _list() -> None:
    from merpo.tasks import families, get_family, shipped
    from merpo.tasks.analytic import is_analytic
    from merpo.tasks.behaviour import has_weights

    for name in families():
        family = get_family(name)
        if is_analytic(family):
            say(f"{name}: analytic behaviour policies, nothing shipped")
            continue
        if not has_weights(name):
            say(f"{name}: nothing shipped, only random data")
            continue
        kept = shipped(name)
        say(f"{name}: {len(kept.checkpoints)} checkpoints, deterministic returns of {family.num_tasks} tasks")
        for i, checkpoint in enumerate(kept.checkpoints):
            used = [q for q, rows in kept.qualities.items() if any(i in row for row in rows)]
            returns = summary(checkpoint["returns"])
            say(f"  {i:>2}  {checkpoint['updates']:>9} updates  {returns}  {', '.join(used)}")
