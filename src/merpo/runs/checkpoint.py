"""Checkpoints: any pytree's arrays in one safetensors file with JSON in its header. Loading executes no code.

Layout: each array leaf under its key path (`actor.net.layers.0.weight`), typed PRNG keys as their uint32 key
data, Python scalars as 0-d arrays; in the header under `merpo`, one JSON text with the format
version, the caller's meta and SHA-256 sums of both. Any safetensors reader can open the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from merpo.errors import ConfigError, StorageError
from merpo.files import storage_error, write_atomic
from merpo.runs.config import config_hash, diff, from_json, to_json

FORMAT = "merpo-checkpoint"
FORMAT_VERSION = 1
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_STORABLE = frozenset(_DTYPES.values())


def save_checkpoint(path: str | os.PathLike[str], tree: Any, meta: Mapping[str, Any], config: Any = None) -> None:
    """Write the array leaves of `tree` and the JSON `meta` to `path`, whole or not at all.

    `config`, a dataclass, is added to the meta as `config`, `config_type` and `config_hash`. Leaves that are
    not arrays or numbers (functions, strings) are not stored: `load_checkpoint` takes them from its `like`.
    Raises `ConfigError` for a meta that JSON cannot hold, `StorageError` when the file cannot be written.
    """
    arrays, keys = {}, {}
    for name, leaf in _named_leaves(tree):
        if _is_key(leaf):
            keys[name] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        arrays[name] = _to_numpy(name, leaf)
    full = dict(meta)
    if config is not None:
        full |= {
            "config": to_json(config),
            "config_type": type(config).__name__,
            "config_hash": config_hash(config),
        }
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": _digest(arrays), "keys": keys}
    try:
        full = json.loads(json.dumps(full, allow_nan=False))
        text = json.dumps(header | {"meta": full, "meta_sha256": _meta_digest(full, keys)})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"meta={meta!r}: expected values that JSON can hold ({error}).") from error
    write_atomic(path, save(arrays, metadata={"merpo": text}))


def fingerprint(tree: Any) -> str:
    """SHA-256 (64 hex digits) of the names, dtypes, shapes and values of a tree's arrays."""
    return _digest({name: _to_numpy(name, leaf) for name, leaf in _named_leaves(tree)})


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON meta of a checkpoint, without reading its arrays. Raises `StorageError` for other files."""
    return _read_header(Path(path))["meta"]


def load_checkpoint(path: str | os.PathLike[str], like: Any, config: Any = None) -> tuple[Any, dict[str, Any]]:
    """Read a checkpoint into the structure of `like`: `(tree, meta)`.

    `like` gives names, shapes and dtypes of the leaves, as arrays or `jax.ShapeDtypeStruct` (from
    `eqx.filter_eval_shape`), and the leaves that are not arrays. NumPy leaves come back as NumPy, numbers as
    numbers, all others as JAX arrays. With `config` the stored configuration must equal it; settings newer than
    the file count as their defaults.
    Raises `ConfigError` naming the first differing leaves and settings, `StorageError` for a missing,
    truncated, damaged or foreign file.
    """
    path = Path(path)
    header = _read_header(path)
    meta = header["meta"]
    if config is not None and not _is_of(meta, config):
        raise ConfigError(_other_configuration(path, "", meta, config))
    try:
        entries = deserialize(path.read_bytes())
    except OSError as error:
        raise storage_error(error, path, "read") from error
    except SafetensorError as error:
        raise StorageError(f"{str(path)!r} is damaged or truncated ({error}). Use another copy.") from error
    arrays = {name: _from_bytes(path, name, entry) for name, entry in entries}
    if _digest(arrays) != header["sha256"]:
        raise StorageError(f"{str(path)!r} is damaged: its arrays fail their checksum. Use another copy.")
    mismatch = _mismatches(like, arrays, header["keys"])
    if mismatch:
        raise ConfigError(_other_configuration(path, "; ".join(mismatch[:3]), meta, config))

    leaves, structure = jax.tree.flatten(like)
    restored = [
        _restore(leaf, arrays[name], header["keys"].get(name)) if _is_stored(leaf) else leaf
        for name, leaf in zip(_all_names(like), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, restored), meta


def _is_of(meta: Mapping[str, Any], config: Any) -> bool:
    """Whether a checkpoint was written with this configuration; settings that it does not know have their defaults."""
    if meta.get("config_hash") == config_hash(config):
        return True
    stored = meta.get("config")
    if not isinstance(stored, Mapping) or meta.get("config_type") != type(config).__name__:
        return False
    try:
        return config_hash(from_json(type(config), stored)) == config_hash(config)
    except ConfigError:
        return False


def _all_names(tree: Any) -> list[str]:
    paths = [p for p, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    return [jax.tree_util.keystr(p, simple=True, separator=".") or "value" for p in paths]


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    named = [(n, x) for n, x in zip(_all_names(tree), jax.tree.leaves(tree), strict=True) if _is_stored(x)]
    names = [n for n, _ in named]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise ConfigError(f"tree has two leaves named {twice!r}: rename a dictionary key that has a dot.")
    return named


def _is_stored(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct | bool | int | float)


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def _to_numpy(name: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise ConfigError(f"tree: leaf {name!r} is a ShapeDtypeStruct, it has no values to store.")
    array = np.asarray(leaf, order="C")  # keeps 0-d arrays 0-d, which np.ascontiguousarray does not
    if array.dtype.name not in _STORABLE:
        raise ConfigError(f"tree: leaf {name!r} has dtype {array.dtype}, expected {sorted(_STORABLE)}.")
    return array


def _from_bytes(path: Path, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise StorageError(f"{str(path)!r}: array {name!r} has the foreign dtype {entry['dtype']}.")
    dtype = jnp.dtype(_DTYPES[entry["dtype"]])
    return np.frombuffer(bytearray(entry["data"]), dtype).reshape(entry["shape"])


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name}:{arrays[name].dtype.name}:{arrays[name].shape};".encode())
        if arrays[name].size:
            total.update(arrays[name].reshape(-1).view(np.uint8).data)  # without a copy: states are large
    return total.hexdigest()


def _meta_digest(meta: Mapping[str, Any], keys: Mapping[str, str]) -> str:
    text = json.dumps([meta, keys], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_header(path: Path) -> dict[str, Any]:
    """The JSON text under `merpo` in the safetensors header, checked for format, version and file length."""
    try:
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            length = int.from_bytes(f.read(8), "little")
            raw = f.read(length) if 0 < length <= size - 8 else b""
    except OSError as error:
        raise storage_error(error, path, "read") from error
    foreign = StorageError(
        f"{str(path)!r} is not a whole merpo checkpoint: it is truncated or another kind of file. "
        "Give the path of a checkpoint.safetensors that merpo wrote."
    )
    try:
        table = json.loads(raw)
        header = json.loads(table.pop("__metadata__")["merpo"])
        end = max((entry["data_offsets"][1] for entry in table.values()), default=0)
        whole = header["format"] == FORMAT and size == 8 + length + end
        version = int(header["format_version"])
        complete = all(isinstance(header[k], dict) for k in ("meta", "keys")) and "sha256" in header
        sound = "meta_sha256" not in header or header["meta_sha256"] == _meta_digest(header["meta"], header["keys"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise foreign from error
    if not (whole and complete):
        raise foreign
    if version > FORMAT_VERSION:
        raise StorageError(
            f"{str(path)!r} has checkpoint format {version}, expected at most {FORMAT_VERSION}. Update merpo."
        )
    if not sound:
        raise StorageError(f"{str(path)!r} is damaged: its header fails its checksum. Use another copy.")
    return header


def _expected(leaf: Any) -> tuple[str, tuple[int, ...]]:
    """dtype name and shape a leaf has in the file (a key leaf: dtype `key`, shape of the keys)."""
    if _is_key(leaf):
        return "key", tuple(leaf.shape)
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return np.array(leaf).dtype.name, ()
    return jnp.dtype(leaf.dtype).name, tuple(leaf.shape)


def _mismatches(like: Any, arrays: Mapping[str, np.ndarray], keys: Mapping[str, str]) -> list[str]:
    wanted = {name: _expected(leaf) for name, leaf in _named_leaves(like)}
    found = {}
    for name, array in arrays.items():
        is_key = name in keys
        found[name] = ("key", array.shape[:-1]) if is_key else (array.dtype.name, array.shape)
    lines = []
    for name in [*wanted, *(n for n in found if n not in wanted)]:
        stored, needed = found.get(name), wanted.get(name)
        if stored != needed:
            lines.append(f"{name}: stored {_show(stored)}, expected {_show(needed)}")
    return lines


def _show(kind: tuple[str, tuple[int, ...]] | None) -> str:
    return "nothing" if kind is None else f"{kind[0]}[{','.join(map(str, kind[1]))}]"


def _restore(leaf: Any, array: np.ndarray, key_impl: str | None) -> Any:
    if key_impl is not None:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=key_impl)
    if isinstance(leaf, np.generic):
        return array[()]
    if isinstance(leaf, bool | int | float):
        return array.item()
    return array if isinstance(leaf, np.ndarray) else jnp.asarray(array)


def _other_configuration(path: Path, leaves: str, meta: Mapping[str, Any], config: Any) -> str:
    text = f"{str(path)!r}: this checkpoint belongs to another configuration"
    text += f": {leaves}." if leaves else "."
    stored = meta.get("config")
    if config is not None and isinstance(stored, Mapping):
        if meta.get("config_type") not in (None, type(config).__name__):
            text += f" It was written by a {meta['config_type']}, not a {type(config).__name__}."
        lines = diff(stored, config)
        text += f" Settings that differ (stored -> given): {', '.join(lines) if lines else 'none'}."
    return text + " Build the state from the stored configuration (read_meta), or give the right file."
