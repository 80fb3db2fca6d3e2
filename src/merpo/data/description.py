"""`merpo.json`: what is known of a stored set, with a hash of itself so that no damage goes unnoticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from merpo.data.types import Bounds, SetInfo, TaskData
from merpo.errors import DataError, StorageError

FORMAT, FORMAT_VERSION = "merpo-dataset", 1


@dataclass(frozen=True)
class TaskEntry:
    """What the description says of one task."""

    name: str
    split: str
    folder: str
    """The last part of its Minari id, and its folder in the set's."""
    rows: int
    episodes: int
    sha256: str
    """Of its HDF5 file."""
    parameters: Mapping[str, Any]
    reference: Mapping[str, float]


@dataclass(frozen=True)
class Description:
    """The content of `merpo.json`."""

    info: SetInfo
    tasks: tuple[TaskEntry, ...]
    flat_sha256: str


def entry(task: TaskData, folder: str, sha256: str) -> TaskEntry:
    """The description of one task; `DataError` when its parameters or references are not plain numbers."""
    parameters = {str(k): _plain(v, f"parameters[{k!r}]", task.name, 1) for k, v in task.parameters.items()}
    reference = {str(k): _plain(v, f"reference[{k!r}]", task.name, 0) for k, v in task.reference.items()}
    return TaskEntry(task.name, task.split, folder, len(task), task.episodes, sha256, parameters, reference)


def render(content: Description) -> str:
    """The text of `merpo.json`."""
    payload = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(content)}
    for bound in payload["info"]["healthy"]:  # JSON has no infinities
        bound.update({k: str(v) for k, v in bound.items() if not np.isfinite(v)})
    try:
        payload = json.loads(json.dumps(payload, allow_nan=False, default=_scalar))
    except (TypeError, ValueError) as error:
        raise DataError(f"info={content.info!r}: {error}; expected plain finite numbers and text.") from error
    return json.dumps({**payload, "sha256": _digest(payload)}, indent=1, sort_keys=True) + "\n"


def parse(content: bytes, where: str) -> Description:
    """The inverse of `render`; `StorageError`, naming the file as `where`, for anything else."""
    again = "Restore it from a copy, or generate the data set again."
    try:
        payload = json.loads(content.decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested or long beyond reason
        raise StorageError(f"{where} is not valid JSON ({error}). {again}") from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise StorageError(f"{where} has no format {FORMAT!r}: it was not written by merpo, or is damaged. {again}")
    if payload.get("format_version") != FORMAT_VERSION:
        raise StorageError(
            f"{where} has format_version={payload.get('format_version')!r}, expected {FORMAT_VERSION}: update"
            f" merpo, or {again}"
        )
    stated = payload.pop("sha256", None)
    try:
        sound = stated == _digest(payload)
    except (ValueError, RecursionError):
        sound = False
    if not sound:
        raise StorageError(
            f"{where}: its content does not match its own SHA-256; it is damaged or was edited. {again} To"
            " change a set, load it, change it in Python, and save it with overwrite=True."
        )
    try:
        tasks = tuple(TaskEntry(**t) for t in payload["tasks"])
        return Description(_info(payload["info"]), tasks, payload["flat_sha256"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{where} lacks or has unknown fields ({error}): update merpo. {again}") from error


def _info(content: dict[str, Any]) -> SetInfo:
    known = {f.name for f in fields(SetInfo)}
    if unknown := sorted(content.keys() - known):
        raise ValueError(f"unknown fields {unknown} of info")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    values["healthy"] = tuple(
        Bounds(int(b["index"]), float(b["low"]), float(b["high"])) for b in content.get("healthy", ())
    )
    values["versions"] = tuple((str(p), str(v)) for p, v in content.get("versions", ()))
    return SetInfo(**values)


def _scalar(value: Any) -> Any:
    """NumPy's scalars as Python's, for json."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be stored")


def _digest(payload: dict[str, Any]) -> str:
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any, name: str, task: str, most_axes: int) -> Any:
    """A finite number as a float, or a flat sequence of such as a list of floats."""
    try:
        array = np.asarray(value)
        number = np.issubdtype(array.dtype, np.number) and np.isrealobj(array)
        if number and array.ndim <= most_axes and np.isfinite(array).all():
            return array.astype(np.float64).tolist()
    except ValueError:
        pass
    raise DataError(
        f"task {task!r}: {name}={value!r}, expected a finite number"
        f"{' or a flat list of finite numbers. Convert it with x.ravel().tolist()' if most_axes else ''}."
    )
