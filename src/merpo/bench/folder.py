"""What `merpo bench` keeps in its folder, and how a killed one's leavings are cleared up.

bench.json                 says whose folder it is, and which study was begun in it last
cells/HASH.json            the result of a cell, to the same bits however often it was killed
cells/HASH.time.json       how long it took, and on which machine
stages/HASH.safetensors    a meta-training that cells share, and its HASH.time.json
work/HASH/                 the state of what is being worked on
results.json, table.md, figure.png, times.json      at the end
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from merpo.bench.plan import Cell, Fit
from merpo.bench.study import Study
from merpo.bench.work import CELL_FORMAT, CELL_VERSION, Done
from merpo.errors import StorageError
from merpo.files import read_json, storage_error, write_atomic
from merpo.runs import locked
from merpo.runs.lock import LOCK, sweep

MARK = "bench.json"
FORMAT, FORMAT_VERSION = "merpo-bench", 1
PARTS = ("cells", "stages", "work")


class Folder:
    """The folder of a study; open it with `Folder.opened`."""

    def __init__(self, path: Path):
        self.path = path

    @staticmethod
    @contextlib.contextmanager
    def opened(path: Path, study: Study) -> Iterator[Folder]:
        """Make the folder or take it up, locked against other processes.

        Raises StorageError if it is in use, holds something else, or cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {p.name for p in path.iterdir() if p.name != LOCK and not p.name.endswith(".tmp")}
        except OSError as error:
            raise storage_error(error, path, "make the folder") from error
        if names and MARK not in names:
            raise StorageError(
                f"{str(path)!r} holds {', '.join(sorted(names)[:3])} but no {MARK}: merpo bench did not make it."
                " Choose another folder."
            )
        with locked(path):
            content = {"format": FORMAT, "format_version": FORMAT_VERSION, "study": study.to_json()}
            write_atomic(path / MARK, json.dumps(content, indent=1) + "\n")
            for part in PARTS:
                (path / part).mkdir(exist_ok=True)
                sweep(path / part)
            yield Folder(path)

    def clear_work(self, finished: Sequence[Cell | Fit]) -> None:
        """Remove the states of what is finished: a kill may have come between its result and their removal."""
        for unit in finished:
            for state in (self.path / "work").glob(f"{unit.hash}*"):
                shutil.rmtree(state, ignore_errors=True)

    def result(self, unit: Cell | Fit) -> Path:
        """Where a result is, or will be."""
        if isinstance(unit, Cell):
            return self.path / "cells" / f"{unit.hash}.json"
        return self.path / "stages" / f"{unit.hash}.safetensors"

    def timing(self, unit: Cell | Fit) -> Path:
        """Where its time is."""
        return self.result(unit).with_suffix(".time.json")

    def state(self, unit: Cell | Fit, together: int = 1) -> Path:
        """Where its state is kept while it is worked on, alone or as the first of several."""
        return self.path / "work" / (unit.hash if together == 1 else f"{unit.hash}-{together}")

    def done(self, unit: Cell | Fit) -> bool:
        """Whether its result is there; it is written whole or not at all."""
        return self.result(unit).exists()

    def keep(self, unit: Cell | Fit, done: Done) -> None:
        """Write a result; its time first, so that no result is ever without."""
        write_atomic(self.timing(unit), done.timing)
        write_atomic(self.result(unit), done.content)
        shutil.rmtree(self.state(unit), ignore_errors=True)

    def seconds(self, unit: Cell | Fit) -> float | None:
        """How long it took, if it is done."""
        return self.time_of(unit).get("seconds")

    def time_of(self, unit: Cell | Fit) -> dict[str, Any]:
        """The content of its time file; empty if there is none."""
        try:
            found = json.loads(self.timing(unit).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def read(self, cell: Cell) -> dict[str, Any]:
        """A cell's result. StorageError if it was changed or damaged since it was written."""
        path = self.result(cell)
        content: dict[str, Any] = read_json(path, "Delete it, and the cell is run again.")
        known = {"format": CELL_FORMAT, "format_version": CELL_VERSION, "hash": cell.hash}
        if not isinstance(content, dict) or any(content.get(k) != v for k, v in known.items()):
            raise StorageError(f"{str(path)!r} is not the result of that cell. Delete it, and the cell is run again.")
        return content
