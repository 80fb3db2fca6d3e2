"""`merpo data list | info | check | generate | replay | import | export`: what is stored, and how it comes and goes."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Annotated

import tyro

from merpo.commands.exchange import HOME, Export, Import, run_export, run_import
from merpo.commands.replay import Replay, run_replay
from merpo.commands.session import say
from merpo.errors import DataError


@dataclass(frozen=True)
class List:
    """List the stored data sets."""


@dataclass(frozen=True)
class Info:
    """Show a stored data set in figures, task by task."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the data set, as `merpo data list` shows it."""
    json: bool = False
    """As JSON."""


@dataclass(frozen=True)
class Check:
    """Look for everything in a stored data set that cannot be learned from or looks like a mistake."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the data set, as `merpo data list` shows it."""
    json: bool = False
    """As JSON."""


@dataclass(frozen=True)
class Generate:
    """Log episodes of a family's behaviour policies and store them; the same bytes for the same seed."""

    family: Annotated[str, tyro.conf.Positional]
    """Task family, e.g. point-robot-goal."""
    quality: str = "medium"
    """random, medium, expert or mixed."""
    episodes: int = 50
    """Episodes per task."""
    seed: int = 0
    """Seed of the collection."""
    physics: str | None = None
    """modern (default) or legacy, as before MuJoCo 2.1.2."""
    observation: str = "standard"
    """standard, or legacy (20 numbers) for the cheetahs."""
    name: str | None = None
    """Name to store it by; default FAMILY/QUALITY-eEPISODES-sSEED, which `merpo train FAMILY/QUALITY` finds.
    Legacy settings are added to it."""
    overwrite: bool = False
    """Replace a stored data set of that name."""


DataCommand = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Replay, tyro.conf.subcommand("replay")]
)


@dataclass(frozen=True)
class Data:
    """List, describe, check, generate, replay, import and export data sets."""

    command: tyro.conf.OmitSubcommandPrefixes[DataCommand]


def run_data(options: Data) -> None:
    """Run the command. DataError (exit status 2) when a checked set cannot be learned from."""
    command = options.command
    if isinstance(command, List):
        _list()
    elif isinstance(command, Info):
        _info(command)
    elif isinstance(command, Check):
        _check(command)
    elif isinstance(command, Import):
        run_import(command)
    elif isinstance(command, Export):
        run_export(command, stored_name(command.name))
    elif isinstance(command, Replay):
        run_replay(command, stored_name(command.name))
    else:
        _generate(command)


def stored_name(name: str) -> str:
    """The name itself, or that of the default set (50 episodes, seed 0) generated for `family/quality`, or that of an
    imported set."""
    from merpo.data import list_sets

    known = {entry.name for entry in list_sets()}
    others = (f"{name}-e50-s0", f"{HOME}/{name}")
    return name if name in known else next((other for other in others if other in known), name)


def _list() -> None:
    from merpo.data import default_root, list_sets

    entries = list_sets()
    if not entries:
        say(f"No data sets in {default_root()}. Make one: merpo data generate point-robot-goal --quality medium")
        return
    width = max(len(e.name) for e in entries)
    say(f"{'name':<{width}}  {'train':>5}  {'test':>5}  {'episodes':>8}  {'steps':>9}  {'size':>9}")
    for e in entries:
        if e.damage is not None:
            say(f"{e.name:<{width}}  damaged: {e.damage}")
            continue
        size = f"{e.bytes / 2**20:.1f} MiB"
        say(f"{e.name:<{width}}  {e.train_tasks:>5}  {e.test_tasks:>5}  {e.episodes:>8}  {e.steps:>9}  {size:>9}")
    say(f"in {default_root()}")


def _info(options: Info) -> None:
    from merpo import data

    summary = data.summarise(*data.load_each(stored_name(options.name)))
    say(json.dumps(summary.to_json(), indent=1) if options.json else summary.render())


def _check(options: Check) -> None:
    from merpo import data

    report = data.check(data.load(stored_name(options.name)))
    say(json.dumps(report.to_json(), indent=1) if options.json else report.render())
    if not report.ok:
        raise DataError(
            f"{options.name}: {report.count('error')} errors, see above. Mend the data and save them again."
        )


def _generate(options: Generate) -> None:
    from merpo import data
    from merpo.tasks import env_specs, generate, get_family

    begin = time.perf_counter()
    family = get_family(options.family, options.physics, options.observation)
    made = generate(family, options.quality, options.episodes, options.seed)
    legacy = ("-legacy" if family.physics == "legacy" else "") + ("-obs20" if family.observation == "legacy" else "")
    name = options.name or f"{options.family}/{options.quality}{legacy}-e{options.episodes}-s{options.seed}"
    folder = data.save(made, name, overwrite=options.overwrite, env_spec=env_specs(made))
    steps = sum(len(t) for t in made)
    say(
        f"{name}: {len(made.train)} training and {len(made.test)} test tasks, {steps} steps,"
        f" {time.perf_counter() - begin:.1f} s, in {folder}"
    )
