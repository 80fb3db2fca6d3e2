"""One task's log as a Minari dataset (HDF5 backend), written and read in memory.

Layout, as Minari 0.5 reads it: a group `episode_<i>` per episode with `observations` (one row more than there
are steps), `actions`, `rewards`, `terminations`, `truncations`, `infos`, and beside the file a
`metadata.json`. The file is made here rather than by Minari's own writer because that one spends about 16 KB
and 2.4 ms on an episode of 20 steps (chunked, resizable data sets) and stamps times into the file. Here small
arrays lie inside their headers (2.6 KB, 0.6 ms), and the same log always gives the same bytes.
Needs h5py only; neither Minari nor Gymnasium is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from merpo.data.description import TaskEntry
from merpo.data.prepare import action_bounds
from merpo.data.types import SetInfo, TaskData, Transitions
from merpo.data.validation import FIELDS
from merpo.errors import DataError, StorageError

MINARI_VERSION = "0.5.2"
"""Version of Minari's format that is written, the oldest this package supports (newer ones read it)."""
COMPACT = 16_384
"""Arrays up to this many bytes go into the object header; HDF5's own limit for a header is 64 KiB."""
NEXT_OBS = "next_observation"
"""Info field with every step's successor, written only in tasks where some differ from the next row's obs."""


def require(module: str, extra: str = "data") -> ModuleType:
    """Import an optional package of an extra, or raise `StorageError` saying how to get it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise StorageError(
            f"The package {module!r} is needed to read and write {'tables' if extra == 'tables' else 'Minari data'} and"
            f" could not be imported ({error}). Install the extra: pip install 'merpo[{extra}]'."
        ) from error


def write_hdf5(task: TaskData) -> bytes:
    """The bytes of `main_data.hdf5` for a task that passes `validation.require_structure`."""
    h5py = require("h5py")
    plain = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    plain.set_obj_track_times(False)
    root = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    root.set_obj_track_times(False)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(block_size=1 << 20, backing_store=False)
    # compact groups and headers; readable since HDF5 1.10
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    file = h5py.h5f.create(b"in-memory", h5py.h5f.ACC_TRUNC, fcpl=root, fapl=access)

    make = _Maker(h5py)
    arrays = [np.asarray(getattr(task.transitions, name)) for name in FIELDS]
    chained = all(own.tobytes() == following.tobytes() for own, following in _inner_steps(task))
    for e, (a, b) in enumerate(_spans(task)):
        obs, action, reward, following, terminated, truncated = (x[a:b] for x in arrays)
        group = h5py.h5g.create(file, f"episode_{e}".encode(), gcpl=plain)
        make.attribute(group, b"id", e)
        make.attribute(group, b"total_steps", b - a)
        make.array(group, b"observations", np.concatenate([obs, following[-1:]]))
        make.array(group, b"actions", action)
        make.array(group, b"rewards", reward)
        make.array(group, b"terminations", terminated)
        make.array(group, b"truncations", truncated)
        infos = h5py.h5g.create(group, b"infos", gcpl=plain)
        if not chained:  # row 0 belongs to the reset, as in all Minari infos
            make.array(infos, NEXT_OBS.encode(), np.concatenate([obs[:1], following]))
    h5py.h5f.flush(file)
    image = file.get_file_image()
    file.close()
    return bytes(image)


def read_hdf5(image: bytes, episodes: int, where: str) -> tuple[Transitions, Int[np.ndarray, " episodes_plus_1"]]:
    """Transitions and episode bounds from the bytes of a file made by `write_hdf5`; `where` names it in
    errors.
    """
    h5py = require("h5py")
    try:
        file = h5py.h5f.open_file_image(image)
        parts, sizes = [], []
        for e in range(episodes):
            group = h5py.h5g.open(file, f"episode_{e}".encode())
            seen = _stored(h5py, group, b"observations")
            infos = h5py.h5g.open(group, b"infos")
            own = NEXT_OBS.encode() in infos
            following = (_stored(h5py, infos, NEXT_OBS.encode()) if own else seen)[1:]
            names = (b"actions", b"rewards", b"terminations", b"truncations")
            action, reward, terminated, truncated = (_stored(h5py, group, name) for name in names)
            parts.append((seen[:-1], action, reward, following, terminated, truncated))
            sizes.append(len(reward))
        file.close()
        transitions = Transitions(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    except Exception as error:  # a damaged file surfaces as OSError, KeyError, RuntimeError, ValueError, ...
        raise StorageError(
            f"{where} is not a readable Minari HDF5 file ({type(error).__name__}: {error}); expected"
            f" {episodes} episodes. Restore it from a copy, or generate the data set again."
        ) from error
    return transitions, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def metadata_json(task: TaskEntry, info: SetInfo, set_name: str, size: int, env_spec: str | None) -> str:
    """The text of Minari's `metadata.json`; `size` is that of the HDF5 file in bytes."""
    low, high = action_bounds(info)
    unbounded = np.full(info.obs_dim, np.inf)
    metadata: dict[str, Any] = {
        "total_episodes": task.episodes,
        "total_steps": task.rows,
        "data_format": "hdf5",
        "jpeg_encoding": True,
        "observation_space": _box(-unbounded, unbounded),
        "action_space": _box(low, high),
        "dataset_id": f"{set_name}/{task.folder}",
        "minari_version": MINARI_VERSION,
        "dataset_size": round(size / 1e6, 1),
        "description": f"Task {task.name} ({task.split}) of the merpo set {set_name}.",
        "merpo_set": set_name,
        "merpo_task": task.name,
        "merpo_split": task.split,
        "merpo_parameters": dict(task.parameters),
        "merpo_reference": dict(task.reference),
    }
    if env_spec is not None:
        metadata["env_spec"] = env_spec
    if {"random", "expert"} <= task.reference.keys():  # what minari.get_normalized_score looks for
        metadata["ref_min_score"] = task.reference["random"]
        metadata["ref_max_score"] = task.reference["expert"]
    return json.dumps(metadata, indent=1, sort_keys=True)


