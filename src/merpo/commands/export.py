"""`merpo export`: one adapted policy of a run as an ONNX or StableHLO file with its policy card."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from merpo.commands.record import METHODS, read_record
from merpo.commands.session import emphasise, say
from merpo.commands.variants import in_order
from merpo.errors import ConfigError, StorageError

if TYPE_CHECKING:
    import merpo


@dataclass(frozen=True)
class Export:
    """Write an adapted policy as a file that runs without merpo (ONNX: without JAX), with a policy card beside it."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Folder of a run that `merpo adapt` has been applied to."""
    out: Path
    """The file to write, e.g. policy.onnx; the card goes to policy.onnx.card.json and .card.md."""
    task: str | None = None
    """Name of the task, as in the results; may be left out where there is only one."""
    seed: int | None = None
    """Training seed; default: the run's first."""
    format: Literal["onnx", "stablehlo"] | None = None
    """Default: what the ending of --out says."""
    method: str = "merpo"
    """Which of the adapted policies."""
    insist: bool = False
    """Export the adapted policy even where it was refused a certificate; else the clone of the logged behaviour."""


def run_export(options: Export) -> None:
    """Run the command."""
    policy = find_policy(options)
    record = read_record(options.run_dir)
    about = {
        "run": {
            "data_set": record.adapted["data"],
            "first_episodes": record.adapted["episodes"],
            "trained_on": {"data_set": record.data.name, "tasks": record.train_tasks, "seeds": list(record.seeds)},
            "trained_with": json.loads((options.run_dir / "versions.json").read_bytes()),
        }
    }
    paths = policy.export(options.out, format=options.format, insist=options.insist, about=about)
    from merpo.deploy.card import sentence

    emphasise(sentence(policy))
    say(f"Policy: {paths[0]}  Card: {paths[1]}, {paths[2].name}")


def find_policy(options: Export) -> merpo.Policy:
    """The policy that was asked for, or the clone in its place if it was refused a certificate."""
    folder, method = options.run_dir, options.method
    policies = _load(folder, method)
    task = options.task
    if task is None:
        if len(policies.tasks) > 1:
            raise ConfigError(f"task is not given: expected one of {', '.join(policies.tasks)}. Name it with --task.")
        task = policies.tasks[0]
    policy = policies.policy(task, options.seed)
    if policy.certificate is None or policy.certificate.certified:
        return policy
    if policy.stands_in:
        if options.insist:
            raise ConfigError(
                f"insist: the run holds the clone in place of {policy.name}, not the adapted policy. To have that, run"
                f" `merpo adapt {folder} --certify --insist` first."
            )
        return policy
    if not options.insist and "bc" in read_record(folder).adapted["methods"]:
        clone = _load(folder, "bc").policy(task, options.seed)
        return replace(clone, name=policy.name, certificate=policy.certificate, stands_in=True)
    return policy  # export refuses it, unless insisted on


def _load(folder: Path, method: str) -> merpo.PolicySet:
    import merpo

    kept = read_record(folder).adapted.get("methods", [])
    if method not in kept:
        there = f"adapted there: {', '.join(in_order(kept, METHODS))}" if kept else "nothing was adapted there"
        raise StorageError(
            f"{str(folder)!r} holds no policies of {method!r}; {there}. Run `merpo adapt {folder} --methods {method}`."
        )
    return merpo.PolicySet.load(folder / "policies" / f"{method}.safetensors")
