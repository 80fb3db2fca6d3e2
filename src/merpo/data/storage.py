"""Data sets on disk: one Minari dataset per task, a description beside them, and a flat copy to load from.

    <root>/<namespace>/<name>/
        merpo.json                      SetInfo, tasks, sizes, SHA-256 of every data file and of itself
        flat.npz                        all tasks' arrays one after another; what `load` reads
        task-000-train-v1/data/         a Minari dataset (HDF5): main_data.hdf5, metadata.json
        ...

With `MINARI_DATASETS_PATH=<root>`, `minari.load_dataset("<namespace>/<name>/task-000-train-v1")` reads a
task; so does `minari.MinariDataset(".../task-000-train-v1/data")`. The Minari files are the data, the flat
copy only mirrors them.

A set is written into a hidden sibling folder and appears by one rename, so that a kill or a full disk leaves
the earlier set or none; left-overs (`.tmp-*`) are ignored and cleaned up by the next save in the namespace.
Files are not flushed one by one: what a power cut takes from them, `load` notices by their hashes. The same
task set gives the same bytes in every file. Writers in one namespace wait for each other.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from merpo.data import description, disk
from merpo.data.hdf5 import read_hdf5, spec_json
from merpo.data.types import SetInfo, TaskData, TaskSet, Transitions
from merpo.data.validation import FIELDS, require_structure
from merpo.data.writer import FLAT, HDF5, META, NAMESPACE, SetWriter
from merpo.errors import StorageError
from merpo.files import storage_error, umask

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*/[A-Za-z0-9_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class SetEntry:
    """One line of `list_sets`."""

    name: str
    """`namespace/name`."""
    path: str
    """Its folder."""
    info: SetInfo | None
    """None when the set is damaged."""
    train_tasks: int = 0
    test_tasks: int = 0
    episodes: int = 0
    steps: int = 0
    bytes: int = 0
    """Size of all its files."""
    damage: str | None = None
    """Why the description cannot be read, or None. Data files are only checked by `load`."""


def default_root() -> Path:
    """`$MERPO_DATA_DIR`, else `$XDG_DATA_HOME/merpo/datasets` where that is set, else `~/.merpo/datasets`."""
    if chosen := os.environ.get("MERPO_DATA_DIR"):
        return Path(chosen).expanduser()
    if xdg := os.environ.get("XDG_DATA_HOME"):
        return Path(xdg).expanduser() / "merpo" / "datasets"
    return Path.home() / ".merpo" / "datasets"


def save(
    taskset: TaskSet,
    name: str,
    root: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    env_spec: Any | Mapping[str, Any] | None = None,
) -> Path:
    """Write a task set as `name` (`namespace/name`) below `root`; return its folder.

    `env_spec`: a Gymnasium `EnvSpec` or its JSON, for all tasks or as a mapping from task name to spec;
    stored so that Minari's `recover_environment()` works. Values may be bad (see `check`), but shapes, dtypes
    and episode bounds must be sound.

    Raises `DataError` for an unsound set or spec, `StorageError` when the name is not allowed or taken (and
    not `overwrite`), or the folder cannot be written or the disk is full: then nothing has changed.
    """
    require_structure(taskset)
    specs = {}
    for task in taskset:
        spec = env_spec.get(task.name) if isinstance(env_spec, Mapping) else env_spec
        specs[task.name] = None if spec is None else spec_json(spec, task.name)
    with writing(name, root, overwrite, taskset.info.version) as writer:
        for task in taskset:
            writer.add(task, specs[task.name])
        writer.finish(taskset.info)
    return _folder(name, root)


@contextlib.contextmanager
def writing(
    name: str, root: str | os.PathLike[str] | None = None, overwrite: bool = False, version: int = 0
) -> Iterator[SetWriter]:
    """A `SetWriter` for the set `name`, which appears when the body ends without an error; for sets written task by
    task because they do not fit into memory. Raises as `save` does; other writers in the namespace wait.
    """
    target = _folder(name, root)
    staging = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with disk.locked(target.parent) as alone:
            if alone:
                _clean(target.parent)
            if target.exists() and not overwrite:
                raise StorageError(
                    f"name={name!r}: a data set of that name is already at {target}. Pass overwrite=True"
                    " (--overwrite), or choose another name."
                )
            staging = tempfile.mkdtemp(prefix=f".tmp-new-{target.name}-", dir=target.parent)
            yield SetWriter(Path(staging), name, version)
            # mkdtemp makes folders private; ours follow the user's umask
            os.chmod(staging, 0o777 & ~umask())
            if not (target.parent / NAMESPACE).exists():
                disk.write(target.parent / NAMESPACE, b"{}")
            _swap(Path(staging), target)
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(error, target, f"save the data set {name!r} as") from error
    finally:
        if staging:
            shutil.rmtree(staging, ignore_errors=True)


def load(name: str, root: str | os.PathLike[str] | None = None, verify: bool = True) -> TaskSet:
    """Read the task set `name` below `root`, exactly as it was saved.

    Read from the flat copy; from the Minari files when it is absent or does not match its SHA-256. With
    `verify` the Minari files are hashed as well (about a second per gigabyte), so that any change to a file
    of the set is noticed; without it they are not touched as long as the flat copy is good.

    Raises `StorageError` when the set is missing, damaged, foreign or changed since it was saved.
    """
    folder = find(name, root)
    meta = description.parse(disk.read(folder / META), str(folder / META))
    flat = folder / FLAT
    whole = flat.exists() and disk.sha256_file(flat) == meta.flat_sha256
    if verify and whole:
        for entry in meta.tasks:
            _require_hash(folder / entry.folder / "data" / HDF5, entry.sha256, name, None)
    parts = _read_flat(flat, meta) if whole else (_read_task(folder, e, name) for e in meta.tasks)
    return TaskSet(meta.info, tuple(_task(e, *part) for e, part in zip(meta.tasks, parts, strict=True)))


def load_each(name: str, root: str | os.PathLike[str] | None = None) -> tuple[SetInfo, Iterator[TaskData]]:
    """The set's description, and its tasks one at a time: for sets that do not fit into memory.

    Read from the Minari files, each checked against its SHA-256. Raises as `load`, some of it while iterating.
    """
    folder = find(name, root)
    meta = description.parse(disk.read(folder / META), str(folder / META))
    return meta.info, (_task(entry, *_read_task(folder, entry, name)) for entry in meta.tasks)


def _task(entry: description.TaskEntry, transitions: Transitions, start: np.ndarray) -> TaskData:
    return TaskData(entry.name, entry.split, transitions, start, entry.parameters, entry.reference)


def _read_task(folder: Path, entry: description.TaskEntry, name: str) -> tuple[Transitions, np.ndarray]:
    """One task from its Minari file."""
    path = folder / entry.folder / "data" / HDF5
    image = disk.read(path)
    _require_hash(path, entry.sha256, name, image)
    return read_hdf5(image, entry.episodes, str(path))


def _require_hash(path: Path, expected: str, name: str, image: bytes | None) -> None:
    """`StorageError` when a file's bytes (given, or read here) are not those that were saved."""
    if expected != (disk.sha256_file(path) if image is None else disk.sha256(image)):
        spare = "" if image is not None else f" The flat copy is whole: load({name!r}, verify=False) reads it."
        raise StorageError(
            f"{path}: its SHA-256 differs from the one in {META}; the file is damaged, or was changed since it was"
            f" saved.{spare} To take changed files as they are now, use from_minari and save the result."
        )


