"""What a run folder holds beside configuration, metrics and checkpoint: which data, which policies, how long.

run.json                        the data set, the seeds, seconds per stage, what was adapted to what
policies/<method>.safetensors   policies for the test tasks (`merpo.PolicySet`)
curves/<stage>.safetensors      learning curves [round, seed, task] by metric; <stage>.jsonl their means
results.json, results.md        returns of every method, and the table of them
*.png                           figures
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merpo.commands.variants import recorded
from merpo.errors import ConfigError, DataError, StorageError
from merpo.files import storage_error
from merpo.runs import from_json, read_config, write_atomic

if TYPE_CHECKING:
    import merpo
    from merpo.data import TaskSet

RECORD = "run.json"
FORMAT, FORMAT_VERSION = "merpo-run-record", 1
ADAPTED = ("meta-policy", "bc", "iql", "td3+bc", "combo", "combo+meta-model", "rac", "merpo")
"""What a run of MerPO can be adapted by, in the order of tables (`merpo.api.METHODS`, known before JAX is loaded)."""
CONTEXT = ("pearl", "cbcq", "mbml", "focal", "csro", "unicorn")
"""Context learners, which have runs of their own (`merpo.rivals.METHODS`)."""
METHODS = (*ADAPTED[:6], *CONTEXT, *ADAPTED[6:])
"""All of them."""
DEFAULT_METHODS = ("meta-policy", "bc", "rac", "merpo")
"""What is adapted unless one says otherwise."""


@dataclass(frozen=True)
class DataRef:
    """A data set as it can be loaded again with `merpo.load(name, episodes=episodes, seed=seed)`."""

    name: str
    """`family/quality`, or the name of a stored set."""
    episodes: int
    """Episodes per task, where the set is generated."""
    seed: int
    """Seed of collection, where the set is generated."""


@dataclass(frozen=True)
class RunRecord:
    """The content of `run.json`."""

    data: DataRef
    """What the run was trained on."""
    seeds: tuple[int, ...]
    train_tasks: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time by stage: `train`, `adapt <method>`, `evaluate`."""
    adapted: Mapping[str, Any] = field(default_factory=dict)
    """`data` (as above), `episodes` (first episodes of each log used, or null for all), `tasks`, `methods`, the
    settings of those that are `variants`, and `own_models`: tasks whose model is not phi_m's (`NewTasks.unlike`)."""
    method: str = "merpo"
    """What was trained: `merpo`, or one of `CONTEXT`."""

    def save(self, folder: Path) -> None:
        """Write `run.json`, whole or not at all."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        write_atomic(folder / RECORD, json.dumps(content, indent=2) + "\n")

    def timed(self, stage: str, seconds: float) -> RunRecord:
        """The record with the time of a stage set."""
        return replace(self, seconds={**self.seconds, stage: round(seconds, 3)})


def read_record(folder: Path) -> RunRecord:
    """The record of a run. StorageError for a folder that `merpo train` did not write or did not finish."""
    path = folder / RECORD
    if not path.exists():
        raise StorageError(
            f"{str(folder)!r}: no finished run there (no {RECORD}). Give the folder that `merpo train --out` wrote,"
            " or train again with --overwrite."
        )
    try:
        content = json.loads(path.read_bytes())
        if content.pop("format") != FORMAT or content.pop("format_version") != FORMAT_VERSION:
            raise KeyError("format")
        data, seeds = from_json(DataRef, content.pop("data")), tuple(content.pop("seeds"))
        record = RunRecord(data=data, seeds=seeds, **content)
        _check(record)
        return record
    except OSError as error:
        raise storage_error(error, path, "read") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError(f"{str(path)!r} is not a record that merpo wrote ({error}). Train again.") from error


def _check(record: RunRecord) -> None:
    """ValueError for entries of another type than `RunRecord` names."""
    seconds, adapted = record.seconds, record.adapted
    if record.method not in ("merpo", *CONTEXT):
        raise ValueError(f"method={record.method!r}: expected merpo or any of {', '.join(CONTEXT)}")
    if not all(type(s) is int for s in (*record.seeds, record.train_tasks)):
        raise ValueError("seeds and train_tasks: expected whole numbers")
    if not isinstance(seconds, dict) or not all(type(v) in (int, float) for v in seconds.values()):
        raise ValueError("seconds: expected a table of numbers")
    if not isinstance(adapted, dict):
        raise ValueError("adapted: expected a table")
    for name in ("tasks", "methods", "own_models"):
        listed = adapted.get(name, [])
        if not isinstance(listed, list) or not all(isinstance(v, str) for v in listed):
            raise ValueError(f"adapted.{name}: expected a list of names")
    recorded(adapted.get("variants", {}))
    if adapted:
        from_json(DataRef, adapted.get("data"))
        if type(adapted.get("episodes")) not in (int, type(None)):
            raise ValueError("adapted.episodes: expected a whole number or null")


def run_config(folder: Path) -> Any:
    """The settings that a run was trained with: a `MerPOConfig`, or those of a context learner."""
    from merpo.algorithms.merpo_config import MerPOConfig
    from merpo.algorithms.rivals.contextual import CONFIGS

    return read_config(folder, MerPOConfig, *CONFIGS)


def load_learned(folder: Path, method: str) -> merpo.Meta | merpo.rivals.ContextMeta:
    """What a run has learned."""
    import merpo

    kind = merpo.Meta if method == "merpo" else merpo.rivals.ContextMeta
    return kind.load(folder / "checkpoint.safetensors", run_config(folder))


def load_data(ref: DataRef) -> TaskSet:
    """The data set; generated and stored if it is not there yet."""
    import merpo

    return merpo.load(ref.name, episodes=ref.episodes, seed=ref.seed)


def pick_tasks(data: TaskSet, names: Sequence[str] = (), episodes: int | None = None) -> TaskSet:
    """The test tasks (or those named), with only the first `episodes` episodes of each log."""
    known = {t.name: t for t in data.test}
    if not known:
        raise DataError(f"data: {data.info.family}/{data.info.quality} has no test task to adapt to.")
    if unknown := [n for n in names if n not in known]:
        raise ConfigError(f"tasks={unknown[0]!r}: expected names of test tasks: {', '.join(known)}.")
    if episodes is not None and episodes < 1:
        raise ConfigError(f"episodes={episodes}: expected at least one episode of each test task's log.")
    chosen = [known[n] for n in names] if names else list(known.values())
    if episodes is not None:
        chosen = [t.select(range(min(episodes, t.episodes))) for t in chosen]
    return replace(data, tasks=tuple(chosen))


def save_curves(folder: Path, stage: str, curves: Mapping[str, np.ndarray], every: int | None = None) -> None:
    """Learning curves [round, seed, task] as safetensors; with `every`, the updates of a round, also their means line
    by line as JSON."""
    from safetensors.numpy import save

    make_folder(folder / "curves")
    arrays = {name: np.ascontiguousarray(a, np.float32) for name, a in curves.items()}
    write_atomic(folder / "curves" / f"{stage}.safetensors", save(arrays))
    if every is None:
        return
    rounds = len(next(iter(arrays.values())))
    rows = [{"step": (i + 1) * every, **{n: _json(a[i].mean()) for n, a in arrays.items()}} for i in range(rounds)]
    write_atomic(folder / "curves" / f"{stage}.jsonl", "".join(json.dumps(r, allow_nan=False) + "\n" for r in rows))


def make_folder(path: Path) -> None:
    """Make a folder with its parents. StorageError where that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path, "make the folder") from error


def _json(x: Any) -> float | str:
    number = float(x)
    return number if np.isfinite(number) else str(number)
