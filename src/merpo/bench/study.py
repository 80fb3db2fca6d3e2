"""What a study asks for: the content of its TOML file, checked name by name before anything is run."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from merpo import api, rivals
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.presets import default_config
from merpo.algorithms.rivals import adapt as single
from merpo.algorithms.rivals import contextual
from merpo.errors import ConfigError, StorageError, UnknownNameError, check_count
from merpo.runs import from_json, merged, nested, to_json
from merpo.tasks import QUALITIES, families, get_family
from merpo.tasks.names import known

METHODS = (*api.METHODS[:-2], *rivals.METHODS, *api.METHODS[-2:])
"""What can be compared, in the order of tables."""
WITH_META = ("meta-policy", "combo+meta-model", "rac", "merpo")
"""Methods that start from what MerPO learned on the training tasks."""
WITH_ALPHA = ("meta-policy", "rac", "merpo")
"""Methods that alpha changes."""
ADAPTIVE = "adaptive"
UPDATES = ("train_updates", "adapt_updates", "bc_updates")
TABLES = ("settings", "family_settings")
CONFIGURED = ("merpo", *single.MODEL_FREE, *contextual.CONTEXT)
"""Methods with settings of their own; all others have MerPO's."""


@dataclass(frozen=True)
class Variant:
    """How a cell differs from the others of its method, family, quality and seed."""

    alpha: float | str | None = None
    """The balance, a number or `adaptive`; None for the settings' own."""
    logs: int | None = None
    """Episodes of each test task's log; None for all of them."""
    trained_on: str | None = None
    """Quality of the training tasks' logs; None for that of the test tasks'."""

    def label(self, method: str) -> str:
        """The method and what was varied; the size of the logs has a table of its own."""
        parts = [method]
        if self.alpha is not None:
            parts.append(f"alpha {self.alpha if isinstance(self.alpha, str) else format(self.alpha, 'g')}")
        if self.trained_on is not None:
            parts.append(f"trained on {self.trained_on}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Study:
    """The content of a study file."""

    name: str
    """Names its folder and its section on the page of results."""
    families: tuple[str, ...]
    qualities: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    about: str = ""
    """The question that it asks, one sentence."""
    episodes: int = 50
    """Logged episodes of every task."""
    data_seed: int = 0
    """Seed of the logs."""
    starts: int = 1
    """Simulated episodes per task and seed, the same for every method."""
    train_tasks: int | None = None
    """How many of the family's training tasks are used, the first ones; all unless given."""
    test_tasks: int | None = None
    """How many of its test tasks, likewise."""
    outside: bool = False
    """Whether the test tasks are those outside the range of the others (`Family.outside`), in place of the family's
    own split."""
    train_updates: int | None = None
    """RAC updates of every training task, in place of the default for the data."""
    adapt_updates: int | None = None
    """RAC updates of every test task, likewise."""
    bc_updates: int | None = None
    """Gradient steps of behaviour cloning, likewise."""
    alpha: tuple[float | str, ...] = ()
    """Balances to compare, numbers or `adaptive`; empty for the settings' own."""
    logs: tuple[int, ...] = ()
    """Sizes of the test tasks' logs to compare, in episodes; empty for all episodes."""
    trained_on: tuple[str, ...] = ()
    """Qualities of the training tasks' logs to compare; empty for that of the test tasks'."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Method -> settings in place of its defaults."""
    family_settings: Mapping[str, Any] = field(default_factory=dict)
    """Family -> method -> settings in place of those."""

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise ConfigError(f"name={self.name!r}: expected letters, digits, dashes: it names a folder.")
        kinds = {"families": families(), "qualities": QUALITIES, "methods": METHODS, "trained_on": QUALITIES}
        for name, names in kinds.items():
            for value in getattr(self, name):
                _known(name, value, names)
        for name in ("families", "qualities", "methods", "seeds"):
            if not getattr(self, name):
                raise ConfigError(f"{name}=[]: expected at least one entry.")
        for name in ("families", "qualities", "methods", "seeds", "alpha", "logs", "trained_on"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ConfigError(f"{name}={list(values)}: expected each entry only once.")
        for seed in self.seeds:
            check_count("seeds", seed, least=0)
        check_count("data_seed", self.data_seed, least=0)
        for name in ("episodes", "starts", "train_tasks", "test_tasks", *UPDATES):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        for value in self.alpha:
            if value != ADAPTIVE and not (isinstance(value, float) and 0.0 <= value <= 1.0):
                raise ConfigError(f"alpha={value!r}: expected numbers in [0, 1] or {ADAPTIVE!r}.")
        for size in self.logs:
            if not 1 <= size <= self.episodes:
                raise ConfigError(f"logs={size}: expected between 1 and episodes={self.episodes}, what is logged.")

        if self.outside:
            for family in self.families:
                get_family(family).outside()

    def config(self, family: str, alpha: float | str | None = None, base: MerPOConfig | None = None) -> MerPOConfig:
        """MerPO's settings: those of the study in the place of `base`, the defaults for the logs at hand (without any,
        those of the family's size). ConfigError names the setting that does not fit."""
        base = base or default_config(get_family(family).info("medium", 0))
        changes = {name: getattr(self, name) for name in UPDATES if getattr(self, name) is not None}
        config = self._with_tables(base, "merpo", family, changes)
        if alpha is None:
            return config
        if isinstance(alpha, str):
            return replace(config, rac=replace(config.rac, alpha_mode="adaptive"))
        return replace(config, rac=replace(config.rac, alpha=alpha, alpha_mode="fixed"))

    def own_config(self, method: str, family: str, base: MerPOConfig | None = None) -> Any:
        """The settings of a rival that has its own, with MerPO's budget. ConfigError as above."""
        whole = self.config(family, base=base)
        budgeted = single.budgeted if method in single.MODEL_FREE else contextual.budgeted
        return self._with_tables(budgeted(method, whole), method, family)

    def _with_tables(self, config: Any, method: str, family: str, changes: Mapping[str, Any] | None = None) -> Any:
        content = merged(to_json(config), changes or {})
        for table in (self.settings, self.family_settings.get(family, {})):
            content = merged(content, table.get(method, {}))
        try:
            return from_json(type(config), content)
        except ConfigError as error:
            raise ConfigError(f"settings of {method} for {family}: {error}") from error

    def variants(self, method: str) -> list[Variant]:
        """What is varied of this method; only that which changes it."""
        learns = method in WITH_META or method in contextual.CONTEXT
        alphas = self.alpha if method in WITH_ALPHA and self.alpha else (None,)
        sources = self.trained_on if learns and method != "rac" and self.trained_on else (None,)
        return [Variant(a, n, t) for n in self.logs or (None,) for t in sources for a in alphas]

    def to_json(self) -> dict[str, Any]:
        """The study as plain values."""
        return json.loads(json.dumps(asdict(self)))


def read_study(path: str | os.PathLike[str]) -> Study:
    """The study in a TOML file. StorageError if it cannot be read; ConfigError naming the key, its value and what was
    expected."""
    try:
        content = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise StorageError(f"study={str(path)!r}: cannot be read ({error.strerror}). Check the path.") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"study={str(path)!r}: not TOML ({error}). Correct the file.") from error
    try:
        return make_study(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def make_study(content: Mapping[str, Any]) -> Study:
    """The study of a table as TOML gives it. Raises ConfigError."""
    study = from_json(Study, {k: v for k, v in content.items() if k not in TABLES})  # it knows no free tables
    settings = _methods(content.get("settings", {}), "settings")
    by_family = _table(content.get("family_settings", {}), "family_settings")
    for family in by_family:
        _known("family_settings", family, study.families)
    found = {f: _methods(t, f"family_settings.{f}") for f, t in by_family.items()}
    study = replace(study, settings=settings, family_settings=found)
    for family in study.families:  # every setting is tried now, not after hours
        for alpha in study.alpha or (None,):
            study.config(family, alpha)
        for method in study.methods:
            if method in CONFIGURED and method != "merpo":
                study.own_config(method, family)
    return study


def _methods(value: Any, where: str) -> dict[str, dict[str, Any]]:
    found = {}
    for method, table in _table(value, where).items():
        _known(where, method, METHODS)
        if method not in CONFIGURED:
            raise ConfigError(f"[{where}.{method}]: {method} has the settings of merpo. Give [{where}.merpo].")
        found[method] = nested(_table(table, f"{where}.{method}"))
    return found


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}={value!r}: expected a table, [{where}].")
    return value


def _known(key: str, value: Any, names: Sequence[str]) -> None:
    try:
        known(key, value, names)
    except UnknownNameError as error:
        raise ConfigError(str(error)) from error
