"""The state of unfinished work in a folder, so that a killed process loses minutes and not bits.

work.json              what is worked on: settings, seeds, hashes of the data; and the versions it was begun with
<slot>.safetensors     the state of one part of the work (see `merpo.runs.checkpoint`), replaced whole or not at all
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from merpo import devices
from merpo.algorithms.keeper import FORGETFUL, Keeper, Together
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.data.types import SetInfo, TaskData
from merpo.errors import ConfigError, DivergenceError, StorageError, VersionWarning
from merpo.files import read_json, storage_error, write_atomic
from merpo.runs.checkpoint import fingerprint, load_checkpoint, read_meta, save_checkpoint
from merpo.runs.config import diff, to_json
from merpo.runs.folder import versions
from merpo.runs.lock import LOCK, locked

WORK = "work.json"
FORMAT, FORMAT_VERSION = "merpo-work", 1
KIND = "merpo-state"
SHARE = 0.02
"""Largest share of the time that saving may take: after a slow save the next one waits longer than `every`."""
LEARNING = ("data", "networks", "dynamics", "algorithms")
"""Rooms of the package whose code decides the bits of what is learned."""


class Checkpoints:
    """Keeps the state of unfinished work in `folder`: give it to `MerPO.fit` or `Meta.adapt_many`.

    Saved at the end of every stage, and within stages every `every` seconds, or less often where that would take
    more than 2 % of the time; `every=0` saves whenever it can. The folder can be deleted when the work is done.
    """

    def __init__(self, folder: str | os.PathLike[str], every: float = 60.0):
        if not 0.0 <= every < math.inf:
            raise ConfigError(f"every={every!r}: expected seconds >= 0 between two saves of the state.")
        self.folder = Path(folder)
        self.every = every
        self.saves = 0
        """How often the state was saved by this process."""
        self.spent = 0.0
        """Seconds that took."""
        self._work = ""
        self._earlier = 0.0
        self._begun = time.perf_counter()
        self._last: dict[str, tuple[float, float]] = {}
        self._mutex = threading.Lock()

    @property
    def seconds(self) -> float:
        """Time worked so far: by this process, and by those before it up to what was taken up from them."""
        return self._earlier + time.perf_counter() - self._begun

    @contextlib.contextmanager
    def of(self, work: Mapping[str, Any]) -> Iterator[Checkpoints]:
        """Open the folder for this work, and lock it. `work`, which JSON can hold, is all that the result depends on.

        Raises ConfigError if the folder has the state of other work, StorageError if it is in use, damaged or cannot
        be written. Warns with VersionWarning if other code began the work.
        """
        content = json.loads(json.dumps(work))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            strangers = [p.name for p in self.folder.iterdir() if p.name != LOCK and not p.name.endswith(".tmp")]
        except OSError as error:
            raise storage_error(error, self.folder, "make the folder") from error
        if strangers and WORK not in strangers:
            raise StorageError(
                f"{str(self.folder)!r} holds {', '.join(sorted(strangers)[:3])} but no {WORK}: it is not a folder of "
                "states. Choose another one; merpo does not touch it."
            )
        with locked(self.folder):
            self._identify(content)
            try:
                yield self
            except DivergenceError as error:
                if not any(self.folder.glob("*.safetensors")):
                    raise
                raise DivergenceError(f"{error} The last good state is kept in {str(self.folder)!r}.") from error

    def load(self, slot: str, like: Callable[[int], Any]) -> tuple[int, Any] | None:
        """What was last saved in a slot, `(done, tree)`, or None. See `merpo.algorithms.keeper.Keeper`."""
        path = self._path(slot)
        if not path.exists():
            return None
        try:
            meta = read_meta(path)
            done, seconds = meta.get("done"), meta.get("seconds")
            if meta.get("kind") != KIND or meta.get("slot") != slot or type(done) is not int or done < 0:
                raise StorageError(f"{str(path)!r} is not a state of {slot!r} that merpo wrote.")
            if not isinstance(seconds, float) or not 0.0 <= seconds < math.inf:
                raise StorageError(f"{str(path)!r} is damaged: seconds={seconds!r}.")
            if meta.get("work") != self._work:
                raise StorageError(f"{str(path)!r} is the state of other work than {WORK} says.")
            tree, _ = load_checkpoint(path, like(done))
        except (StorageError, ConfigError) as error:
            raise type(error)(f"{error} To begin this stage anew, delete that file.") from error
        with self._mutex:
            self._earlier = max(self._earlier, seconds)
        return done, tree

    def due(self, slot: str) -> bool:
        """Whether it is time to save again."""
        with self._mutex:
            when, cost = self._last.setdefault(slot, (time.perf_counter(), 0.0))
        return time.perf_counter() - when >= (max(self.every, cost / SHARE) if self.every else 0.0)

    def save(self, slot: str, done: int, tree: Any) -> None:
        """Replace what the slot holds, whole or not at all. Raises StorageError; the old state is kept then."""
        begin = time.perf_counter()
        meta = {"kind": KIND, "slot": slot, "done": done, "work": self._work, "seconds": self.seconds}
        save_checkpoint(self._path(slot), tree, meta)
        end = time.perf_counter()
        with self._mutex:
            self._last[slot] = (end, end - begin)
            self.saves += 1
            self.spent += end - begin

    def clear(self) -> None:
        """Remove the folder with all states: the work is done. StorageError if another process has it."""
        if not (self.folder / WORK).exists():
            return
        try:
            with locked(self.folder):
                for path in (*self.folder.glob("*.safetensors"), self.folder / WORK, self.folder / LOCK):
                    path.unlink(missing_ok=True)
                self.folder.rmdir()
        except StorageError:
            raise
        except OSError as error:
            raise storage_error(error, self.folder, "remove the states in") from error

    def _path(self, slot: str) -> Path:
        if not re.fullmatch(r"[\w-]+", slot):
            raise ConfigError(f"slot={slot!r}: expected letters, digits and dashes.")
        return self.folder / f"{slot}.safetensors"

    def _identify(self, work: dict[str, Any]) -> None:
        """Note what is worked on, or compare it with what was noted."""
        self._work = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()
        path = self.folder / WORK
        made_with = {**versions(), "code": code_hash()}
        if not path.exists():
            content = {"format": FORMAT, "format_version": FORMAT_VERSION, "work": work, "versions": made_with}
            write_atomic(path, json.dumps(content, indent=1) + "\n")
            return
        stored = _read_work(path)
        if stored["work"] != work:
            raise ConfigError(
                f"{str(self.folder)!r} holds the state of other work (stored -> given): "
                f"{', '.join(diff(stored['work'], work)[:5])}. Give the data, settings and seeds it was begun with, or "
                "begin anew in another folder."
            )
        if others := diff(stored["versions"], made_with):
            warnings.warn(
                f"{str(self.folder)!r} was begun with other versions (then -> now): {', '.join(others[:5])}. The "
                "result may differ in its last bits from that of an undisturbed run.",
                VersionWarning,
                stacklevel=4,
            )


def keeping(
    checkpoint: Checkpoints | str | os.PathLike[str] | None, work: Callable[[], Mapping[str, Any]]
) -> AbstractContextManager[Keeper]:
    """The keeper that a `checkpoint` argument stands for, opened for `work()`; None keeps nothing.

    Where several processes learn together, the first one's serves all. ConfigError if their work is not the same.
    """
    if devices.hosts() > 1:
        return _together(checkpoint if devices.first() else None, work())
    if checkpoint is None:
        return nullcontext(FORGETFUL)
    return (checkpoint if isinstance(checkpoint, Checkpoints) else Checkpoints(checkpoint)).of(work())


@contextlib.contextmanager
def _together(checkpoint: Checkpoints | str | os.PathLike[str] | None, work: Mapping[str, Any]) -> Iterator[Keeper]:
    mine = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).digest()
    every = devices.of_all(np.frombuffer(mine, np.uint8))
    if others := np.flatnonzero((every != every[0]).any(axis=1)).tolist():
        raise ConfigError(f"process {others[0]} was given other data, settings or seeds than process 0. Give the same.")
    if checkpoint is None:
        yield Together(FORGETFUL)
        return
    states = checkpoint if isinstance(checkpoint, Checkpoints) else Checkpoints(checkpoint)
    with states.of(work) as keeper:
        yield Together(keeper)


def work_of(
    kind: str, tasks: Sequence[TaskData], info: SetInfo, config: MerPOConfig, seeds: Sequence[int]
) -> dict[str, Any]:
    """All that the outcome of fitting or adapting depends on, to be compared by `Checkpoints.of`."""
    data = fingerprint([(t.transitions, t.episode_start) for t in tasks])
    known = {"config": to_json(config), "info": to_json(info), "seeds": list(seeds)}
    return {"kind": kind, "tasks": [t.name for t in tasks], "data": data, **known}


def code_hash() -> str:
    """The first 16 hex digits of the SHA-256 of the code that learns."""
    total = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(p for room in LEARNING for p in (root / room).rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


def _read_work(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path, "Delete its folder to begin anew.")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StorageError(f"{str(path)!r} is not a file that merpo wrote. Choose another folder.")
    kinds = {"work": dict, "versions": dict, "format_version": int}
    if not all(isinstance(content.get(k), kind) for k, kind in kinds.items()):
        raise StorageError(f"{str(path)!r} is damaged: it lacks a part. Delete its folder to begin anew.")
    if (version := content["format_version"]) > FORMAT_VERSION:
        raise StorageError(f"{str(path)!r} has format {version}, expected at most {FORMAT_VERSION}. Update merpo.")
    return content
