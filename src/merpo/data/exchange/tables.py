"""CSV and Parquet tables, one file or many, read block by block: memory holds some blocks and one task."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from merpo.data.exchange.assemble import Rows
from merpo.data.exchange.collect import Collector
from merpo.data.exchange.columns import Columns, Resolved, resolve
from merpo.data.exchange.notes import Notes
from merpo.data.exchange.source import Known, Source, recall
from merpo.data.hdf5 import require
from merpo.errors import DataError, StorageError

BLOCK = 1 << 22
"""Bytes of CSV read at a time."""
BATCH = 1 << 16
"""Rows of Parquet read at a time."""
METADATA = b"merpo"
"""Key of the description in a Parquet file's metadata."""
SEPARATORS = ",;\t|"


def read_tables(
    paths: Sequence[Path],
    layout: str,
    columns: Columns,
    collector: Collector,
    notes: Notes,
    delimiter: str | None = None,
) -> Source:
    """Gather the rows of all files by task; `layout` is `csv` or `parquet`.

    Raises `DataError` when columns are missing or hold something else, `StorageError` when a file cannot be read.
    """
    reader = _Reader(columns, collector, notes)
    for path in paths:
        reader.begin(path, layout)
        blocks = _parquet(path, reader) if layout == "parquet" else _csv(path, reader, delimiter)
        for block in blocks:
            reader.add(block)
        if reader.rows == reader.starts[-1]:
            notes.add("empty", 1, path.name)
    if not collector.names:
        raise DataError(f"{', '.join(p.name for p in paths[:3])}: no rows; expected at least one step.")
    notes.add("unused", len(reader.unused), ", ".join(reader.unused[:12]) if reader.unused else None)
    assert reader.found is not None
    return Source(
        collector.names,
        reader.take,
        columns=reader.found.numbers,
        splits=reader.splits,
        known=reader.known,
        place=reader.place,
    )


