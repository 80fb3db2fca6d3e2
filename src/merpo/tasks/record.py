"""What is kept of a behaviour policy's training: its checkpoints' returns, settings and commands, as plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from merpo.errors import ConfigError
from merpo.tasks.behaviour import reference_episodes, reference_returns, shipped, training_checkpoints
from merpo.tasks.names import get_family
from merpo.tasks.policies import read_json
from merpo.tasks.sac import SACConfig

PUBLISHED: dict[str, dict[str, Any]] = {
    "half-cheetah-fwd-back": {"returns": [2025.0, 1888.0], "text": "2025 +- 48 backward and 1888 +- 68 forward"},
    "half-cheetah-vel": {"returns": [-21.0], "text": "about -21 on average"},
    "ant-fwd-back": {"returns": [895.0, 671.0], "text": "895 +- 108 and 671 +- 99"},
}
"""Published returns of expert policies, where the field has any at 200 steps."""
DEFAULT_EVERY = 20_000
"""Interval of the checkpoints of runs that did not yet write it down."""


def training_record(run_dir: str | Path, updates: Sequence[int] = ()) -> dict[str, Any]:
    """The record of a training run whose selected checkpoints ship with the package, without versions.

    `run_dir` is what `train_behaviour` wrote; or what `select_checkpoints` wrote, if nothing else was kept: then
    only the selected checkpoints are in the record (`whole` is False). `updates` are those asked for in each leg
    (a first run and what resumed it), needed where the checkpoints do not say.

    Raises StorageError without checkpoints or where others ship, ConfigError for another number of legs.
    """
    folder = Path(run_dir)
    whole = not (folder / "index.json").exists()
    index = {} if whole else read_json(folder / "index.json")
    rows = training_checkpoints(folder) if whole else [index | c for c in index["checkpoints"]]
    first, last = rows[0], rows[-1]
    family = get_family(first["family"])
    kept = shipped(family.name)
    place = {row["updates"]: i for i, row in enumerate(kept.checkpoints)}
    held = {row["updates"]: row["returns"] for row in rows}
    if any(held.get(row["updates"]) != row["returns"] for row in kept.checkpoints):
        raise ConfigError(
            f"run_dir={str(run_dir)!r}: expected the run that the shipped checkpoints of {family.name!r} come from,"
            " this one has other returns. Select its checkpoints first (merpo behaviour select)."
        )
    qualities = {q: {c for per_task in chosen for c in per_task} for q, chosen in kept.qualities.items()}
    random, expert = reference_returns(family)
    default = asdict(SACConfig())
    return {
        "format": "merpo-behaviour-record",
        "format_version": 1,
        "family": family.name,
        "version": family.version,
        "train_tasks": list(family.train_ids),
        "test_tasks": list(family.test_ids),
        "seed": first["seed"],
        "legs": _legs(rows, updates),
        "every": last.get("every", DEFAULT_EVERY),
        "config": first["config"],
        # through JSON's eyes, which knows no tuples
        "changed": {k: v for k, v in first["config"].items() if v != _listed(default.get(k))},
        "seconds": last.get("seconds"),
        "whole": whole,
        "checkpoints": [
            {k: row[k] for k in ("updates", "env_steps", "mean_return", "returns")}
            | {"qualities": [q for q, used in qualities.items() if place.get(row["updates"]) in used]}
            for row in rows
        ],
        "fresh_starts": reference_episodes(family),
        "random": list(random),
        "expert": list(expert or ()),
        "published": PUBLISHED.get(family.name),
    }


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _legs(rows: list[dict[str, Any]], updates: Sequence[int]) -> list[dict[str, Any]]:
    """One entry per command that was needed: updates asked for in all, and those it started from."""
    starts = sorted({int(row.get("resumed_at", 0)) for row in rows})
    asked = [next((r["asked"] for r in rows if r.get("resumed_at") == s and "asked" in r), None) for s in starts]
    if updates or None in asked:
        if len(updates) != len(starts):
            raise ConfigError(
                f"updates={list(updates)!r}: expected {len(starts)} numbers, the updates asked for in each run from"
                f" {', '.join(map(str, starts))} on. Give them as in merpo behaviour train --updates."
            )
        asked = list(updates)
    return [{"from": s, "updates": u} for s, u in zip(starts, asked, strict=True)]