def spec_json(env_spec: Any, task: str) -> str:
    """An environment spec (a Gymnasium `EnvSpec`, or its JSON) as JSON; `DataError` when it is not
    serialisable.

    Minari itself would drop such a spec with a warning, and the environment could then never be recovered.
    """
    if not isinstance(env_spec, str):
        to_json = getattr(env_spec, "to_json", None)
        if to_json is None:
            raise DataError(
                f"env_spec of task {task!r} has type {type(env_spec).__name__}: expected a gymnasium EnvSpec"
                " or its JSON. Pass env.spec, or env.spec.to_json()."
            )
        try:
            return str(to_json())
        except (TypeError, ValueError) as error:
            raise DataError(
                f"env_spec of task {task!r} cannot be written as JSON ({error}): expected plain floats,"
                " strings and lists in its kwargs. Convert NumPy values with float(x) or x.tolist(), and"
                " name the entry point as text."
            ) from error
    try:
        content = json.loads(env_spec)
    except json.JSONDecodeError as error:
        raise DataError(f"env_spec of task {task!r} is not valid JSON ({error}). Pass env.spec.to_json().") from error
    if not isinstance(content, dict) or "id" not in content:
        raise DataError(
            f"env_spec of task {task!r} has no field 'id': expected the JSON of a gymnasium EnvSpec. Pass"
            " env.spec.to_json()."
        )
    return env_spec


def _spans(task: TaskData) -> Iterator[tuple[int, int]]:
    start = np.asarray(task.episode_start)
    return zip(start[:-1].tolist(), start[1:].tolist(), strict=True)


def _inner_steps(task: TaskData) -> Iterator[tuple[Float[np.ndarray, "_ obs"], Float[np.ndarray, "_ obs"]]]:
    """Per episode: the stored successors of all rows but the last, and the observations that follow them."""
    for a, b in _spans(task):
        yield np.asarray(task.transitions.next_obs)[a : b - 1], np.asarray(task.transitions.obs)[a + 1 : b]


def _box(low: np.ndarray, high: np.ndarray) -> str:
    """A one-dimensional float32 Box as Minari serialises it."""
    box = {
        "type": "Box",
        "dtype": "float32",
        "shape": list(low.shape),
        "low": low.tolist(),
        "high": high.tolist(),
    }
    return json.dumps(box)


class _Maker:
    """Makes attributes and arrays; what many of them share (layouts, types, shapes) is made once."""

    def __init__(self, h5py: Any):
        self.h5py = h5py
        self._create = {}
        for layout in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS):
            self._create[layout] = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            self._create[layout].set_obj_track_times(False)
            self._create[layout].set_layout(layout)
        self._scalar = h5py.h5s.create(h5py.h5s.SCALAR)
        self._spaces: dict[tuple[int, ...], Any] = {}
        self._types: dict[np.dtype, Any] = {}

    def attribute(self, group: Any, name: bytes, value: int) -> None:
        self.h5py.h5a.create(group, name, self.h5py.h5t.NATIVE_INT64, self._scalar).write(np.asarray(value, np.int64))

    def array(self, group: Any, name: bytes, x: np.ndarray) -> None:
        h5py = self.h5py
        x = np.ascontiguousarray(x)
        layout = h5py.h5d.COMPACT if x.nbytes <= COMPACT else h5py.h5d.CONTIGUOUS
        if x.dtype not in self._types:
            self._types[x.dtype] = h5py.h5t.py_create(x.dtype, logical=True)
        if x.shape not in self._spaces:
            self._spaces[x.shape] = h5py.h5s.create_simple(x.shape)
        space = self._spaces[x.shape]
        data = h5py.h5d.create(group, name, self._types[x.dtype], space, dcpl=self._create[layout])
        data.write(space, space, x)


def _stored(h5py: Any, group: Any, name: bytes) -> np.ndarray:
    # the low-level calls: h5py's File["..."][()] is several times slower on thousands of small arrays
    data = h5py.h5d.open(group, name)
    x = np.empty(data.shape, data.dtype)
    data.read(h5py.h5s.ALL, h5py.h5s.ALL, x)
    return x
