"""The header of a stored meta-policy, context learner or policy set, checked before anything is built from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.rivals.contextual import CONFIGS, CONTEXT
from merpo.algorithms.rivals.policies import check_description
from merpo.data import LogSummary, SetInfo
from merpo.errors import ConfigError, DataError, StorageError
from merpo.guarantee.certificate import Certificate
from merpo.runs import from_json, read_meta

META_KIND, LEARNER_KIND, POLICY_KIND = "merpo-meta", "merpo-context-learner", "merpo-policies"
KINDS: dict[str, tuple[type[Any], ...]] = {
    META_KIND: (MerPOConfig,),
    LEARNER_KIND: CONFIGS,
    POLICY_KIND: (MerPOConfig, *CONFIGS),
}
"""Whose settings a checkpoint of each kind may hold."""
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Head:
    """The header; `method` of context learners and policy sets, what follows it of policy sets only."""

    config: Any
    """A `MerPOConfig`, or that of a context learner."""
    info: SetInfo
    seeds: tuple[int, ...]
    method: str = ""
    tasks: tuple[str, ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)
    """What `merpo.algorithms.rivals.policies.skeleton` builds the policies from."""
    certificates: tuple[tuple[Certificate, ...], ...] | None = None
    insisted: bool = True
    """Whether no clone stands in for a policy that was not certified; where the file does not say so, export asks."""
    logs: tuple[LogSummary, ...] | None = None
    cloned: tuple[tuple[bool, ...], ...] | None = None
    """Where the clone of the behaviour took the adapted policy's place, by seed and task."""


def read_head(path: str | os.PathLike[str], kind: str) -> Head:
    """The header of a checkpoint of this kind. StorageError for a damaged, foreign or other file."""
    meta = read_meta(Path(path))
    if meta.get("kind") != kind:
        raise StorageError(
            f"{path}: a checkpoint of kind {meta.get('kind')!r}, expected {kind!r}. Give the other file of the run."
        )
    try:
        return _checked(meta, kind)
    except (ConfigError, DataError) as error:
        raise StorageError(f"{path}: not a checkpoint that merpo wrote: {error}") from error


def _checked(meta: Mapping[str, Any], kind: str) -> Head:
    found = [c for c in KINDS[kind] if c.__name__ == meta.get("config_type")]
    if not found:
        raise ConfigError(
            f"config_type={meta.get('config_type')!r}: expected one of {[c.__name__ for c in KINDS[kind]]}."
        )
    config, info = from_json(found[0], meta.get("config")), from_json(SetInfo, meta.get("info"))
    for name in ("obs_dim", "act_dim"):
        if not 1 <= getattr(info, name) <= LARGEST:
            raise ConfigError(f"info.{name}={getattr(info, name)}: expected a whole number >= 1.")
    if not 0.0 <= info.gamma < 1.0:
        raise ConfigError(f"info.gamma={info.gamma}: expected a discount in [0, 1).")
    seeds = _list(meta, "seeds", int)
    if kind == META_KIND:
        return Head(config, info, seeds)
    method, network = meta.get("method"), meta.get("network")
    if not isinstance(method, str):
        raise ConfigError(f"method={method!r}: expected a name.")
    if kind == LEARNER_KIND:
        if method not in CONTEXT or CONTEXT[method][1] is not found[0]:
            raise ConfigError(f"method={method!r}: a {found[0].__name__} does not belong to it.")
        return Head(config, info, seeds, method)
    if network is None:
        raise ConfigError("network is missing: written by an earlier version. Adapt again.")
    check_description(network)
    tasks = _list(meta, "tasks", str)
    insisted, logs = meta.get("insisted", True), meta.get("logs")
    if not isinstance(insisted, bool):
        raise ConfigError(f"insisted={insisted!r}: expected true or false.")
    if logs is not None and not (isinstance(logs, list) and len(logs) == len(tasks)):
        raise ConfigError("logs: expected the figures of one log for each of the tasks.")
    read = tuple(LogSummary.from_json(x) for x in logs) if logs else None
    rows = _each(meta, "certificates", dict, len(seeds), len(tasks))
    made = rows and tuple(tuple(Certificate.from_json(c) for c in row) for row in rows)
    cloned = _each(meta, "cloned", bool, len(seeds), len(tasks))
    return Head(config, info, seeds, method, tasks, network, made, insisted, read, cloned)


def _each(meta: Mapping[str, Any], name: str, kind: type, seeds: int, tasks: int) -> tuple[tuple[Any, ...], ...] | None:
    """One value for each of the seeds and tasks, or None where there are none."""
    rows = meta.get(name)
    if rows is None:
        return None
    shaped = isinstance(rows, list) and [len(r) if isinstance(r, list) else -1 for r in rows]
    if shaped != [tasks] * seeds or not all(isinstance(c, kind) for row in rows for c in row):
        raise ConfigError(f"{name}: expected one for each of the seeds and tasks.")
    return tuple(tuple(row) for row in rows)


def _list(meta: Mapping[str, Any], name: str, kind: type) -> tuple[Any, ...]:
    values = meta.get(name)
    if not isinstance(values, list) or not values or any(type(v) is not kind for v in values):
        raise ConfigError(f"{name}={values!r}: expected a list of {kind.__name__}, not empty.")
    if len(set(values)) < len(values):
        raise ConfigError(f"{name}={values!r}: expected each only once.")
    return tuple(values)
