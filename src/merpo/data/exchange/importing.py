"""Other people's files in: find them, read them task by task, store them as a set, and say what was done to them."""

from __future__ import annotations

import fnmatch
import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from merpo.data import disk, storage
from merpo.data.community import from_minari
from merpo.data.exchange.arrays_in import read_d4rl, read_npz
from merpo.data.exchange.assemble import assemble
from merpo.data.exchange.collect import BUDGET, Collector
from merpo.data.exchange.columns import Columns
from merpo.data.exchange.focal import read_focal
from merpo.data.exchange.notes import Notes
from merpo.data.exchange.source import Known, Settings, Source
from merpo.data.exchange.sums import verify_sums
from merpo.data.exchange.tables import read_tables
from merpo.data.exchange.totals import Totals
from merpo.data.types import TaskData
from merpo.data.validation import Finding
from merpo.errors import DataError, StorageError

LAYOUTS = ("csv", "parquet", "npz", "d4rl", "minari", "focal")
RECORD = "import.json"
"""Beside an imported set: how it was read and what was done to it."""
SUFFIXES = {
    "csv": (".csv", ".csv.gz", ".tsv", ".csv.zst"),
    "parquet": (".parquet", ".pq"),
    "npz": (".npz",),
    "d4rl": (".hdf5", ".h5"),
}


@dataclass(frozen=True)
class Imported:
    """What an import read, and what it did to it."""

    name: str
    folder: str
    train_tasks: int
    test_tasks: int
    episodes: int
    steps: int
    findings: tuple[Finding, ...]
    """Everything that was changed, dropped, inferred or left out, and what looks suspicious."""

    def render(self) -> str:
        """Plain text."""
        head = (
            f"{self.name}: {self.train_tasks} training and {self.test_tasks} test tasks, {self.episodes} episodes,"
            f" {self.steps} steps, in {self.folder}"
        )
        return "\n".join([head, *(f"{f.severity.upper()} [{f.code}] {f.text}" for f in self.findings)])

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries and lists."""
        return asdict(self)


def import_set(
    paths: Sequence[str],
    layout: str,
    name: str,
    *,
    columns: Columns | None = None,
    settings: Settings | None = None,
    checkpoints: Sequence[int] = (),
    delimiter: str | None = None,
    root: str | None = None,
    overwrite: bool = False,
    budget: int = BUDGET,
    progress: Callable[[str], None] = lambda text: None,
) -> Imported:
    """Read files of a layout and store them as the set `name` (`namespace/name`).

    `paths`: files, or one folder of them; for `minari` ids or folders, one per task; for `focal` the folder with
    `goal_idx{i}/`. Tables are read in bounded memory: `budget` bytes of rows, beside the largest task. Where a file
    `SHA256SUMS` lies beside the files, they are checked against it.

    Raises `DataError` for what cannot be understood, `StorageError` for what cannot be read or written; then nothing
    is stored.
    """
    settings = settings or Settings()
    if layout not in LAYOUTS:
        raise DataError(f"layout={layout!r}: expected one of {', '.join(LAYOUTS)}.")
    if not paths:
        raise DataError("paths is empty: expected at least one file, folder or Minari id.")
    if layout == "minari":
        return _minari(paths, name, settings, root, overwrite)
    notes = Notes()
    files = _files(paths, layout)
    verify_sums(files)
    with storage.writing(name, root, overwrite) as writer:
        collector = Collector(writer.folder, budget)
        try:
            if layout == "focal":
                source = read_focal(files[0], notes, checkpoints)
            elif layout == "npz":
                source = read_npz(files, columns or Columns(), notes, settings.horizon)
            elif layout == "d4rl":
                source = read_d4rl(files, columns or Columns(), notes, settings.horizon)
            else:
                source = read_tables(files, layout, columns or Columns(), collector, notes, delimiter)
            totals = Totals(settings, source.known, notes, family=name.split("/")[1])
            writer.version = source.known.info.version if source.known.info else 0
            for i, task in enumerate(tasks_of(source, settings, notes)):
                totals.add(task)
                writer.add(task)
                progress(f"{i + 1} of {len(source.names)} tasks")
            info = totals.info()
            totals.note_constant()
        finally:
            collector.close()
        record = {
            "layout": layout,
            "files": [p.name for p in files],
            "columns": asdict(columns or Columns()),
            "settings": asdict(settings),
            "findings": [asdict(f) for f in notes.findings()],
        }
        disk.write(writer.folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())
        writer.finish(info)
    folder = str(storage.default_root() / name if root is None else Path(root) / name)
    return Imported(name, folder, totals.train, totals.test, writer.episodes, writer.steps, notes.findings())


def tasks_of(source: Source, settings: Settings, notes: Notes) -> Iterator[TaskData]:
    """The source's tasks one by one, cut into episodes, with their split."""
    test = _test_tasks(source, settings)
    for name in source.names:
        known = source.known.tasks.get(name, {})
        transitions, start = assemble(
            name, source.read(name), notes, settings.missing, place=source.place, names=source.columns
        )
        split = "test" if name in test else "train"
        yield TaskData(name, split, transitions, start, known.get("parameters", {}), known.get("reference", {}))


