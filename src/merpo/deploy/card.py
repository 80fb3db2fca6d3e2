"""The policy card: what an exported policy was learned from, what goes in and out, what is guaranteed and what not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

import numpy as np

from merpo.data import Preparation, SetInfo
from merpo.data.prepare import action_bounds
from merpo.data.summary import LogSummary
from merpo.guarantee.certificate import Certificate
from merpo.runs import config_hash, to_json, versions

CARD_FORMAT, CARD_VERSION = "merpo-policy-card", 1
METHODS = {
    "merpo": "MerPO: adapted from the task's own log, between the policy that logged it and the meta-policy",
    "rac": "RAC: adapted from the task's own log, without the meta-policy",
    "bc": "behaviour cloning: imitates the policy that logged the task",
    "meta-policy": "the meta-policy, before any adaptation to the task",
    "iql": "IQL: learned from the task's own log alone, without a model",
    "td3+bc": "TD3+BC: learned from the task's own log alone, without a model",
    "combo": "COMBO: learned from the task's own log and a model of that log alone",
    "combo+meta-model": "COMBO: learned from the task's own log and the adapted meta-model, without the meta-policy",
    **dict.fromkeys(
        ("pearl", "cbcq", "mbml", "focal", "csro", "unicorn"),
        "a context learner: trained on other tasks, told this one by its log, without a gradient step on it",
    ),
}


@runtime_checkable
class Exportable(Protocol):
    """What export needs of a policy; `merpo.Policy` is one."""

    @property
    def actor(self) -> Any: ...  # noqa: D102

    @property
    def preparation(self) -> Preparation: ...  # noqa: D102

    @property
    def info(self) -> SetInfo: ...  # noqa: D102

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def certificate(self) -> Certificate | None: ...  # noqa: D102

    @property
    def stands_in(self) -> bool: ...  # noqa: D102

    @property
    def seed(self) -> int | None: ...  # noqa: D102

    @property
    def config(self) -> Any: ...  # noqa: D102

    @property
    def log(self) -> LogSummary | None: ...  # noqa: D102

    def __call__(self, observation: np.ndarray) -> np.ndarray: ...  # noqa: D102


def sentence(policy: Exportable) -> str:
    """What is known of the policy's safety, in one sentence."""
    stead = (
        "The adapted policy does worse than the clone of the logged behaviour in the model that it was learned in; this"
        " is the clone in its place. "
    )
    if policy.certificate is None:
        return (stead if policy.stands_in else "") + (
            "No certificate was asked for: nothing is known about whether this policy improves on what runs today."
        )
    if policy.stands_in and policy.certificate.certified:
        return stead + policy.certificate.sentence
    if policy.stands_in:
        return (
            "The adapted policy was refused a certificate; this is the clone of the logged behaviour in its place. "
            + policy.certificate.sentence
        )
    return policy.certificate.sentence


def card(policy: Exportable, about: Mapping[str, Any]) -> dict[str, Any]:
    """The card as plain JSON values; `about` says what the policy itself does not know (the file, the data set)."""
    info, log = policy.info, policy.log
    low, high = action_bounds(info)
    method, _, task = policy.name.partition("/")
    observations = [c for c in log.columns if c.name.startswith("obs")] if log else []
    return {
        "format": CARD_FORMAT,
        "format_version": CARD_VERSION,
        "policy": policy.name,
        "safety": sentence(policy),
        "method": {
            "name": method,
            "description": "behaviour cloning, in place of " + method
            if policy.stands_in
            else METHODS.get(method, method),
            "stands_in": policy.stands_in,
            "seed": policy.seed,
            "config_hash": None if policy.config is None else config_hash(policy.config),
            "config": None if policy.config is None else to_json(policy.config),
        },
        "data": {
            "family": info.family,
            "quality": info.quality,
            "version": info.version,
            "physics": info.physics,
            "task": task or None,
            "log": None if log is None else asdict(log.task),
        },
        "interface": {
            "input": {
                "name": "observation",
                "shape": ["batch", info.obs_dim],
                "dtype": "float32",
                "units": "as logged",
            },
            "output": {"name": "action", "shape": ["batch", info.act_dim], "dtype": "float32", "units": "as logged"},
            "action_low": low.tolist(),
            "action_high": high.tolist(),
            "observations_seen": [[c.low, c.high] for c in observations] or None,
        },
        "certificate": None if policy.certificate is None else policy.certificate.to_json(),
        "limits": _limits(policy),
        "versions": versions(),
        **about,
    }


