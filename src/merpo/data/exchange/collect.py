"""Rows of many tasks in any order, gathered by task in bounded memory: beyond a budget they wait on the disk."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from merpo.data import disk

BUDGET = 64 << 20
"""Bytes held in memory before they are written out."""


class Collector:
    """`add` blocks of rows in any order of tasks, then `take` the rows of a task; `close` removes the files."""

    def __init__(self, folder: Path, budget: int = BUDGET):
        self._parent, self._budget, self._held = folder, budget, 0
        self._folder: Path | None = None
        self._index: dict[str, int] = {}
        self._blocks: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._width = (0, 0)

    @property
    def names(self) -> tuple[str, ...]:
        """Tasks in the order of their first row."""
        return tuple(self._index)

    def add(self, task: str, numbers: Float[np.ndarray, "n number"], labels: Int[np.ndarray, "n label"]) -> None:
        """More rows of a task: float32 numbers, and int64 labels beside them."""
        self._width = numbers.shape[1], labels.shape[1]
        self._index.setdefault(task, len(self._index))
        self._blocks.setdefault(task, []).append((numbers, labels))
        self._held += numbers.nbytes + labels.nbytes
        if self._held > self._budget:
            self._write_out()

    def take(self, task: str) -> tuple[Float[np.ndarray, "n number"], Int[np.ndarray, "n label"]]:
        """All rows of a task in the order they came, and forget them."""
        numbers: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        if self._folder is not None:
            stem = self._folder / str(self._index[task])
            if stem.with_suffix(".f32").exists():
                numbers.append(np.fromfile(stem.with_suffix(".f32"), np.float32).reshape(-1, self._width[0]))
                labels.append(np.fromfile(stem.with_suffix(".i64"), np.int64).reshape(-1, self._width[1]))
                stem.with_suffix(".f32").unlink()
                stem.with_suffix(".i64").unlink()
        for x, y in self._blocks.pop(task, []):
            numbers.append(x)
            labels.append(y)
        return np.concatenate(numbers), np.concatenate(labels)

    def close(self) -> None:
        """Remove what was written out."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _write_out(self) -> None:
        if self._folder is None:
            self._parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=".tmp-import-", dir=self._parent))
        for task, blocks in self._blocks.items():
            stem = self._folder / str(self._index[task])
            for suffix, parts in ((".f32", [x for x, _ in blocks]), (".i64", [y for _, y in blocks])):
                joined = np.ascontiguousarray(np.concatenate(parts))
                disk.append(stem.with_suffix(suffix), joined.reshape(-1).view(np.uint8).data)
        self._blocks, self._held = {}, 0
