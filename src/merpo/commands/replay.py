"""`merpo data replay NAME`: do the logged transitions follow from the simulator, and in which physics?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from merpo.commands.session import say

if TYPE_CHECKING:
    from merpo.tasks.replay import ReplayReport


@dataclass(frozen=True)
class Replay:
    """Put logged states into the simulator and compare what follows with the log, in every physics."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the data set, as `merpo data list` shows it."""
    physics: tuple[str, ...] = ()
    """modern, legacy; default: both, where the family has them."""
    family: str | None = None
    """The family that the data were logged in, where the set has another name (imported data)."""
    rows: int = 1000
    """Transitions per task at most, evenly spread over the log."""
    json: bool = False
    """As JSON."""


def run_replay(options: Replay, stored_name: str) -> None:
    """Run the command on the set stored by that name."""
    from merpo import data
    from merpo.tasks.replay import replay

    report = replay(data.load(stored_name), options.physics or None, options.family, options.rows)
    say(json.dumps(asdict(report) | {"nearest": report.nearest.physics}, indent=1) if options.json else render(report))


def render(report: ReplayReport) -> str:
    """The report as a table: medians, with the 95 % quantile in brackets."""
    lines = [
        f"{report.family}, recorded as physics {report.recorded}; errors of one step: median (95 %)",
        f"{'physics':<8}  {'rows':>7}  {'skipped':>7}  {'position':>19}  {'velocity':>19}  {'reward':>19}  {'ends':>5}",
    ]
    for r in report.settings:
        errors = "  ".join(_error(e) for e in (r.position, r.velocity, r.reward))
        lines.append(f"{r.physics:<8}  {r.rows:>7}  {r.skipped:>7}  {errors}  {r.ends:>5}")
    lines.append("skipped: states that cannot be had back; ends: rows that only log or simulator calls terminated")
    if len(report.settings) > 1:
        lines.append(f"nearest: {report.nearest.physics}")
    return "\n".join(lines)


def _error(error: Any) -> str:
    return f"{'-':>19}" if error is None else f"{error.median:9.1e} ({error.high:.1e})".rjust(19)