def _limits(policy: Exportable) -> list[str]:
    granted = policy.certificate is not None and policy.certificate.certified
    found = [
        "Outside the observations seen in its log the policy extrapolates; check the ranges before you act on it.",
        "It expects the columns, units and sampling interval of the log, and finite numbers: it does not check them.",
        "Actions stay within their bounds; nothing else about them is guaranteed (no limit on their rate of change).",
        "It was learned offline and has never been run on the real system by merpo.",
        "Should the system change after the log was taken, neither the policy nor its certificate speaks of it.",
    ]
    if granted:
        assert policy.certificate is not None
        taken = "; ".join(policy.certificate.assumptions)
        found.append(
            f"The certificate speaks of the mean return per episode, not of the worst case, and assumes: {taken}."
        )
    else:
        found.append("An improvement over what logged the data is not guaranteed.")
    return found


def markdown(made: Mapping[str, Any]) -> str:
    """The card for people."""
    method, data, face = made["method"], made["data"], made["interface"]
    log, checked = data["log"], made["checked"]
    rows = [
        ("File", f"`{made['file']}` ({made['format']}), SHA-256 `{made['sha256'][:16]}…`"),
        ("Method", method["description"]),
        ("Seed, settings", f"{method['seed']}, configuration `{(method['config_hash'] or 'unknown')[:16]}`"),
        ("Data", f"{data['family']}, {data['quality']} (version {data['version']}, physics {data['physics']})"),
        ("Task", data["task"] or "unnamed"),
        ("Log", _log_line(log)),
        ("Versions", ", ".join(f"{k} {made['versions'][k]}" for k in ("merpo", "jax", "python"))),
        ("Checked", f"file and policy differ by at most {checked['largest_difference']:.1e} of half the action range"
         f" on {checked['observations']} observations"),
    ]  # fmt: skip
    seen = face["observations_seen"]
    lines = [
        f"# Policy card: {made['policy']}",
        "",
        f"**{made['safety']}**",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {text} |" for name, text in rows),
        "",
        "## What goes in, what comes out",
        "",
        f"`{face['input']['name']}`, float32 [batch, {face['input']['shape'][1]}], raw, as logged:",
        "",
        *_range_table("observation", seen or [["unknown", "unknown"]] * face["input"]["shape"][1], "seen"),
        "",
        f"`{face['output']['name']}`, float32 [batch, {face['output']['shape'][1]}], in the system's units:",
        "",
        *_range_table("action", list(zip(face["action_low"], face["action_high"], strict=True)), "bound"),
        "",
        "## What is not guaranteed",
        "",
        *(f"- {text}" for text in made["limits"]),
        "",
    ]
    return "\n".join(lines)


def _log_line(log: Mapping[str, Any] | None) -> str:
    if log is None:
        return "unknown"
    return (
        f"{log['episodes']} episodes, {log['steps']} steps; mean return {log['return_mean']:.4g}"
        f" ({log['return_min']:.4g} to {log['return_max']:.4g})"
    )


def _range_table(what: str, ranges: Any, kind: str) -> list[str]:
    def text(x: Any) -> str:
        return x if isinstance(x, str) else f"{x:.4g}"

    lines = [f"| {what} | lowest {kind} | highest {kind} |", "|---:|---:|---:|"]
    return [*lines, *(f"| {i} | {text(low)} | {text(high)} |" for i, (low, high) in enumerate(ranges))]