class _Reader:
    """Turns blocks of Arrow columns into rows of tasks."""

    def __init__(self, columns: Columns, collector: Collector, notes: Notes):
        self.columns, self.collector, self.notes = columns, collector, notes
        self.found: Resolved | None = None
        self.unused: list[str] = []
        self.paths: list[Path] = []
        self.starts: list[int] = []
        self.rows = 0
        self.known = Known()
        self.splits: dict[str, str] = {}
        self._layout = ""
        self._episodes: dict[Any, int] = {}
        self._time_kind = ""

    def begin(self, path: Path, layout: str) -> None:
        self.paths.append(path)
        self.starts.append(self.rows)
        self._layout = layout

    def resolve(self, names: Sequence[str]) -> Resolved:
        """The columns of the file that has just begun; every file must have those of the first."""
        where = self.paths[-1].name
        if self.found is None:
            self.found = resolve(self.columns, names, where)
        elif missing := [n for n in self.found.used if n not in names]:
            raise DataError(
                f"{where}: column {missing[0]!r} is missing, which {self.paths[0].name} has; expected the same columns"
                " in all files. Correct the file, or import it on its own."
            )
        used = set(self.found.used)
        self.unused += [n for n in names if n not in used and n not in self.unused]
        return self.found

    def place(self, row: int) -> str:
        """Words for a row counted over all files."""
        i = bisect.bisect_right(self.starts, row) - 1
        own = row - self.starts[i]
        return f"{self.paths[i].name}, " + (f"line {own + 2}" if self._layout == "csv" else f"row {own}")

    def add(self, block: Any) -> None:
        """One Arrow record batch."""
        assert self.found is not None
        n, single = block.num_rows, self.found.single
        if n == 0:
            return
        numbers = np.empty((n, len(self.found.numbers) + 2), np.float32)
        with np.errstate(over="ignore"):  # what overflows becomes infinite, which is refused later
            for j, name in enumerate(self.found.numbers):
                numbers[:, j] = self._number(name, block.column(name))
            for j, role in ((-2, "terminated"), (-1, "truncated")):
                numbers[:, j] = self._number(single[role], block.column(single[role])) if role in single else 0.0
        labels = np.zeros((n, 3), np.int64)
        labels[:, 0] = np.arange(self.rows, self.rows + n)
        if "episode" in single:
            labels[:, 1] = self._codes(block.column(single["episode"]))
        if "time" in single:
            labels[:, 2] = self._time(block.column(single["time"]))
        if "task" in single:
            names, codes = self._named("task", block.column(single["task"]))
        else:
            names, codes = [self.paths[-1].name.split(".")[0]], np.zeros(n, np.int64)
        if "split" in single:
            self._splits(names, codes, *self._named("split", block.column(single["split"])))
        if len(names) == 1:
            self.collector.add(names[0], numbers, labels)
        else:
            order = np.argsort(codes, kind="stable")
            cuts = np.searchsorted(codes[order], np.arange(len(names) + 1))
            for name, a, b in zip(names, cuts[:-1], cuts[1:], strict=True):
                if b > a:
                    self.collector.add(name, numbers[order[a:b]], labels[order[a:b]])
        self.rows += n

    def take(self, task: str) -> Rows:
        """All rows of a task."""
        assert self.found is not None
        numbers, labels = self.collector.take(task)
        o, a = len(self.found.obs), len(self.found.action)
        single = self.found.single
        time = labels[:, 2].view(np.float64) if self._time_kind == "float" else labels[:, 2]
        return Rows(
            obs=numbers[:, :o],
            action=numbers[:, o : o + a],
            reward=numbers[:, o + a],
            next_obs=numbers[:, o + a + 1 : -2] if self.found.next_obs else None,
            terminated=numbers[:, -2] if "terminated" in single else None,
            truncated=numbers[:, -1] if "truncated" in single else None,
            episode=labels[:, 1] if "episode" in single else None,
            time=np.ascontiguousarray(time) if "time" in single else None,
            row=labels[:, 0],
        )

    def _number(self, name: str, column: Any) -> np.ndarray:
        import pyarrow as pa

        kind = column.type
        if pa.types.is_boolean(kind):
            column = column.cast(pa.uint8())
        elif pa.types.is_decimal(kind):
            column = column.cast(pa.float64())
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and column.null_count < len(column):
            raise DataError(
                f"{self.paths[-1].name}: column {name!r} holds {kind}, expected numbers. Convert it, or name other"
                " columns."
            )
        elif pa.types.is_null(kind):
            return np.full(len(column), np.nan, np.float32)
        return column.to_numpy(zero_copy_only=False)  # missing numbers become NaN

    def _named(self, role: str, column: Any) -> tuple[list[str], np.ndarray]:
        """Distinct values as text, and each row's position among them."""
        import pyarrow as pa

        if column.null_count:
            i = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{self.place(self.rows + i)}: the {role} is missing; expected one in every row.")
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        values = encoded.dictionary.to_pylist()
        names = []
        for value in values:
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            text = value if isinstance(value, str) else str(value)
            if not text.strip() or any(ord(c) < 32 for c in text):
                raise DataError(
                    f"{self.paths[-1].name}: {text!r} as the {role}; expected a name without line breaks or control"
                    " characters. Correct the column."
                )
            names.append(text)
        if len(set(names)) < len(names):
            raise DataError(f"{self.paths[-1].name}: values of {role} that read the same ({sorted(names)[:4]}).")
        return names, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)

    def _codes(self, column: Any) -> np.ndarray:
        """A number per distinct episode label."""
        names, codes = self._named("episode", column)
        for name in names:
            self._episodes.setdefault(name, len(self._episodes))
        return np.array([self._episodes[name] for name in names], np.int64)[codes]

    def _time(self, column: Any) -> np.ndarray:
        """Time as the bits of int64 or float64."""
        import pyarrow as pa

        kind, name = column.type, self.paths[-1].name
        if column.null_count:
            i = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{self.place(self.rows + i)}: the time is missing; expected one in every row.")
        if pa.types.is_temporal(kind):
            found = "int"
            column = column.cast(pa.timestamp("ns") if pa.types.is_timestamp(kind) else kind).cast(pa.int64())
        elif pa.types.is_integer(kind):
            found = "int"
        elif pa.types.is_floating(kind):
            found = "float"
        else:
            raise DataError(f"{name}: the time column holds {kind}, expected numbers or time stamps. Convert it.")
        if self._time_kind and found != self._time_kind:
            raise DataError(f"{name}: the time is {found} here and {self._time_kind} before; expected one kind.")
        self._time_kind = found
        x = column.to_numpy(zero_copy_only=False)
        return x.astype(np.int64) if found == "int" else x.astype(np.float64).view(np.int64)

    def _splits(self, tasks: list[str], of: np.ndarray, splits: list[str], codes: np.ndarray) -> None:
        if wrong := [s for s in splits if s not in ("train", "test")]:
            raise DataError(f"{self.paths[-1].name}: split {wrong[0]!r}; expected 'train' or 'test'. Correct it.")
        for i, task in enumerate(tasks):
            own = {splits[c] for c in np.unique(codes[of == i])}
            own.add(self.splits.get(task, min(own)))
            if len(own) > 1:
                raise DataError(f"{self.paths[-1].name}: task {task!r} is both train and test; expected one of them.")
            self.splits[task] = own.pop()


