"""A run's folder: configuration, versions, an append-only metrics log, a checkpoint; one process at a time.

config.json            the configuration, its class name and hash
versions.json          what the run was made with (see `versions`)
metrics.jsonl          one JSON object per line: {"step": 100, "loss": 0.5, ...}
checkpoint.safetensors the result (see `merpo.runs.checkpoint`)
resume/                the state of work that is not finished yet (see `merpo.runs.state`)
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import jax

from merpo import precision
from merpo.errors import ConfigError, StorageError
from merpo.files import storage_error, write_atomic
from merpo.runs.checkpoint import load_checkpoint, save_checkpoint
from merpo.runs.config import config_hash, diff, from_json, to_json
from merpo.runs.lock import LOCK, sweep, take_lock

T = TypeVar("T")
FORMAT = "merpo-run"
FORMAT_VERSION = 1
CONFIG, VERSIONS, METRICS, CHECKPOINT, STATE = (
    "config.json",
    "versions.json",
    "metrics.jsonl",
    "checkpoint.safetensors",
    "resume",
)


def versions() -> dict[str, Any]:
    """Python, packages, platform, CPU count, JAX backend and matmul precision of this process."""
    packages = {name: _package(name) for name in ("merpo", "jax", "jaxlib", "equinox", "optax", "numpy")}
    return {
        "python": platform.python_version(),
        **packages,
        "platform": platform.platform(),
        "cpu_count": os.cpu_count() or 1,
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "matmul_precision": precision.described(),
    }


def read_config(path: str | os.PathLike[str], cls: type[T], *others: type[Any]) -> T:
    """The configuration that a run folder was made with, as a `cls` or one of `others`.

    Raises `StorageError` when there is no run at `path`, `ConfigError` when it is of another class.
    """
    record = _read_record(Path(path))
    for kind in (cls, *others):
        if record["config_type"] == kind.__name__:
            return from_json(kind, record["config"])
    raise ConfigError(f"{str(path)!r} holds a {record['config_type']}, expected a {cls.__name__}.")


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, int | float]]:
    """The logged metrics of a run folder (or of a `metrics.jsonl`), oldest first.

    A half-written last line, left by a kill, is passed over; any other bad line raises `StorageError`.
    """
    file = Path(path)
    rows, _ = _parse_metrics(file / METRICS if file.is_dir() else file)
    return rows


class RunFolder:
    """A run folder open for writing and locked against other processes; made by `RunFolder.create`.

    Use as a context manager, or call `close` to give the lock back.
    """

    def __init__(self, path: Path, config: Any, lock: int, log: int):
        self.path = path
        self.config = config
        self._lock = lock
        self._log = log

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        config: Any,
        extra_versions: Mapping[str, Any] | None = None,
        existing: Literal["refuse", "overwrite", "resume"] = "refuse",
        discard: Sequence[str] = (),
    ) -> RunFolder:
        """Make the folder (or take it up again) and lock it.

        `existing` says what to do with a run that is already there: `refuse`, `overwrite` (what is listed above is
        removed, and what the patterns `discard` name, nothing else), or `resume` (the configuration must be equal; a
        half-written last line of the metrics is cut off). `extra_versions` is added to `versions()`.
        Raises `StorageError` for a folder that holds something else, is in use, or cannot be written;
        `ConfigError` when the run to resume has another configuration.
        """
        if existing not in ("refuse", "overwrite", "resume"):
            raise ConfigError(f"existing={existing!r}: expected 'refuse', 'overwrite' or 'resume'.")
        folder = Path(path)
        _look(folder, existing)  # before anything is made in a folder that is not ours
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, folder, "make the folder") from error
        lock = take_lock(folder)
        try:
            found = _look(folder, existing)  # again: another process may just have finished
            sweep(folder)
            made_with = {**versions(), **(extra_versions or {})}
            if found and existing == "resume":
                _check_same(folder, config)
                if not (folder / VERSIONS).exists():  # killed between the two
                    _write_versions(folder, made_with)
            else:
                _start(folder, config, made_with, discard)
            log = _open_log(folder / METRICS)
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, config, lock, log)

    @property
    def checkpoint_path(self) -> Path:
        """Where the checkpoint is, or will be."""
        return self.path / CHECKPOINT

    @property
    def state_path(self) -> Path:
        """Folder for the state of unfinished work."""
        return self.path / STATE

    def log(self, step: int, **figures: Any) -> None:
        """Append one line of figures (numbers or 0-d arrays) to the metrics; a kill cannot lose it then.

        Raises `StorageError` when it cannot be written; the log then ends with the last whole line.
        """
        row: dict[str, Any] = {"step": int(step)}
        for name, value in figures.items():
            number = float(value)
            row[name] = number if math.isfinite(number) else str(number)
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        end = os.lseek(self._log, 0, os.SEEK_END)
        try:
            written = os.write(self._log, line)
            if written != len(line):  # a full disk may take part of a line without raising
                written += os.write(self._log, line[written:])
        except OSError as error:
            os.ftruncate(self._log, end)
            raise storage_error(error, self.path / METRICS, "append to") from error

    def metrics(self) -> list[dict[str, int | float]]:
        """What has been logged so far."""
        return read_metrics(self.path)

    def rewind(self, step: int) -> None:
        """Drop metrics logged after `step`: after resuming from a checkpoint they will be logged again."""
        kept = [json.dumps(_encode(row), allow_nan=False) for row in self.metrics() if row["step"] <= step]
        write_atomic(self.path / METRICS, "".join(f"{line}\n" for line in kept))
        os.close(self._log)
        self._log = _open_log(self.path / METRICS)

    def save(self, tree: Any, meta: Mapping[str, Any]) -> None:
        """Replace the checkpoint by `tree`; the run's configuration goes into its meta."""
        save_checkpoint(self.checkpoint_path, tree, meta, self.config)

    def load(self, like: Any) -> tuple[Any, dict[str, Any]]:
        """The checkpoint as `(tree, meta)`, see `load_checkpoint`; it must be of the run's configuration."""
        return load_checkpoint(self.checkpoint_path, like, self.config)

    def has_checkpoint(self) -> bool:
        """Whether a checkpoint has been saved."""
        return self.checkpoint_path.exists()

    def close(self) -> None:
        """Give the lock back; harmless when called twice."""
        for handle in (self._log, self._lock):
            if handle >= 0:
                os.close(handle)
        self._log = self._lock = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _look(folder: Path, existing: str) -> bool:
    """Whether `folder` holds a run; raises if it may not, and for anything else that is not empty."""
    try:
        if not folder.exists():
            return False
        names = sorted(p.name for p in folder.iterdir() if p.name != LOCK and not p.name.endswith(".tmp"))
    except OSError as error:
        raise storage_error(error, folder, "open the folder") from error
    if not names:
        return False
    if CONFIG not in names:
        raise StorageError(
            f"{str(folder)!r} is not a run folder: it holds {', '.join(names[:3])} but no {CONFIG}. "
            "Choose another folder; merpo does not touch this one."
        )
    _read_record(folder)
    if existing == "refuse":
        raise StorageError(f"{str(folder)!r} already holds a run. Choose another folder, or say resume or overwrite.")
    return True


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise storage_error(error, path, "read") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{str(path)!r} is not JSON ({error}): not a run that merpo wrote.") from error
    keys = ("format", "format_version", "config_type", "config_hash", "config")
    if not isinstance(record, dict) or any(k not in record for k in keys) or record["format"] != FORMAT:
        raise StorageError(f"{str(path)!r} is not the {CONFIG} of a merpo run. Choose another folder.")
    if not isinstance(record["config"], dict) or type(record["format_version"]) is not int:
        raise StorageError(f"{str(path)!r} is damaged: it has no table of settings. Choose another folder.")
    if record["format_version"] > FORMAT_VERSION:
        raise StorageError(f"{str(path)!r} has format {record['format_version']}. Update merpo to read it.")
    return record


