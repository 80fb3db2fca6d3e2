"""The files of a stored set, written task by task: what is in memory at a time is one task.

The flat copy is collected in one raw file per column and bound into `flat.npz` at the end; its bytes are those of
`np.savez` on the concatenated arrays.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from merpo.data import description, disk
from merpo.data.hdf5 import metadata_json, write_hdf5
from merpo.data.types import SetInfo, TaskData
from merpo.data.validation import FIELDS

META, FLAT, HDF5 = "merpo.json", "flat.npz", "main_data.hdf5"
NAMESPACE = "namespace_metadata.json"
"""Marks a folder as a namespace for Minari's listing."""
LENGTHS = "episode_length"


class SetWriter:
    """Fills an empty folder with the set `name`: `add` every task, then `finish` once, which writes the description.

    Tasks must pass `validation.require_structure`; the caller keeps names unique.
    """

    def __init__(self, folder: Path, name: str, version: int = 0):
        self.folder, self.name, self.version = folder, name, version
        self._tasks: list[tuple[description.TaskEntry, int, str | None]] = []
        self._kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.steps = 0
        self.episodes = 0

    def add(self, task: TaskData, spec: str | None = None) -> None:
        """Write one task's Minari file and its part of the flat copy; `spec`: the JSON of its environment spec."""
        part = f"task-{len(self._tasks):03d}-{task.split}-v{self.version}"
        data = self.folder / part / "data"
        data.mkdir(parents=True)
        image = write_hdf5(task)
        disk.write(data / HDF5, image)
        entry = description.entry(task, part, disk.sha256(image))
        columns = {LENGTHS: np.diff(task.episode_start).astype(np.int64)}
        columns |= {k: np.ascontiguousarray(getattr(task.transitions, k)) for k in FIELDS}
        for key, x in columns.items():
            self._kinds[key] = (x.dtype.str, x.shape[1:])
            disk.append(self._column(key), x.reshape(-1).view(np.uint8).data)
        self._tasks.append((entry, len(image), spec))
        self.steps, self.episodes = self.steps + entry.rows, self.episodes + entry.episodes

    def finish(self, info: SetInfo) -> None:
        """Write what depends on the whole set; the description last."""
        for entry, size, spec in self._tasks:
            text = metadata_json(entry, info, self.name, size, spec)
            disk.write(self.folder / entry.folder / "data" / "metadata.json", text.encode())
        rows = {key: self.episodes if key == LENGTHS else self.steps for key in self._kinds}
        members = {key: (self._column(key), kind, (rows[key], *rest)) for key, (kind, rest) in self._kinds.items()}
        disk.archive(self.folder / FLAT, members)
        for key in self._kinds:
            self._column(key).unlink()
        disk.write(self.folder / NAMESPACE, b"{}")
        entries = tuple(entry for entry, _, _ in self._tasks)
        meta = description.Description(info, entries, disk.sha256_file(self.folder / FLAT))
        disk.write(self.folder / META, description.render(meta).encode())

    def _column(self, key: str) -> Path:
        return self.folder / f".flat-{key}"
