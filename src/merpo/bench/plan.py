"""The cells of a study and the learning that they share, each known by a hash of all that its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from merpo import api
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.presets import default_config
from merpo.algorithms.rivals import adapt as single
from merpo.algorithms.rivals import contextual
from merpo.bench.study import WITH_META, Study, Variant
from merpo.data import SetInfo, TaskData, TaskSet
from merpo.evaluation import task_id
from merpo.runs import fingerprint, to_json
from merpo.tasks import get_family

HEX = 32
"""Digits of a hash in file names: 128 bits."""


@dataclass(frozen=True)
class Logs:
    """Which logs: the first tasks of one split of a generated set, the first episodes of each."""

    family: str
    quality: str
    episodes: int
    """Logged per task."""
    seed: int
    split: str
    tasks: int | None
    """None for all of the split."""
    kept: int | None = None
    """Episodes of each that are used; None for all."""
    outside: bool = False
    """Whether `split` is that of `Family.outside` in place of the family's own."""

    def load(self) -> TaskSet:
        """The logs; generated and stored where they are not yet."""
        whole = _stored(self.family, self.quality, self.episodes, self.seed)
        tasks = [t for t in whole if t.split == self.split]
        if self.outside:
            train, test = get_family(self.family).outside()
            ids = train if self.split == "train" else test
            tasks = [replace(t, split=self.split) for t in whole if task_id(t.name) in ids]
        tasks = tasks[: self.tasks]
        if self.kept is not None:
            tasks = [t.select(range(min(self.kept, t.episodes))) for t in tasks]
        return replace(whole, tasks=tuple(tasks))

    @property
    def hash(self) -> str:
        """Of their content."""
        return _content_hash(self)


@lru_cache(maxsize=2)
def _stored(family: str, quality: str, episodes: int, seed: int) -> TaskSet:
    return api.load(f"{family}/{quality}", episodes=episodes, seed=seed)


@cache
def _content_hash(logs: Logs) -> str:
    data = logs.load()
    return data_hash(data.info, list(data))


@cache
def _defaults(logs: Logs) -> MerPOConfig:
    """MerPO's settings for these training logs."""
    data = logs.load()
    return default_config(data.info, data.tasks)


def data_hash(info: SetInfo, tasks: list[TaskData]) -> str:
    """SHA-256 of all that learning and scoring read of logs; not of the packages that produced them."""
    content = {
        "info": to_json(replace(info, versions=())),
        "tasks": [t.name for t in tasks],
        "reference": [dict(t.reference) for t in tasks],
        "rows": fingerprint([(t.transitions, t.episode_start) for t in tasks]),
    }
    return _hash(content)


@lru_cache(maxsize=1)
def code_version() -> str:
    """The package's version, and a hash over the bytes of all its Python files."""
    total = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{metadata.version('merpo')}+{total.hexdigest()[:HEX]}"


@dataclass(frozen=True)
class Fit:
    """One meta-training, which several cells may share."""

    learner: str
    """`merpo`, or a context learner."""
    config: Any
    """A `MerPOConfig`, or that of the context learner."""
    logs: Logs
    """Of the training tasks."""
    seed: int

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that its outcome depends on."""
        known = {"learner": self.learner, "config": to_json(self.config), "seed": self.seed}
        return {**known, "data": self.logs.hash, "code": code_version()}

    @cached_property
    def hash(self) -> str:
        """What it is known by."""
        return _hash(self.identity)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.logs.family}/{self.logs.quality}  learning {self.learner}, seed {self.seed}"


@dataclass(frozen=True)
class Cell:
    """One method on one family and quality with one seed."""

    method: str
    variant: Variant
    config: MerPOConfig
    """MerPO's settings; of a rival with settings of its own, whence its budget comes."""
    own: Any
    """Those of a rival that has its own, else None."""
    train: Logs
    """The training tasks' logs; learners of single tasks have only their units from them."""
    test: Logs
    """The test tasks' logs."""
    starts: int
    seed: int

    @cached_property
    def fit(self) -> Fit | None:
        """The meta-training that it needs."""
        if self.method in contextual.CONTEXT:
            return Fit(self.method, self.own, self.train, self.seed)
        return Fit("merpo", self.config, self.train, self.seed) if self.method in WITH_META else None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that its result depends on; stands in the result."""
        return {
            "method": self.method,
            "family": self.test.family,
            "quality": self.test.quality,
            "variant": asdict(self.variant),
            "seed": self.seed,
            "starts": self.starts,
            "config": to_json(self.config),
            "own": None if self.own is None else to_json(self.own),
            "logs": {"train": asdict(self.train), "test": asdict(self.test)},
            "data": {"train": self.train.hash, "test": self.test.hash},
            "code": code_version(),
        }

    @cached_property
    def hash(self) -> str:
        """What it is known by."""
        return _hash(self.identity)

    @property
    def title(self) -> str:
        """For people."""
        size = "" if self.variant.logs is None else f", {self.variant.logs} logged"
        return f"{self.test.family}/{self.test.quality}  {self.variant.label(self.method)}{size}, seed {self.seed}"


@dataclass(frozen=True)
class Series:
    """The cells of one row of a table, one per seed."""

    family: str
    quality: str
    method: str
    variant: Variant
    cells: tuple[Cell, ...]


def make_plan(study: Study) -> list[Series]:
    """Every row of every table, in the study's order."""
    found = []
    for family in study.families:
        for quality in study.qualities:
            for method in study.methods:
                for variant in study.variants(method):
                    known = (family, variant.trained_on or quality, study.episodes, study.data_seed)
                    train = Logs(*known, "train", study.train_tasks, outside=study.outside)
                    has_own = method in single.MODEL_FREE or method in contextual.CONTEXT
                    config = study.config(family, variant.alpha, _defaults(train))
                    own = study.own_config(method, family, _defaults(train)) if has_own else None
                    test = Logs(
                        family, quality, study.episodes, study.data_seed, "test", study.test_tasks, variant.logs,
                        study.outside,
                    )  # fmt: skip
                    cells = (Cell(method, variant, config, own, train, test, study.starts, s) for s in study.seeds)
                    found.append(Series(family, quality, method, variant, tuple(cells)))
    return found


def seedless(unit: Cell | Fit) -> str:
    """The same for pieces of work that differ in nothing but their seed."""
    return type(unit).__name__ + _hash({k: v for k, v in unit.identity.items() if k != "seed"})


def _hash(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HEX]