def _check_same(folder: Path, config: Any) -> None:
    record = _read_record(folder)
    if record["config_hash"] != config_hash(config):
        kind = type(config).__name__
        other = "" if record["config_type"] == kind else f"it is a {record['config_type']}, not a {kind}; "
        lines = ", ".join(diff(record["config"], config)) or "none"
        raise ConfigError(
            f"{str(folder)!r} holds a run with another configuration: {other}settings that differ "
            f"(stored -> given): {lines}. Resume with the stored settings, or choose another folder."
        )


def _start(folder: Path, config: Any, made_with: Mapping[str, Any], discard: Sequence[str]) -> None:
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config_type": type(config).__name__,
        "config_hash": config_hash(config),
        "config": to_json(config),
    }
    try:
        # these go first: an old result must never be found beside a new configuration
        for pattern in (*discard, f"{STATE}/*", CHECKPOINT, METRICS, VERSIONS):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, folder, "overwrite the run in") from error
    write_atomic(folder / CONFIG, json.dumps(record, indent=2, allow_nan=False) + "\n")
    _write_versions(folder, made_with)


def _write_versions(folder: Path, made_with: Mapping[str, Any]) -> None:
    write_atomic(folder / VERSIONS, json.dumps(dict(made_with), indent=2) + "\n")


def _open_log(path: Path) -> int:
    """Open the metrics for appending, cutting off a half-written last line."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise storage_error(error, path, "write") from error
    try:
        _, end = _parse_metrics(path)
        os.ftruncate(handle, end)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _parse_metrics(path: Path) -> tuple[list[dict[str, int | float]], int]:
    """Rows, and the number of bytes up to the end of the last whole line."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise storage_error(error, path, "read") from error
    end = raw.rfind(b"\n") + 1
    rows = []
    for number, line in enumerate(raw[:end].splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({"step": int(row["step"])} | {k: float(v) for k, v in row.items() if k != "step"})
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise StorageError(f"{str(path)!r}, line {number}: {line[:60]!r} is not a line of metrics.") from error
    return rows, end


def _encode(row: Mapping[str, int | float]) -> dict[str, Any]:
    return {k: v if math.isfinite(v) else str(v) for k, v in row.items()}


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