def read_mapping(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables `[columns]` and `[set]` of a TOML file; DataError for unknown entries or bad TOML."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}). Check the path of the mapping file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid TOML ({error}). See docs/data.md for an example.") from error
    known = {"columns": {f.name for f in fields(Columns)}, "set": {f.name for f in fields(Settings)}}
    for table, entries in content.items():
        if table not in known or not isinstance(entries, dict):
            raise DataError(f"{path}: unknown entry {table!r}; expected the tables [columns] and [set].")
        if unknown := sorted(entries.keys() - known[table]):
            raise DataError(
                f"{path}: unknown entry {unknown[0]!r} in [{table}]; expected {', '.join(sorted(known[table]))}."
            )
    return dict(content.get("columns", {})), dict(content.get("set", {}))


def _test_tasks(source: Source, s: Settings) -> set[str]:
    """Names of the test tasks: as told, drawn, or as the files say."""
    names = source.names
    if s.test:
        chosen: set[str] = set()
        for pattern in s.test:
            found = {pattern} & set(names) or set(fnmatch.filter(names, pattern))
            if not found:
                listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
                raise DataError(f"test: {pattern!r} is not among the tasks {listed}. Correct the name.")
            chosen |= found
        return chosen
    if s.test_share is not None:
        if len(names) < 2:
            raise DataError(f"test_share={s.test_share}: the only task cannot be split. Leave it out.")
        count = min(max(round(s.test_share * len(names)), 1), len(names) - 1)
        drawn = np.random.default_rng(s.split_seed).permutation(len(names))[:count]
        return {sorted(names)[i] for i in drawn}
    told = {name: str(known["split"]) for name, known in source.known.tasks.items()}
    told.update(source.splits)
    return {name for name in names if told.get(name) == "test"}


def _files(paths: Sequence[str], layout: str) -> list[Path]:
    """The files to read; for focal the folder."""
    found = [Path(p).expanduser() for p in paths]
    if missing := [p for p in found if not p.exists()]:
        raise StorageError(f"{missing[0]}: no such file or folder. Check the path.")
    if layout == "focal":
        if len(found) > 1 or not found[0].is_dir():
            raise DataError(f"paths={list(paths)}: expected one folder with goal_idx0, goal_idx1, ... for this layout.")
        return found
    files = []
    for path in found:
        if not path.is_dir():
            files.append(path)
            continue
        own = sorted(p for p in path.iterdir() if p.is_file() and p.name.endswith(SUFFIXES[layout]))
        if not own:
            raise DataError(f"{path}: no files ending in {', '.join(SUFFIXES[layout])} in this folder. Check --layout.")
        files += own
    return files


def _minari(paths: Sequence[str], name: str, s: Settings, root: str | None, overwrite: bool) -> Imported:
    """Minari data sets, one per task."""
    verify_sums([Path(p) for p in paths if Path(p).is_dir()])
    names = tuple(Path(p).name if Path(p).is_dir() else p for p in paths)
    ids = {p: n if len(set(names)) == len(names) else p for p, n in zip(paths, names, strict=True)}
    labels = Source(tuple(ids.values()), read=lambda _: (_ for _ in ()).throw(AssertionError))
    test = _test_tasks(labels, s)
    train = [p for p in paths if ids[p] not in test]
    extra: dict[str, Any] = {k: v for k in ("action_low", "action_high") if (v := getattr(s, k)) is not None}
    if s.termination is not None:
        extra["termination"] = s.termination
    sources: list[Any] = train
    made = from_minari(
        sources,
        [p for p in paths if ids[p] in test],
        family=s.family or name.split("/")[1],
        gamma=0.99 if s.gamma is None else s.gamma,
        horizon=s.horizon,
        names=dict(ids),  # type: ignore[arg-type]
        on_constant="keep",
        **extra,
    )
    notes = Notes()
    totals = Totals(s, Known(), notes, name)
    for task in made:
        totals.add(task)
    totals.note_constant()
    folder = storage.save(made, name, root, overwrite)
    steps, episodes = sum(len(t) for t in made), sum(t.episodes for t in made)
    return Imported(name, str(folder), len(made.train), len(made.test), episodes, steps, notes.findings())