def list_sets(root: str | os.PathLike[str] | None = None) -> list[SetEntry]:
    """All sets below `root`, sorted by name; damaged ones have `damage` set. Empty without such a folder."""
    base = default_root() if root is None else Path(root)
    entries = []
    for name, folder in sorted(_all(base).items()):
        size = disk.size(folder)
        try:
            meta = description.parse(disk.read(folder / META), str(folder / META))
        except StorageError as error:
            entries.append(SetEntry(name, str(folder), None, bytes=size, damage=str(error)))
            continue
        train = sum(t.split == "train" for t in meta.tasks)
        episodes, rows = sum(t.episodes for t in meta.tasks), sum(t.rows for t in meta.tasks)
        entries.append(SetEntry(name, str(folder), meta.info, train, len(meta.tasks) - train, episodes, rows, size))
    return entries


def remove(name: str, root: str | os.PathLike[str] | None = None) -> None:
    """Delete the set `name`; `StorageError` when it is missing or cannot be deleted."""
    folder = find(name, root)
    try:
        with disk.locked(folder.parent):
            # out of sight before anything is deleted, so that a kill leaves no half of a set
            doomed = tempfile.mkdtemp(prefix=".tmp-gone-", dir=folder.parent)
            if (old := _backup(_folder(name, root))).exists():
                os.rename(old, Path(doomed) / "old")
            if folder.exists():
                os.rename(folder, Path(doomed) / "set")
            shutil.rmtree(doomed)
    except OSError as error:
        raise storage_error(error, folder, f"remove the data set {name!r} at") from error


