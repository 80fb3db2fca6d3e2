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

import difflib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from merpo.data import description, disk
from merpo.data.hdf5 import metadata_json, read_hdf5, spec_json, write_hdf5
from merpo.data.types import SetInfo, TaskData, TaskSet, Transitions
from merpo.data.validation import FIELDS, require_structure
from merpo.errors import StorageError
from merpo.files import storage_error, umask

META, FLAT, HDF5 = "merpo.json", "flat.npz", "main_data.hdf5"
NAMESPACE = "namespace_metadata.json"
"""Marks a folder as a namespace for Minari's listing."""
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
    target = _folder(name, root)
    require_structure(taskset)
    specs = {}
    for task in taskset:
        spec = env_spec.get(task.name) if isinstance(env_spec, Mapping) else env_spec
        specs[task.name] = None if spec is None else spec_json(spec, task.name)
    staging = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with disk.locked(target.parent) as alone:
            if alone:
                _clean(target.parent)
            if target.exists() and not overwrite:
                raise StorageError(
                    f"name={name!r}: a data set of that name is already at {target}. Pass overwrite=True, or"
                    " choose another name."
                )
            staging = tempfile.mkdtemp(prefix=f".tmp-new-{target.name}-", dir=target.parent)
            _fill(Path(staging), taskset, name, specs)
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
    return target


def load(name: str, root: str | os.PathLike[str] | None = None, verify: bool = True) -> TaskSet:
    """Read the task set `name` below `root`, exactly as it was saved.

    Read from the flat copy; from the Minari files when it is absent or does not match its SHA-256. With
    `verify` the Minari files are hashed as well (about a second per gigabyte), so that any change to a file
    of the set is noticed; without it they are not touched as long as the flat copy is good.

    Raises `StorageError` when the set is missing, damaged, foreign or changed since it was saved.
    """
    folder = _find(name, root)
    meta = description.parse(disk.read(folder / META), str(folder / META))
    images: dict[str, bytes] = {}
    flat = disk.read(folder / FLAT) if (folder / FLAT).exists() else None
    if flat is not None and disk.sha256(flat) != meta.flat_sha256:
        flat = None
    if verify or flat is None:
        for entry in meta.tasks:
            path = folder / entry.folder / "data" / HDF5
            image = disk.read(path)
            if disk.sha256(image) != entry.sha256:
                spare = "" if flat is None else f" The flat copy is whole: load({name!r}, verify=False) reads it."
                raise StorageError(
                    f"{path}: its SHA-256 differs from the one in {META}; the file is damaged, or was changed"
                    f" since it was saved.{spare} To take changed files as they are now, use from_minari and"
                    " save the result."
                )
            if flat is None:
                images[entry.folder] = image
    if flat is not None:
        parts = _read_flat(flat, meta, folder / FLAT)
    else:
        parts = [
            read_hdf5(images.pop(e.folder), e.episodes, str(folder / e.folder / "data" / HDF5)) for e in meta.tasks
        ]
    tasks = []
    for entry, (transitions, start) in zip(meta.tasks, parts, strict=True):
        task = TaskData(entry.name, entry.split, transitions, start, entry.parameters, entry.reference)
        tasks.append(task)
    return TaskSet(meta.info, tuple(tasks))


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
    folder = _find(name, root)
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


def _fill(folder: Path, taskset: TaskSet, name: str, specs: Mapping[str, str | None]) -> None:
    """Write all files of a set into an empty folder; the description last."""
    entries = []
    for i, task in enumerate(taskset):
        part = f"task-{i:03d}-{task.split}-v{taskset.info.version}"
        data = folder / part / "data"
        data.mkdir(parents=True)
        image = write_hdf5(task)
        disk.write(data / HDF5, image)
        entries.append(description.entry(task, part, disk.sha256(image)))
        plain = replace(task, parameters=entries[-1].parameters, reference=entries[-1].reference)
        text = metadata_json(plain, taskset.info, f"{name}/{part}", name, len(image), specs[task.name])
        disk.write(data / "metadata.json", text.encode())
    flat = io.BytesIO()
    columns = {k: np.concatenate([np.asarray(getattr(t.transitions, k)) for t in taskset]) for k in FIELDS}
    lengths = np.concatenate([np.diff(t.episode_start) for t in taskset]).astype(np.int64)
    np.savez(flat, allow_pickle=False, episode_length=lengths, **columns)
    image = flat.getvalue()
    disk.write(folder / FLAT, image)
    disk.write(folder / NAMESPACE, b"{}")
    meta = description.Description(taskset.info, tuple(entries), disk.sha256(image))
    disk.write(folder / META, description.render(meta).encode())


def _read_flat(image: bytes, meta: description.Description, path: Path) -> list[tuple[Transitions, np.ndarray]]:
    """Per task the transitions and episode bounds; views into the set's arrays."""
    try:
        with np.load(io.BytesIO(image), allow_pickle=False) as file:
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


def _find(name: str, root: str | os.PathLike[str] | None) -> Path:
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