def _parquet(path: Path, reader: _Reader) -> Iterator[Any]:
    pq = _pyarrow("pyarrow.parquet")
    try:
        # pre_buffer, Arrow's default, would keep all of the file in memory
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as file:
            text = (file.metadata.metadata or {}).get(METADATA)
            if text is not None and reader.known.info is None:
                reader.known = recall(text, path.name)
            found = reader.resolve(file.schema_arrow.names)
            yield from file.iter_batches(batch_size=BATCH, columns=list(found.used))
    except DataError:
        raise
    except Exception as error:  # Arrow raises many kinds on damaged files, OSError among them
        raise _unreadable(path, "Parquet", error) from error


def _csv(path: Path, reader: _Reader, delimiter: str | None) -> Iterator[Any]:
    csv = _pyarrow("pyarrow.csv")
    import pyarrow as pa

    try:
        header, ended = _ends(path)
        if not ended:
            reader.notes.add("no-newline", 1, path.name)
        chosen = delimiter or max(SEPARATORS, key=header.count)
        options = {
            "read_options": csv.ReadOptions(block_size=BLOCK, use_threads=False),
            "parse_options": csv.ParseOptions(delimiter=chosen),
        }
        with csv.open_csv(path, **options) as first:
            names = first.schema.names
        found = reader.resolve(names)
        types: dict[str, Any] = dict.fromkeys(found.numbers, pa.float32())
        for role in ("task", "episode", "split"):
            if role in found.single:
                types[found.single[role]] = pa.dictionary(pa.int32(), pa.string())
        for role in ("terminated", "truncated"):
            if role in found.single:
                types[found.single[role]] = pa.bool_()
        convert = csv.ConvertOptions(
            include_columns=list(found.used),
            column_types=types,
            true_values=["1", "1.0", "true", "True", "TRUE"],
            false_values=["0", "0.0", "false", "False", "FALSE"],
            strings_can_be_null=True,
        )
        with csv.open_csv(path, convert_options=convert, **options) as file:
            yield from file
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(path, "CSV", error) from error


def _ends(path: Path) -> tuple[str, bool]:
    """The first line of a file, and whether the last one ends; compressed files are taken to end."""
    if path.suffix in (".gz", ".bz2", ".zst", ".lz4", ".br"):
        import pyarrow as pa

        with pa.input_stream(str(path), compression="detect") as stream:
            return stream.read(BLOCK).split(b"\n")[0].decode("utf-8-sig"), True
    with open(path, "rb") as file:
        first = file.readline(BLOCK).decode("utf-8-sig")
        size = file.seek(0, 2)
        file.seek(max(size - 1, 0))
        return first, size == 0 or file.read(1) in (b"\n", b"\r")


def _unreadable(path: Path, kind: str, error: Exception) -> Exception:
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return StorageError(f"{path}: cannot be read ({error.strerror}). Check the path.")
    if isinstance(error, MemoryError):
        text = "it asks for more memory than there is"
    return DataError(
        f"{path.name}: not readable as {kind} ({type(error).__name__}: {text[:300]}). Correct the file, or fetch or"
        " write it again."
    )


def _pyarrow(module: str) -> Any:
    return require(module, "tables")
