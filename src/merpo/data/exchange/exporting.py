"""A stored set out to other formats, whole or not at all, with SHA-256 sums beside it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from merpo.data import disk, storage
from merpo.data.exchange.arrays_in import DESCRIPTION, TASK_NAMES
from merpo.data.exchange.source import describe
from merpo.data.exchange.sums import write_sums
from merpo.data.exchange.tables import METADATA
from merpo.data.hdf5 import require
from merpo.data.types import TaskData, TaskSet
from merpo.data.validation import FIELDS
from merpo.data.writer import META, NAMESPACE
from merpo.errors import DataError, StorageError
from merpo.files import publish, storage_error

LAYOUTS = ("parquet", "npz", "minari")


def export_set(name: str, layout: str, out: str, root: str | None = None, overwrite: bool = False) -> Path:
    """Write the set `name` to `out`: a `.parquet` or `.npz` file, or for `minari` a folder (to be named in
    `MINARI_DATASETS_PATH`, below which the data sets have the set's name). Import gives the same set again.

    Raises `DataError` for an unknown layout, `StorageError` when `out` is there already (and not `overwrite`) or
    cannot be written.
    """
    if layout not in LAYOUTS:
        raise DataError(f"layout={layout!r}: expected one of {', '.join(LAYOUTS)}.")
    target = Path(out).expanduser()
    if target.exists() and not overwrite:
        raise StorageError(f"{target} is there already. Pass --overwrite (overwrite=True), or choose another path.")
    if target.is_dir() and layout != "minari":
        raise StorageError(f"{target} is a folder; expected the path of a file. Add a file name.")
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if layout == "minari":
            temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            _minari(name, root, temporary)
            if target.is_dir():
                shutil.rmtree(target)
            publish(temporary, target)
        else:
            handle, text = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
            os.close(handle)
            temporary = Path(text)
            (_parquet if layout == "parquet" else _npz)(name, root, temporary)
            publish(temporary, target)
            write_sums(target.parent, [target])
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(error, target, "write") from error
    finally:
        if temporary is not None and temporary.exists():
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink()
    return target


def _known(tasks: list[TaskData]) -> dict[str, dict[str, Any]]:
    return {t.name: {"split": t.split, "parameters": dict(t.parameters), "reference": dict(t.reference)} for t in tasks}


def _parquet(name: str, root: str | None, path: Path) -> None:
    """A row per step, a row group per task; every page with a checksum."""
    pa, pq = require("pyarrow", "tables"), require("pyarrow.parquet", "tables")
    info, tasks = storage.load_each(name, root)
    vectors = {"obs": info.obs_dim, "action": info.act_dim, "next_obs": info.obs_dim}
    kinds = [("task", pa.string()), ("split", pa.string()), ("episode", pa.int64()), ("step", pa.int64())]
    kinds += [(f"{key}_{i}", pa.float32()) for key in ("obs", "action") for i in range(vectors[key])]
    kinds += [("reward", pa.float32()), ("terminated", pa.bool_()), ("truncated", pa.bool_())]
    kinds += [(f"next_obs_{i}", pa.float32()) for i in range(info.obs_dim)]
    seen: list[TaskData] = []
    with pq.ParquetWriter(path, pa.schema(kinds), compression="zstd", write_page_checksum=True) as writer:
        for task in tasks:
            t, lengths = task.transitions, np.diff(task.episode_start)
            columns: dict[str, Any] = {
                "task": pa.repeat(task.name, len(task)),
                "split": pa.repeat(task.split, len(task)),
                "episode": np.repeat(np.arange(task.episodes), lengths),
                "step": np.arange(len(task)) - np.repeat(task.episode_start[:-1], lengths),
            }
            for key in FIELDS:
                x = np.asarray(getattr(t, key))
                columns |= {f"{key}_{i}": x[:, i] for i in range(vectors[key])} if key in vectors else {key: x}
            writer.write_table(pa.table({key: columns[key] for key, _ in kinds}, schema=pa.schema(kinds)))
            seen.append(task.select([0]))  # what is known of it, with few rows
        writer.add_key_value_metadata({METADATA.decode(): describe(info, _known(seen))})


def _npz(name: str, root: str | None, path: Path) -> None:
    """All tasks' rows one after another, with the task and episode of each."""
    data: TaskSet = storage.load(name, root)
    arrays = {key: np.concatenate([np.asarray(getattr(t.transitions, key)) for t in data]) for key in FIELDS}
    sizes = [len(t) for t in data]
    episode = [np.repeat(np.arange(t.episodes), np.diff(t.episode_start)) for t in data]
    names = np.array([t.name for t in data])
    with open(path, "wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            task=np.repeat(np.arange(len(data)), sizes),
            episode=np.concatenate(episode),
            **arrays,
            **{TASK_NAMES: names, DESCRIPTION: np.array(describe(data.info, _known(list(data))))},
        )


def _minari(name: str, root: str | None, folder: Path) -> None:
    """The set's own Minari files, without what only merpo reads."""
    list(storage.load_each(name, root)[1])  # each checked against its hash
    source = storage.find(name, root)
    namespace, own = name.split("/")
    target = folder / namespace / own
    target.mkdir(parents=True)
    (folder / namespace / NAMESPACE).write_bytes(b"{}")
    files = []
    for part in sorted(p for p in source.iterdir() if p.is_dir() and (p / "data").is_dir()):
        shutil.copytree(part, target / part.name)
        files += sorted(p for p in (target / part.name).rglob("*") if p.is_file())
    disk.write(target / NAMESPACE, b"{}")
    assert not (target / META).exists()
    write_sums(folder, files)
