"""`merpo theory`: the improvement theorem on random finite MDPs, exactly."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from merpo.commands.session import Stopwatch, emphasise, say
from merpo.commands.stages import Stages
from merpo.errors import ConfigError


@dataclass(frozen=True)
class Theory:
    """Check the improvement theorem on random finite MDPs and map where it holds (less than two minutes)."""

    out: Path
    """JSON file of the numbers; the figure is written beside it, with the ending .png."""
    seed: int = 0
    """Seed of all MDPs, logs and settings."""
    mdps: int = 1500
    """Random tasks, each tried with every alpha."""


def run_theory(options: Theory) -> None:
    """Run the command."""
    from merpo.guarantee import SweepConfig, summarise, sweep
    from merpo.report.theory import theory_figure
    from merpo.runs import versions, write_atomic

    if options.out.suffix != ".json":
        raise ConfigError(f"out={str(options.out)!r}: expected a file name ending in .json.")
    config = SweepConfig(mdps=options.mdps, seed=options.seed)
    watch = Stopwatch()
    with watch.stage("sweep"), Stages() as bars:
        columns = sweep(config, lambda done, total: bars.report("random MDPs", done, total, {}))
    summary = summarise(columns)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "format": "merpo-theory",
        **{name: summary[name] for name in summary if name not in ("by", "map")},
        "config": asdict(config),
        "seconds": round(watch.seconds["sweep"], 1),
        "versions": versions(),
        "by": summary["by"],
        "map": summary["map"],
    }
    write_atomic(options.out, json.dumps(record, indent=1, allow_nan=False) + "\n")
    picture = options.out.with_suffix(".png")
    theory_figure(summary, picture)
    for line in sentences(summary):
        say(line)
    emphasise(
        f"{summary['violations']} violations in {summary['instances']} instances where the conditions hold"
        f" ({watch.seconds['sweep']:.0f} s)."
    )
    say(f"Numbers: {options.out}  Figure: {picture}")


def sentences(summary: dict) -> list[str]:
    """What the sweep found, for people."""

    def per_cent(name: str) -> str:
        share = summary[name]
        return "never counted" if share is None else f"{100 * share:.1f} %"

    return [
        f"{summary['instances_tried']} instances on {summary['mdps']} random MDPs; the conditions hold in"
        f" {per_cent('conditions')} of them, alpha's interval alone in {per_cent('interval')}.",
        f"In the learned model (J_f) the policy beats both anchors in {per_cent('conclusion_with')} where they hold,"
        f" {per_cent('conclusion_without')} where they do not.",
        f"In the true task it does in {per_cent('true_conclusion_with')} and {per_cent('true_conclusion_without')}: the"
        f" model's error is smaller than the proven gain in {per_cent('bound_exceeds_model_error')} of the instances"
        f" with the conditions, and there in {per_cent('true_conclusion_when_it_does')}.",
        f"Largest duality gap of a maximiser: {summary['largest_duality_gap']:.1e} of return; inequalities broken"
        f" anywhere: {summary['inequalities_broken_anywhere']}.",
    ]
