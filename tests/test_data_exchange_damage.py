"""Randomly damaged files of every format: a clear error, a reported repair, or exactly what the file says.

What a file says is established by a second reader of the test's own (the csv module, h5py, NumPy): a flipped bit that
makes another valid number cannot be told from that number, but nothing else may differ from what was stored. Where
SHA-256 sums lie beside the files, every change is noticed.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from focal_makers import write_focal
from merpo.data import TaskSet, import_set, load
from merpo.data.exchange.sums import write_sums
from merpo.errors import MerpoError
from test_data_makers import INFO, make_task, same

DAMAGES = 200
KEYS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
D4RL = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
DATA = TaskSet(INFO, (make_task("a", "train", (6, 3)), make_task("b", "train", (4, 6), 1)))


def table() -> dict[str, np.ndarray]:
    parts: dict[str, list] = {}
    for task in DATA:
        t, lengths = task.transitions, np.diff(task.episode_start)
        own = {
            "task": np.repeat(task.name, len(task)),
            "episode": np.repeat(np.arange(task.episodes), lengths),
            "step": np.concatenate([np.arange(n) for n in lengths]),
        }
        for key in KEYS:
            x = np.asarray(getattr(t, key))
            own |= {f"{key}_{i}": x[:, i] for i in range(x.shape[1])} if x.ndim == 2 else {key: x}
        for key, x in own.items():
            parts.setdefault(key, []).append(x)
    return {key: np.concatenate(x) for key, x in parts.items()}


def write_csv(folder: Path) -> None:
    columns = table()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([x.item() for x in row] for row in zip(*columns.values(), strict=True))
    (folder / "x.csv").write_text(out.getvalue())


def write_parquet(folder: Path) -> None:
    pq.write_table(pa.table(table()), folder / "x.parquet", compression="none", row_group_size=10)


def write_npz(folder: Path) -> None:
    for task in DATA:
        arrays = {k: np.asarray(getattr(task.transitions, k)) for k in KEYS}
        episode = np.repeat(np.arange(task.episodes), np.diff(task.episode_start))
        np.savez(folder / f"{task.name}.npz", allow_pickle=False, episode=episode, **arrays)


def write_d4rl(folder: Path) -> None:
    for task in DATA:
        with h5py.File(folder / f"{task.name}.hdf5", "w") as file:
            for key, name in zip(KEYS, D4RL, strict=True):
                file[name] = np.asarray(getattr(task.transitions, key))


def write_minari(folder: Path) -> None:
    from merpo.data import save

    path = save(DATA, "n/x", folder / "store")
    for part in sorted(p for p in path.iterdir() if p.is_dir()):
        shutil.copytree(part, folder / part.name)
    shutil.rmtree(folder / "store")


WRITERS = {
    "csv": write_csv,
    "parquet": write_parquet,
    "npz": write_npz,
    "d4rl": write_d4rl,
    "minari": write_minari,
    "focal": lambda folder: write_focal(folder, steps=(100,)),
}
Said = dict[str, dict[str, np.ndarray]]


def say_rows(rows: list[dict[str, object]]) -> Said:
    """Arrays by task from rows with the names of `table`."""
    tasks: dict[str, list] = {}
    for row in rows:
        tasks.setdefault(str(row["task"]), []).append(row)
    said = {}
    for name, own in tasks.items():
        said[name] = {}
        for key in KEYS:
            names = [c for c in own[0] if re.fullmatch(rf"{key}(_\d+)?", c)]
            x = np.array([[float(r[c]) for c in names] for r in own])
            said[name][key] = x if names[0] != key else x[:, 0]
    return said


def says(layout: str, folder: Path) -> Said:
    """What the files say, read without merpo."""
    if layout == "csv":
        truth = {"True": 1, "False": 0, "true": 1, "false": 0, "TRUE": 1, "FALSE": 0}
        rows = list(csv.DictReader(io.StringIO((folder / "x.csv").read_bytes().decode(), newline="")))
        return say_rows([{k: v if k == "task" else truth.get(v, v) for k, v in r.items()} for r in rows])
    if layout == "parquet":
        return say_rows(pq.read_table(folder / "x.parquet").to_pylist())
    if layout == "npz":
        return {p.stem: {k: x for k, x in np.load(p).items() if k in KEYS} for p in folder.glob("*.npz")}
    said: Said = {}
    if layout == "d4rl":
        for p in sorted(folder.glob("*.hdf5")):
            with h5py.File(p) as file:
                said[p.stem] = {k: file[n][()] for k, n in zip(KEYS, D4RL, strict=True)}
    elif layout == "minari":
        for p in sorted(folder.glob("task-*")):
            with h5py.File(p / "data/main_data.hdf5") as file:
                # as Minari chooses them: the episodes that the metadata counts
                own = [file[f"episode_{i}"] for i in range(len(file))]
                seen = [e["observations"][()] for e in own]
                arrays = [np.concatenate([x[:-1] for x in seen])]
                arrays += [np.concatenate([e[n][()] for e in own]) for n in ("actions", "rewards")]
                arrays += [np.concatenate([x[1:] for x in seen])]
                arrays += [np.concatenate([e[n][()] for e in own]) for n in ("terminations", "truncations")]
                said[p.name] = dict(zip(KEYS, arrays, strict=True))
    else:
        for p in sorted(folder.glob("goal_idx*")):
            files = sorted(p.iterdir())
            rows = np.concatenate([np.load(f, allow_pickle=True) for f in files])
            said[p.name] = {k: np.stack([np.ravel(r[j]) for r in rows]) for j, k in enumerate(KEYS[:4])}
            said[p.name]["reward"] = said[p.name]["reward"][:, 0]
    return said


def harm(content: bytes, rng: np.random.Generator, layout: str) -> tuple[str, bytes]:
    """One damage: its name, and the damaged file."""
    kinds = ["cut", "flip", "flip", "zero", "delete", "insert", "double"]
    if layout == "csv":
        kinds += [
            "rename",
            "type",
            "lose line",
            "repeat line",
            "swap lines",
            "lose field",
            "empty field",
            "duplicate name",
        ]
    if layout == "minari":
        kinds.remove("double")
    kind = str(rng.choice(kinds))
    x, at = bytearray(content), int(rng.integers(len(content)))
    if kind == "cut":
        return kind, bytes(x[:at])
    if kind == "flip":
        x[at] ^= 1 << int(rng.integers(8))
    elif kind == "zero":
        n = len(x[at : at + 16])
        x[at : at + n] = bytes(n)
    elif kind == "delete":
        del x[at : at + int(rng.integers(1, 40))]
    elif kind == "insert":
        x[at:at] = rng.bytes(int(rng.integers(1, 8)))
    elif kind == "double":
        x[at:at] = x[at : at + 50]
    else:
        lines = content.decode().split("\n")
        i, j = (int(k) for k in rng.integers(1, len(lines) - 1, 2))
        names, fields = lines[0].split(","), lines[i].split(",")
        c = int(rng.integers(len(names)))
        if kind == "rename":
            names[c] = names[c][:-1] + "x"
        elif kind == "duplicate name":
            names[c] = names[c - 1]
        elif kind == "type":
            fields[c] = "left"
        elif kind == "lose field":
            del fields[c]
        elif kind == "empty field":
            fields[c] = ""
        lines[0], lines[i] = ",".join(names), ",".join(fields)
        if kind == "lose line":
            del lines[i]
        elif kind == "repeat line":
            lines.insert(j, lines[i])
        elif kind == "swap lines":
            lines[i], lines[j] = lines[j], lines[i]
        return kind, "\n".join(lines).encode()
    return kind, bytes(x)


STRUCTURAL = ("rename", "type", "lengths", "lost", "nan")


def restructure(path: Path, layout: str, rng: np.random.Generator) -> str:
    """Write the file again, whole, but with an array renamed, of another type, too short, lost, or with a NaN."""
    kind = str(rng.choice(STRUCTURAL))

    def change(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        key = str(rng.choice(sorted(arrays)))
        x = arrays[key]
        if kind == "rename":
            return {(f"{k}x" if k == key else k): v for k, v in arrays.items()}
        if kind == "lost":
            return {k: v for k, v in arrays.items() if k != key}
        if kind == "lengths":
            return arrays | {key: x[: int(rng.integers(1, len(x)))]}
        if kind == "nan" and x.dtype.kind == "f":
            x = x.copy()
            x.flat[int(rng.integers(x.size))] = np.nan
            return arrays | {key: x}
        return arrays | {key: x.astype("S5")}

    if layout == "npz":
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, allow_pickle=False, **change(arrays))
    elif layout == "parquet":
        arrays = {k: np.array(v) for k, v in pq.read_table(path).to_pydict().items()}
        made = change(arrays)
        shortest = min(len(x) for x in made.values())
        pq.write_table(pa.table({k: x[:shortest] for k, x in made.items()}), path, compression="none")
    elif layout in ("d4rl", "minari"):
        with h5py.File(path, "r+") as file:
            group = file if layout == "d4rl" else file[str(rng.choice(sorted(file)))]
            arrays = {k: v[()] for k, v in group.items() if isinstance(v, h5py.Dataset)}
            made = change(arrays)
            for k in arrays:
                del group[k]
            for k, x in made.items():
                group[k] = x
    else:
        rows = np.load(path, allow_pickle=True)
        i, j = int(rng.integers(len(rows))), int(rng.integers(4))
        if kind == "rename":
            path.rename(path.with_name(path.name.replace("trj", "trk")))
            return kind
        if kind == "lost":
            rows = np.delete(rows, j, axis=1)
        else:
            rows[i, j] = {"type": "left", "lengths": np.zeros(7), "nan": np.nan * np.ones_like(rows[i, j])}[kind]
        np.save(path, rows, allow_pickle=True)
    return kind


def paths(layout: str, folder: Path) -> list[str]:
    return [str(p) for p in sorted(folder.glob("task-*"))] if layout == "minari" else [str(folder)]


def equal(stored: TaskSet, said: Said) -> bool:
    if sorted(t.name for t in stored) != sorted(said):
        return False
    for task in stored:
        for key, x in said[task.name].items():
            own = np.asarray(getattr(task.transitions, key), np.float64)
            with np.errstate(over="ignore"):
                expected = np.asarray(x, np.float64).astype(np.float32).astype(np.float64)
            if own.shape != expected.shape or not np.allclose(own, expected, rtol=1e-6, atol=0, equal_nan=True):
                return False
    return True


@pytest.mark.parametrize("layout", WRITERS)
def test_damage_is_an_error_or_reported_and_never_changes_the_data(layout, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    WRITERS[layout](folder)
    whole = import_set(paths(layout, folder), layout, "n/x", root=str(tmp_path / "s"))
    usual = {f.message for f in whole.findings}
    assert equal(load("n/x", tmp_path / "s"), says(layout, folder))
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "namespace_metadata.json")
    rng, seen = np.random.default_rng(7), Counter()
    for i in range(DAMAGES):
        path = files[i % len(files)]
        content = path.read_bytes()
        if layout != "csv" and i % 4 == 3 and path.suffix != ".json":
            kind = restructure(path, layout, rng)
        else:
            kind, broken = harm(content, rng, layout)
            path.write_bytes(broken)
        try:
            done = import_set(paths(layout, folder), layout, "n/x", root=str(tmp_path / "s"), overwrite=True)
        except MerpoError as error:
            seen["error"] += 1
            seen["unclear"] += len(str(error)) < 30 or "\n" in str(error)
        else:
            if {f.message for f in done.findings} - usual:
                seen["reported"] += 1
            else:
                seen["as it says"] += 1
                stored = load("n/x", tmp_path / "s")
                assert equal(stored, says(layout, folder)), f"{i}: {kind} in {path.name} changed the data silently"
        finally:
            path.write_bytes(content)
            for renamed in folder.rglob("trk_*"):
                renamed.unlink()
    assert seen.pop("unclear", 0) == 0
    assert sum(seen.values()) == DAMAGES
    assert seen["error"] + seen["reported"] >= DAMAGES // 4, seen
    again = import_set(paths(layout, folder), layout, "n/x", root=str(tmp_path / "s"), overwrite=True)
    assert again.steps == whole.steps


@pytest.mark.parametrize("layout", WRITERS)
def test_with_sums_every_change_is_noticed(layout, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    WRITERS[layout](folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    write_sums(folder, files)
    rng = np.random.default_rng(3)
    import_set(paths(layout, folder), layout, "n/x", root=str(tmp_path / "s"))
    before = load("n/x", tmp_path / "s")
    for i in range(25):
        path = files[i % len(files)]
        content = path.read_bytes()
        _, broken = harm(content, rng, layout)
        path.write_bytes(broken if broken != content else content + b"x")
        with pytest.raises(MerpoError, match="SHA-256 differs"):
            import_set(paths(layout, folder), layout, "n/x", root=str(tmp_path / "s"), overwrite=True)
        path.write_bytes(content)
    assert same(load("n/x", tmp_path / "s"), before)
