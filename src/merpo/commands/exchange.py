"""`merpo data import | export`: other people's files in, and stored sets out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from merpo.commands.session import say

HOME = "imported"
"""Namespace of sets that are imported by a name without one."""


@dataclass(frozen=True)
class Import:
    """Read logs in another format, check them, and store them as a data set.

    A table's columns are named here or in a TOML file (--mapping; see docs/data.md); without that the usual names are
    looked for. Whatever is changed, dropped or inferred on the way is said at the end.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Files, or a folder of them (minari: ids or folders, one per task; focal: the folder with goal_idx0, ...)."""
    layout: Literal["csv", "parquet", "npz", "d4rl", "minari", "focal"]
    """Format of the files."""
    name: str
    """Name to store the set by, NAMESPACE/NAME; NAME alone becomes imported/NAME."""
    mapping: str | None = None
    """TOML file with the tables [columns] and [set]; options given here take precedence."""
    task: str | None = None
    """Column that names the task; without one each file is a task. For this and all columns: - for none."""
    episode: str | None = None
    """Column that names the episode."""
    time: str | None = None
    """Column that orders the steps: numbers or time stamps."""
    obs: tuple[str, ...] = ()
    """Observation columns: names or patterns such as 'obs_*'."""
    action: tuple[str, ...] = ()
    """Action columns: names or patterns."""
    reward: str | None = None
    """Reward column."""
    terminated: str | None = None
    """Column that says whether the task ended with this step."""
    truncated: str | None = None
    """Column that says whether the episode was cut after this step, e.g. by a time limit."""
    next_obs: tuple[str, ...] = ()
    """Columns of the observation after the step; without them the next row's observation."""
    split: str | None = None
    """Column that says train or test."""
    family: str | None = None
    """Name of the family of tasks; default NAME."""
    gamma: float | None = None
    """Discount factor; default 0.99."""
    horizon: int | None = None
    """Steps after which episodes are truncated; default the longest episode."""
    action_low: tuple[float, ...] = ()
    """Lower action bounds, one number or one per column; default -1."""
    action_high: tuple[float, ...] = ()
    """Upper action bounds; default 1."""
    action_bounds: Literal["given", "data"] | None = None
    """data takes the range of the logged actions as their bounds."""
    test: tuple[str, ...] = ()
    """Test tasks: names or patterns."""
    test_share: float | None = None
    """Or the share of tasks to draw as test tasks."""
    split_seed: int | None = None
    """Seed of that draw; default 0."""
    missing: Literal["error", "drop"] | None = None
    """drop cuts episodes at rows with missing values instead of refusing them."""
    termination: Literal["never", "learned"] | None = None
    """How the end of imagined episodes is decided; default learned where any episode terminated."""
    checkpoints: tuple[int, ...] = ()
    """focal: only files of these steps of the logging policy; default all."""
    delimiter: str | None = None
    """csv: the separator; default found in the first line."""
    overwrite: bool = False
    """Replace a stored set of that name."""
    json: bool = False
    """Report as JSON."""


@dataclass(frozen=True)
class Export:
    """Write a stored data set in another format, with SHA-256 sums that import checks."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the data set, as `merpo data list` shows it."""
    layout: Literal["parquet", "npz", "minari"]
    """Format to write."""
    out: str
    """File to write; for minari a folder, to be named in MINARI_DATASETS_PATH."""
    overwrite: bool = False
    """Replace what is there."""


COLUMNS = ("task", "episode", "time", "obs", "action", "reward", "terminated", "truncated", "next_obs", "split")
SETTINGS = (
    "family",
    "gamma",
    "horizon",
    "action_low",
    "action_high",
    "action_bounds",
    "test",
    "test_share",
    "split_seed",
    "missing",
    "termination",
)


def run_import(options: Import) -> None:
    """Run the command."""
    from merpo.data import Columns, Settings, import_set, read_mapping

    columns, settings = read_mapping(options.mapping) if options.mapping else ({}, {})
    columns |= _given(options, COLUMNS)
    settings |= _given(options, SETTINGS)
    if options.test:
        settings.pop("test_share", None)
    elif options.test_share is not None:
        settings.pop("test", None)
    done = import_set(
        options.paths,
        options.layout,
        options.name if "/" in options.name else f"{HOME}/{options.name}",
        columns=Columns(**columns),
        settings=Settings(**settings),
        checkpoints=options.checkpoints,
        delimiter=options.delimiter,
        overwrite=options.overwrite,
    )
    say(json.dumps(done.to_json(), indent=1) if options.json else done.render())


def run_export(options: Export, name: str) -> None:
    """Run the command; `name` is the stored set's full name."""
    from merpo.data import export_set

    say(f"{name} as {options.layout} in {export_set(name, options.layout, options.out, overwrite=options.overwrite)}")


def _given(options: Import, names: tuple[str, ...]) -> dict[str, Any]:
    values = {name: getattr(options, name) for name in names}
    return {k: v for k, v in values.items() if v is not None and v != ()}