def _read_flat(path: Path, meta: description.Description) -> list[tuple[Transitions, np.ndarray]]:
    """Per task the transitions and episode bounds; views into the set's arrays."""
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = [file[k] for k in FIELDS]
            lengths = file["episode_length"]
    except Exception as error:  # zip and npy readers raise many kinds
        raise StorageError(
            f"{path} is not a readable NumPy archive ({error}). Delete it: the Minari files hold the data."
        ) from error
    parts, row, episode = [], 0, 0
    for entry in meta.tasks:
        own = lengths[episode : episode + entry.episodes]
        start = np.concatenate([[0], np.cumsum(own)]).astype(np.int64)
        parts.append((Transitions(*(c[row : row + entry.rows] for c in columns)), start))
        row, episode = row + entry.rows, episode + entry.episodes
    return parts


def _folder(name: str, root: str | os.PathLike[str] | None) -> Path:
    if not _NAME.fullmatch(name):
        raise StorageError(
            f"name={name!r}: expected 'namespace/name', each of letters, digits, '_' and '-' (not at the"
            " start), e.g. 'point-robot-wind/medium'."
        )
    return (default_root() if root is None else Path(root)) / name


def _backup(target: Path) -> Path:
    """Where the earlier set lies between the two renames of an overwrite."""
    return target.parent / f".tmp-old-{target.name}"


def _all(base: Path) -> dict[str, Path]:
    """Folders of all sets; that of an overwrite cut between its renames is the earlier set, still whole."""
    found = {}
    try:
        for namespace in base.iterdir():
            if namespace.name.startswith(".") or not namespace.is_dir():
                continue
            for folder in namespace.iterdir():
                name = folder.name.removeprefix(".tmp-old-")
                shadowed = name != folder.name and (namespace / name).exists()
                if not name.startswith(".") and not shadowed and (folder / META).is_file():
                    found[f"{namespace.name}/{name}"] = folder
    except FileNotFoundError:
        pass
    except OSError as error:
        raise storage_error(error, base, "list the data sets in") from error
    return found


def find(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a stored set; `StorageError`, with the names that are there, when there is none."""
    target = _folder(name, root)
    try:
        for folder in (target, _backup(target)):
            if (folder / META).is_file():
                return folder
        foreign = target.exists()
    except OSError as error:
        raise storage_error(error, target, f"find the data set {name!r} at") from error
    if foreign:
        raise StorageError(
            f"{target} exists but has no {META}: not a merpo data set. Plain Minari datasets are read with from_minari."
        )
    base = target.parent.parent
    names = sorted(_all(base))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "none"
    raise StorageError(
        f"name={name!r}: no such data set below {base}.{meant} Present: {listed}. Generate it, or set MERPO_DATA_DIR."
    )


def _swap(staging: Path, target: Path) -> None:
    """Put a complete folder in the place of `target`, which stays as it was if that fails."""
    old = _backup(target)
    if not target.exists():
        os.rename(staging, target)
        return
    shutil.rmtree(old, ignore_errors=True)
    os.rename(target, old)
    try:
        os.rename(staging, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _clean(namespace: Path) -> None:
    """Remove what killed saves left; a set whose overwrite was cut between the renames is put back."""
    for folder in namespace.glob(".tmp-*"):
        original = namespace / folder.name.removeprefix(".tmp-old-")
        if original.name != folder.name and not original.exists():
            os.rename(folder, original)
        else:
            shutil.rmtree(folder, ignore_errors=True)
